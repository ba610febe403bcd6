//! `portreeve policy test`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};

use super::{Cache, bundle, component, explain};
use crate::authoring::coverage::Coverage;
use crate::authoring::junit;
use crate::authoring::source::{Policy as Text, Source};
use crate::authoring::testing::{CaseResult, TestRun, run, run_built, run_own};
use crate::cli::error::CliError;
use crate::cli::output::{Output, Tone, tame};
use crate::cli::progress::Progress;
use crate::engine::Engine;
use crate::engine::types::BundleFile;

/// How often `--watch` looks at the files.
const WATCH_PERIOD: Duration = Duration::from_millis(300);

/// Run a policy's decision tables and examples, through the component and both engines
///
/// Each case is decided by the component and natively: by the rules over the profiles, by the Cedar policies, and by both.
/// Tells what differs from the table, and which rules no case exercises. Exits with 1 when something differs.
/// Of a component without text, one of somebody's own making, only the tests that it runs itself are there.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  portreeve policy test ./policies --watch\n  portreeve policy test ./policies --format junit > policy.xml\n  portreeve policy test policy.wasm --min-coverage 90"
)]
pub(super) struct Test {
    /// The folder of the policy, a component file, or `default`
    #[arg(value_name = "POLICY")]
    policy: PathBuf,
    /// Run again whenever a file changes, until interrupted
    #[arg(long)]
    watch: bool,
    /// What to print; --json is the same as json
    #[arg(long, value_enum, default_value_t = Shape::Text)]
    format: Shape,
    /// Fail when fewer rules out of a hundred are exercised
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    min_coverage: Option<u8>,
    #[command(flatten)]
    cache: Cache,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Shape {
    Text,
    Json,
    Junit,
}

impl Test {
    pub(super) async fn run(self, output: &Output) -> Result<ExitCode, CliError> {
        let source = Source::named(&self.policy);
        let engine = self.cache.engine()?;
        if self.watch {
            return self.watch(&source, &engine, output).await;
        }
        let files = source.read().and_then(|policy| policy.files()).map_err(|error| explain(&error, &source))?;
        match files {
            Some(files) => self.once(&source, &engine, &files, output),
            None => self.own(&source, &engine, output),
        }
    }

    fn once(
        &self,
        source: &Source,
        engine: &Engine,
        files: &[BundleFile],
        output: &Output,
    ) -> Result<ExitCode, CliError> {
        let started = Instant::now();
        let ran = if let Ok(Text::Component(_)) = source.read() {
            let built = tokio::task::block_in_place(|| component(engine, source, output))?;
            tokio::task::block_in_place(|| run_built(&built, files))
        } else {
            let progress = Progress::new(output);
            tokio::task::block_in_place(|| run(engine, files, &|stage| progress.show(stage)))
        };
        let ran = ran.map_err(|error| explain(&error, source))?;
        self.tell(&ran, source, started.elapsed(), output)
    }

    /// A component without text runs its own tests; what they exercise is not known.
    fn own(&self, source: &Source, engine: &Engine, output: &Output) -> Result<ExitCode, CliError> {
        if self.min_coverage.is_some() {
            return Err(CliError::new(
                "the component carries no text, so nobody knows which of its rules its tests exercise",
                "leave --min-coverage out",
            ));
        }
        let started = Instant::now();
        let built = tokio::task::block_in_place(|| component(engine, source, output))?;
        let ran = tokio::task::block_in_place(|| run_own(&built)).map_err(|error| explain(&error, source))?;
        self.tell(&ran, source, started.elapsed(), output)
    }

