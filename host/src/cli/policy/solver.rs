//! `portreeve policy solver`: the SMT solver that proofs need.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::json;

use crate::authoring::solver::{self, Installed, PACKAGE, SolverError};
use crate::cli::error::CliError;
use crate::cli::folders;
use crate::cli::output::{Output, Tone};

/// The solver that `policy diff` proves with
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  portreeve policy solver install")]
pub(super) struct Solver {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Install(Install),
}

/// Install cvc5 into the cache folder, where `policy diff` finds it
///
/// Makes a virtual environment of Python there, installs the package cvc5 with pip in the version that this program was tested
/// with (a wheel whose digest it knows, and no other file), writes a small program beside it that speaks SMT-LIB, and tries that. Done again it only looks. Needs python3 with
/// venv (Debian: python3-venv), and pip's way to a package index. A cvc5 of your own is used instead where the variable CVC5
/// names it; one in PATH is used where none is installed here.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  portreeve policy solver install")]
struct Install {
    /// Where compiled policies and the solver are kept [env: PORTREEVE_CACHE] [default: ~/.cache/portreeve]
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
}

impl Solver {
    pub(super) async fn run(self, output: &Output) -> Result<ExitCode, CliError> {
        let Action::Install(install) = self.action;
        let folder = solver::folder(&folders::cache(install.cache)?);
        let installed = solver::install(&folder, &|text| output.note(text)).await.map_err(|error| explain(&error))?;
        print(&installed, output)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn print(installed: &Installed, output: &Output) -> Result<(), CliError> {
    let Installed { program, was_there } = installed;
    if output.json {
        return output.json(&json!({ "program": program, "package": PACKAGE, "was_there": was_there }));
    }
    let done = if *was_there { "is there and works" } else { "is installed and works" };
    output.line(format_args!("{PACKAGE} {}: {}", output.paint(Tone::Good, done), program.display()))
}

/// What to do about a solver that is not there, or is none.
pub(super) fn explain(error: &SolverError) -> CliError {
    let next = match error {
        SolverError::Missing => "install one: portreeve policy solver install",
        SolverError::NotAProgram(_) => "let CVC5 name the program cvc5, or unset it to use what is installed",
        SolverError::Unstartable { .. } | SolverError::Wrong { .. } => {
            "install it anew (portreeve policy solver install), and look at what CVC5 names"
        }
        SolverError::Install(_) => {
            "see that python3 can make virtual environments (Debian: apt install python3-venv) and that pip reaches a package index"
        }
    };
    CliError::new(error.to_string(), next)
}
