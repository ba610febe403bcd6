//! The SMT solver: cvc5, as a program that speaks SMT-LIB on stdin and stdout.
//!
//! What it says is taken as a stranger's word. It has a limit for each question, it is killed when it is no longer wanted,
//! and no line of it is read without bound. "sat" comes with a request that is checked by Cedar's authorizer. "unsat" cannot
//! be checked so, which is why every run asks questions whose answers are known beside those that are not.

mod install;
mod process;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use install::{Installed, PACKAGE, install};
pub(super) use process::Process;

/// The variable that names the program.
pub const VARIABLE: &str = "CVC5";
/// The name of the program.
const PROGRAM: &str = "cvc5";
/// The folder below the cache that `install` fills.
const FOLDER: &str = "solver";

/// Why there is no solver to ask, or none that can be believed.
#[derive(Debug, thiserror::Error)]
pub enum SolverError {
    /// None is installed.
    #[error("there is no SMT solver: nothing was proven")]
    Missing,
    /// The variable names something else.
    #[error("{VARIABLE} names {}, which is not a program: nothing was proven", .0.display())]
    NotAProgram(PathBuf),
    /// It does not start.
    #[error("the solver {} does not start: {source}", program.display())]
    Unstartable {
        /// The program.
        program: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// It failed at a question whose answer is known.
    #[error("the solver {} failed at a question whose answer is known ({why}): nothing it says counts", program.display())]
    Wrong {
        /// The program.
        program: PathBuf,
        /// What it said instead.
        why: String,
    },
    /// It could not be installed.
    #[error("the solver could not be installed: {0}")]
    Install(String),
}

/// A solver to start, and how long it may think about one question.
#[derive(Debug, Clone)]
pub struct Solver {
    /// The program.
    pub program: PathBuf,
    /// For one question.
    pub limit: Duration,
}

/// The folder that `install` fills when nobody names another.
#[must_use]
pub fn folder(cache: &Path) -> PathBuf {
    cache.join(FOLDER)
}

/// The solver's program: what the variable names, what was installed, or what `PATH` has.
///
/// # Errors
/// When there is none. What the variable names is not replaced by another.
pub fn find(folder: &Path) -> Result<PathBuf, SolverError> {
    if let Some(named) = std::env::var_os(VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from) {
        return if named.is_file() { Ok(named) } else { Err(SolverError::NotAProgram(named)) };
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    // An entry that is empty or relative would be looked up in the folder of whoever wrote the bundle.
    let places = std::env::split_paths(&path).filter(|dir| dir.is_absolute()).collect::<Vec<_>>();
    let found =
        std::iter::once(folder.to_owned()).chain(places).map(|dir| dir.join(PROGRAM)).find(|file| file.is_file());
    found.ok_or(SolverError::Missing)
}
