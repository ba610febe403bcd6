//! One process of the solver.

use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use cedar_policy_symcc::SmtLibScript as _;
use cedar_policy_symcc::solver::{Decision, DecisionWithModel, Solver as Ask, SolverError as Failure};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use super::{Solver, SolverError};

/// Longest line of an answer. A model has one for each function, with a table of all that the solver made up.
const LINE_BYTES_MAX: u64 = 1 << 20;
/// Most bytes of a model.
const MODEL_BYTES_MAX: usize = 8 << 20;
/// Deepest parentheses of a model: whoever reads it does so on a stack.
const MODEL_DEPTH_MAX: usize = 1_000;
/// What a process may take beyond its own limit, to start and to print.
const GRACE: Duration = Duration::from_secs(5);
/// What a solver may need of the environment. Keys and passwords are none of its business.
const VARIABLES: [&str; 4] = ["PATH", "LD_LIBRARY_PATH", "HOME", "LANG"];

/// A running solver. It is killed when this is dropped.
#[derive(Debug)]
pub(in crate::authoring) struct Process {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    /// What is to be sent with the next question.
    script: Vec<u8>,
    limit: Duration,
    /// It failed once: what it says from now on may be the answer to another question.
    broken: bool,
}

impl Solver {
    /// Starts a process.
    ///
    /// # Errors
    /// When it does not start.
    pub(in crate::authoring) fn start(&self) -> Result<Process, SolverError> {
        let unstartable = |source| SolverError::Unstartable { program: self.program.clone(), source };
        Process::start(&self.program, self.limit).map_err(unstartable)
    }
}

impl Process {
    fn start(program: &Path, limit: Duration) -> io::Result<Self> {
        let mut command = Command::new(program);
        let kept = VARIABLES.into_iter().filter_map(|name| std::env::var_os(name).map(|value| (name, value)));
        command.env_clear().envs(kept);
        // The limit is for each question: `--tlimit` would be for all of them together.
        command.args(["--lang", "smt"]).arg(format!("--tlimit-per={}", limit.as_millis()));
        // Nobody reads what it says on stderr, and a pipe that nobody reads would stop it.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let mut child = command.spawn()?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("it has no stdin or stdout"));
        };
        Ok(Self { child, stdin, stdout: BufReader::new(stdout), script: Vec::new(), limit, broken: false })
    }

    /// Whether a new process is needed for the next question.
    pub(in crate::authoring) const fn is_broken(&self) -> bool {
        self.broken
    }

    /// Ends it, since an answer is left that nobody reads.
    pub(in crate::authoring) fn give_up(&mut self) {
        self.broken = true;
        // It may be gone already; the runtime reaps it.
        drop(self.child.start_kill());
    }

    /// Sends the script and reads an answer, within the limit.
    async fn ask(&mut self, with_model: bool) -> Result<DecisionWithModel, Failure> {
        if self.broken {
            return Err(Failure::SolverMarkedFailed);
        }
        let limit = self.limit.saturating_add(GRACE);
        let answered = match timeout(limit, self.answer(with_model)).await {
            Ok(answered) => answered,
            Err(_) => Err(Failure::Solver("it did not answer in time".to_owned())),
        };
        if answered.is_err() {
            self.give_up();
        }
        answered
    }

    async fn answer(&mut self, with_model: bool) -> Result<DecisionWithModel, Failure> {
        if !self.stdout.buffer().is_empty() {
            return Err(Failure::UnrecognizedSolverOutput("it spoke before it was asked".to_owned()));
        }
        self.send().await?;
        match self.line().await?.trim() {
            "unsat" => Ok(DecisionWithModel::Unsat),
            "unknown" => Ok(DecisionWithModel::Unknown),
            "sat" if with_model => {
                self.script.get_model().await?;
                self.send().await?;
                Ok(DecisionWithModel::Sat { model: self.model().await? })
            }
            "sat" => Ok(DecisionWithModel::Sat { model: String::new() }),
            other => Err(Failure::UnrecognizedSolverOutput(shown(other))),
        }
    }

    async fn send(&mut self) -> io::Result<()> {
        let script = std::mem::take(&mut self.script);
        self.stdin.write_all(&script).await?;
        self.stdin.flush().await
    }

    async fn model(&mut self) -> Result<String, Failure> {
        let mut model = self.line().await?;
        if model.trim() != "(" {
            return Err(Failure::UnrecognizedSolverOutput(shown(&model)));
        }
        let mut depth: usize = 1;
        loop {
            let line = self.line().await?;
            for byte in line.bytes() {
                depth = match byte {
                    b'(' => depth.saturating_add(1),
                    b')' => depth.saturating_sub(1),
                    _ => depth,
                };
                if depth > MODEL_DEPTH_MAX {
                    return Err(Failure::UnrecognizedSolverOutput("a model that is nested too deeply".to_owned()));
                }
            }
            model.push_str(&line);
            if line.trim() == ")" {
                return Ok(model);
            }
            if model.len() > MODEL_BYTES_MAX {
                return Err(Failure::UnrecognizedSolverOutput("a model without end".to_owned()));
            }
        }
    }

    async fn line(&mut self) -> Result<String, Failure> {
        let mut line = String::new();
        let mut bounded = (&mut self.stdout).take(LINE_BYTES_MAX);
        if bounded.read_line(&mut line).await? == 0 {
            return Err(Failure::Solver("it ended".to_owned()));
        }
        if !line.ends_with('\n') {
            return Err(Failure::UnrecognizedSolverOutput(format!("an unfinished line: {}", shown(&line))));
        }
        Ok(line)
    }
}

fn shown(text: &str) -> String {
    text.trim().chars().take(120).collect()
}

impl Ask for Process {
    fn smtlib_input(&mut self) -> &mut (dyn AsyncWrite + Unpin + Send) {
        &mut self.script
    }

    async fn enable_models(&mut self) -> Result<(), Failure> {
        self.script.set_option("produce-models", "true").await.map_err(Failure::from)
    }

    async fn check_sat(&mut self) -> Result<Decision, Failure> {
        self.script.check_sat().await?;
        Ok(match self.ask(false).await? {
            DecisionWithModel::Sat { .. } => Decision::Sat,
            DecisionWithModel::Unsat => Decision::Unsat,
            DecisionWithModel::Unknown => Decision::Unknown,
        })
    }

    async fn check_sat_with_model(&mut self) -> Result<DecisionWithModel, Failure> {
        self.script.check_sat().await?;
        self.ask(true).await
    }
}
