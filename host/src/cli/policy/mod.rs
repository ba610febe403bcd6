//! `portreeve policy`: what a policy bundle says of itself, and what a change of it means.

mod describe;
mod diff;
mod solver;

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::error::CliError;
use super::output::Output;
use crate::telemetry;

/// Look at policy bundles, and compare them
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  portreeve policy describe\n  portreeve policy diff default ./policies")]
pub(super) struct Policy {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Describe(describe::Describe),
    Diff(diff::Diff),
    Solver(solver::Solver),
}

impl Policy {
    pub(super) async fn run(self, output: &Output) -> Result<ExitCode, CliError> {
        telemetry::init_logs("warn");
        match self.action {
            Action::Describe(command) => command.run(output),
            Action::Diff(command) => command.run(output).await,
            Action::Solver(command) => command.run(output).await,
        }
    }
}