    fn tell(&self, ran: &TestRun, source: &Source, took: Duration, output: &Output) -> Result<ExitCode, CliError> {
        match self.format {
            _ if output.json => output.json(ran)?,
            Shape::Json => Output::new(true).json(ran)?,
            Shape::Junit => {
                let next = "use --format json";
                let text =
                    junit::report(ran).map_err(|error| CliError::new(format!("no JUnit report: {error}"), next))?;
                output.line(text.trim_end())?;
            }
            Shape::Text => print(ran, source.folder(), took, output)?,
        }
        let least = usize::from(self.min_coverage.unwrap_or(0));
        if ran.passed() && ran.coverage.percent() < least {
            return Err(CliError::new(
                format!("the cases exercise {} % of the rules, {least} % are asked for", ran.coverage.percent()),
                "write cases for the rules that are named above, under decisions/",
            ));
        }
        Ok(if ran.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// Runs whenever the files change. A policy that does not load is told, and waited for.
    async fn watch(&self, source: &Source, engine: &Engine, output: &Output) -> Result<ExitCode, CliError> {
        let mut last: Option<Result<Vec<BundleFile>, CliError>> = None;
        // From the beginning on, so that none is lost that comes while the cases run.
        let mut interrupts = signal(SignalKind::interrupt())
            .map_err(|error| CliError::new(format!("cannot listen for Ctrl-C: {error}"), "run it without --watch"))?;
        loop {
            let now = bundle(source);
            if last.as_ref() != Some(&now) {
                if last.is_some() {
                    output.note("");
                }
                let ended = match &now {
                    Ok(files) => self.once(source, engine, files, output).map(|_| ()),
                    Err(error) => Err(error.clone()),
                };
                if let Err(error) = ended {
                    output.error(&error);
                }
                output.note("watching for changes; Ctrl-C ends");
                last = Some(now);
            }
            tokio::select! {
                () = tokio::time::sleep(WATCH_PERIOD) => {}
                _ = interrupts.recv() => return Ok(ExitCode::SUCCESS),
            }
            if output.is_reader_gone() {
                return Ok(ExitCode::SUCCESS);
            }
        }
    }
}

fn print(ran: &TestRun, folder: Option<&Path>, took: Duration, output: &Output) -> Result<(), CliError> {
    for case in ran.cases.iter().filter(|case| !case.failures.is_empty()) {
        print_failure(case, folder, output)?;
    }
    let is_told =
        |name: &str| ran.cases.iter().any(|case| !case.failures.is_empty() && name.contains(case.name.as_str()));
    for failure in ran.own_failures.iter().filter(|failure| !is_told(&failure.name)) {
        output.line(format_args!("{} {}", output.paint(Tone::Bad, "FAIL"), tame(&failure.name)))?;
        output.line(format_args!("  expected {}", tame(&failure.expected)))?;
        output.line(format_args!("  got      {}", tame(&failure.actual)))?;
    }
    if ran.cases.is_empty() && ran.coverage.rules == 0 {
        return print_own(ran, took, output);
    }
    print_coverage(&ran.coverage, output)?;
    let failed = ran.cases.iter().filter(|case| !case.failures.is_empty()).count();
    let cases = ran.cases.len();
    let (tone, word) = match failed {
        0 if ran.passed() => (Tone::Good, format!("{cases} cases as promised")),
        _ => (
            Tone::Bad,
            format!("{failed} of {cases} cases differ, {} of the component's own checks", ran.own_failures.len()),
        ),
    };
    let word = output.paint(tone, word);
    output.line(format_args!(
        "{}: {word}, each by the component and both engines; {} checks by the component itself; {:.1} s",
        tame(&ran.bundle),
        ran.own_passed,
        took.as_secs_f64(),
    ))
}

/// All that there is to say of a component without text.
fn print_own(ran: &TestRun, took: Duration, output: &Output) -> Result<(), CliError> {
    let (tone, word) = match ran.own_failures.len() {
        0 => (Tone::Good, format!("{} cases as promised", ran.own_passed)),
        failed => (Tone::Bad, format!("{failed} cases differ")),
    };
    let word = output.paint(tone, word);
    let (bundle, seconds) = (tame(&ran.bundle), took.as_secs_f64());
    output.line(format_args!("{bundle}: {word}, all run by the component itself: it carries no text; {seconds:.1} s"))
}

fn print_failure(case: &CaseResult, folder: Option<&Path>, output: &Output) -> Result<(), CliError> {
    let file = folder.map_or_else(|| case.file.clone(), |folder| folder.join(&case.file).display().to_string());
    let place = format!("{file}:{}", case.line);
    output.line(format_args!("{} {} {}", output.paint(Tone::Bad, "FAIL"), tame(&place), tame(&case.name)))?;
    let mut said: Vec<(&str, &str)> = Vec::new();
    for failure in &case.failures {
        let what = (failure.expected.as_str(), failure.actual.as_str());
        if said.contains(&what) {
            continue;
        }
        said.push(what);
        let by: Vec<&str> = case
            .failures
            .iter()
            .filter(|other| (other.expected.as_str(), other.actual.as_str()) == what)
            .map(|other| other.decider.name())
            .collect();
        output.line(format_args!("  expected {}", tame(what.0)))?;
        output.line(format_args!("  decided  {}  ({})", tame(what.1), by.join(", ")))?;
    }
    Ok(())
}

fn print_coverage(coverage: &Coverage, output: &Output) -> Result<(), CliError> {
    let text = format!("{} of {} rules are exercised by some case", coverage.exercised, coverage.rules);
    output.line(output.paint(Tone::Faint, text))?;
    let lists = [
        ("Cedar policies", &coverage.policies),
        ("patterns", &coverage.patterns),
        ("profile rules", &coverage.profile_rules),
        ("network rules", &coverage.network_rules),
    ];
    for (what, rules) in lists.into_iter().filter(|(_, rules)| !rules.is_empty()) {
        output.line(output.paint(Tone::Faint, format_args!("  no case for {what}: {}", tame(&rules.join("; ")))))?;
    }
    Ok(())
}
