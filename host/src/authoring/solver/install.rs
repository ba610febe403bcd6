//! Installs a solver: a virtual environment with cvc5's Python package, and a program that speaks SMT-LIB by it.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cedar_policy_symcc::SmtLibScript as _;
use cedar_policy_symcc::solver::{Decision, Solver as Ask};
use tempfile::NamedTempFile;
use tokio::process::Command;

use super::{PROGRAM, Process, Solver, SolverError};

/// What is installed.
pub const PACKAGE: &str = "cvc5==1.4.2";
/// The same byte by byte: pip holds what it gets against these digests.
const REQUIREMENTS: &str = include_str!("requirements.txt");
/// The package has a library and no program.
const SCRIPT: &str = include_str!("smtlib.py");
/// For the problems that a new solver is tried on.
const LIMIT: Duration = Duration::from_secs(30);

/// What came of it.
#[derive(Debug)]
pub struct Installed {
    /// The program.
    pub program: PathBuf,
    /// Nothing had to be done.
    pub was_there: bool,
}

/// Installs the solver into a folder, or finds that it is there. `say` is told what begins.
///
/// # Errors
/// When Python, its virtual environments or the package are not to be had, or what was installed gives wrong answers.
pub async fn install(dir: &Path, say: &(dyn Fn(&'static str) + Sync)) -> Result<Installed, SolverError> {
    let failed =
        |what: &'static str| move |error: io::Error| SolverError::Install(format!("{what} {}: {error}", dir.display()));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed("cannot make the folder"))?;
    // The program is started from anywhere.
    let root = dir.canonicalize().map_err(failed("cannot find the folder"))?;
    let (program, script, python) = (root.join(PROGRAM), root.join("smtlib.py"), root.join("venv/bin/python"));
    let launcher = launcher(&python, &script);
    let is = |file: &Path, text: &str| fs::read(file).is_ok_and(|there| there == text.as_bytes());
    if is(&program, &launcher) && is(&script, SCRIPT) && try_out(&program).await.is_ok() {
        return Ok(Installed { program, was_there: true });
    }
    say("making a virtual environment of Python");
    run("python3", &["-I", "-m", "venv", "--clear"], &[&root.join("venv")]).await?;
    say("installing cvc5 with pip");
    let pip = ["-I", "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"];
    let wheels = ["--require-hashes", "--only-binary", ":all:", "--requirement"];
    let requirements = root.join("requirements.txt");
    write(&requirements, REQUIREMENTS, 0o644).map_err(failed("cannot write into"))?;
    run(&python, &[&pip[..], &wheels].concat(), &[&requirements]).await?;
    write(&script, SCRIPT, 0o644).map_err(failed("cannot write into"))?;
    // Last, so that nobody finds half an installation.
    write(&program, &launcher, 0o755).map_err(failed("cannot write into"))?;
    say("trying it");
    let tried = try_out(&program).await;
    if tried.is_err() {
        drop(fs::remove_file(&program));
    }
    tried.map(|()| Installed { program, was_there: false })
}

/// A program rather than a script with `#!`, which may hold neither spaces nor many characters.
fn launcher(python: &Path, script: &Path) -> String {
    let quoted = |path: &Path| format!("'{}'", path.display().to_string().replace('\'', r"'\''"));
    format!("#!/bin/sh\nexec {} -I {} \"$@\"\n", quoted(python), quoted(script))
}

fn write(file: &Path, text: &str, mode: u32) -> io::Result<()> {
    let dir = file.parent().unwrap_or(Path::new("."));
    let unnamed = NamedTempFile::new_in(dir)?;
    fs::write(unnamed.path(), text)?;
    fs::set_permissions(unnamed.path(), fs::Permissions::from_mode(mode))?;
    unnamed.persist(file)?;
    Ok(())
}

async fn run(program: impl AsRef<Path>, words: &[&str], paths: &[&Path]) -> Result<(), SolverError> {
    let program = program.as_ref();
    let shown = format!("{} {}", program.display(), words.join(" "));
    let output = Command::new(program).args(words).args(paths).kill_on_drop(true).output().await;
    let output = output.map_err(|error| SolverError::Install(format!("`{shown}` does not start: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    // Python's venv says on stdout what is missing.
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let tail: Vec<&str> = said.lines().rev().filter(|line| !line.trim().is_empty()).take(8).collect();
    let tail: String = tail.into_iter().rev().map(|line| format!("\n  {line}")).collect();
    Err(SolverError::Install(format!("`{shown}` failed:{tail}")))
}

/// Asks a problem with a solution and one without, and one that needs a reset between.
async fn try_out(program: &Path) -> Result<(), SolverError> {
    let wrong = |why: String| SolverError::Wrong { program: program.to_owned(), why };
    let mut process = Solver { program: program.to_owned(), limit: LIMIT }.start()?;
    for (bound, expected) in [("5", Decision::Sat), ("4", Decision::Unsat), ("6", Decision::Sat)] {
        let said = question(&mut process, bound).await.map_err(|error| wrong(error.to_string()))?;
        if said != expected {
            return Err(wrong(format!("it said {said:?} instead of {expected:?}")));
        }
    }
    Ok(())
}

/// Is there a number above 3 and below the bound?
async fn question(process: &mut Process, bound: &str) -> Result<Decision, cedar_policy_symcc::solver::SolverError> {
    let script = process.smtlib_input();
    script.reset().await?;
    script.set_logic("ALL").await?;
    script.declare_const("x", "Int").await?;
    script.assert("(> x 3)").await?;
    script.assert(&format!("(< x {bound})")).await?;
    process.check_sat().await
}
