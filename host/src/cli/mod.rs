//! The command line: reads it, runs the command, turns its end into an exit code. No rules of its own.

mod agent;
mod audit;
mod body;
mod check;
mod demo;
mod failure;
mod folders;
mod import;
mod mcp;
mod migrate;
mod migrate_store;
mod operate;
mod policy;
mod progress;
mod serve;
mod setup;
mod transport;

pub mod error;
pub mod output;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use futures::future::BoxFuture;

use error::{CliError, EXIT_USAGE};
use output::Output;

const AFTER_HELP: &str = "\
Examples:
  portreeve serve
  portreeve agent add claude-1 --type claude_code --profile claude_code_local
  portreeve lock acquire src/main.rs --agent claude-1 --json

Exit codes:
  0  done, or answered
  1  error: not reachable, not valid, not available
  2  the command line is not understood; nothing was asked
  3  denied by policy
  4  answered, but not done: a lock is held by another, there is no task, a name is taken
  `portreeve check` has codes of its own: 0 allow, 2 deny, 3 no decision";

/// Coordinates fleets of coding agents; no change gets past policy.
#[derive(Debug, Parser)]
#[command(name = "portreeve", version, max_term_width = 100, arg_required_else_help = true)]
#[command(after_help = AFTER_HELP)]
struct Cli {
    /// Print results as JSON
    #[arg(long, global = true, display_order = 900)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
    Migrate(migrate::Migrate),
    MigrateStore(migrate_store::MigrateStore),
    Setup(setup::Setup),
    Agent(agent::Agent),
    Mcp(mcp::Mcp),
    Check(check::Check),
    Audit(audit::Audit),
    Policy(policy::Policy),
    Demo(demo::Demo),
}

/// Runs the command that the process was started with. Boxed, so that all of it is compiled here, with the library, and not
/// once more with the binary.
#[must_use]
pub fn main() -> BoxFuture<'static, ExitCode> {
    Box::pin(run_command())
}

async fn run_command() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let is_check = is_check(&args);
    let matches = match command().try_get_matches_from(args) {
        Ok(matches) => matches,
        Err(shown) => return usage(&shown, is_check),
    };
    let output = Output::new(matches.get_flag("json"));
    let ended = match operate::find(&plain_command(), &matches) {
        Some((entry, matches)) => operate::run(entry, matches, &output).await,
        None => match Cli::from_arg_matches(&matches) {
            Ok(cli) => run(cli, &output).await,
            Err(shown) => return usage(&shown, is_check),
        },
    };
    ended.unwrap_or_else(|error| fail(&error, &output))
}

/// The whole command line: what is made by hand, and a command for every other operation.
fn command() -> clap::Command {
    operate::augment(plain_command())
}

/// What is made by hand.
fn plain_command() -> clap::Command {
    Cli::command()
}

/// Tells that the process could not even start a command.
pub fn cannot_start(error: &std::io::Error) {
    let cause = format!("cannot start the threads of the program: {error}");
    Output::new(false).error(&CliError::new(cause, "look at the limits on processes and memory (ulimit -a)"));
}

async fn run(cli: Cli, output: &Output) -> Result<ExitCode, CliError> {
    match cli.command {
        Command::Serve(command) => command.run(output).await,
        Command::Migrate(command) => command.run(output).await,
        Command::MigrateStore(command) => command.run(output).await,
        Command::Setup(command) => command.run(output).await,
        Command::Agent(command) => command.run(output).await,
        Command::Mcp(command) => command.run(output).await,
        Command::Check(command) => command.run(output).await,
        Command::Audit(command) => command.run(output).await,
        Command::Policy(command) => command.run(output).await,
        Command::Demo(command) => command.run(output).await,
    }
}

/// Programs get what the service answered, on stdout; everybody else, and every error without an answer, words on stderr.
fn fail(error: &CliError, output: &Output) -> ExitCode {
    match error.body.as_ref().filter(|_| output.json) {
        Some(body) => {
            if let Err(unwritable) = output.json(body) {
                output.error(&unwritable);
            }
        }
        None => output.error(error),
    }
    error.exit_code()
}

/// Help and version go to stdout and are no error; `check` has its own code for errors, since 2 means denied.
fn usage(shown: &clap::Error, is_check: bool) -> ExitCode {
    // Nobody is left to tell when the stream is gone.
    drop(shown.print());
    match shown.exit_code() {
        0 => ExitCode::SUCCESS,
        _ if is_check => ExitCode::from(check::EXIT_ERROR),
        _ => ExitCode::from(EXIT_USAGE),
    }
}

fn is_check(args: &[OsString]) -> bool {
    let command = args.iter().skip(1).find(|arg| !arg.to_string_lossy().starts_with('-'));
    command.is_some_and(|command| command == "check")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn every_command_says_what_it_does_and_shows_an_example() {
        let mut open = vec![command()];
        while let Some(command) = open.pop() {
            let name = command.get_name().to_owned();
            assert!(command.get_about().is_some(), "`{name}` does not say what it does");
            let example = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(example.contains("Example"), "`{name}` shows no example");
            assert!(example.contains("portreeve "), "`{name}` shows no example");
            open.extend(command.get_subcommands().cloned());
        }
    }

    #[test]
    fn errors_of_check_are_told_apart_from_denials() {
        let args = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert!(is_check(&args("portreeve --json check -x")));
        assert!(!is_check(&args("portreeve serve check")));
    }
}
