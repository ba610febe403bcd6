//! The command line: reads it, runs the command, turns its end into an exit code. No rules of its own.

mod agent;
mod audit;
mod body;
mod check;
mod demo;
mod failure;
mod folders;
mod mcp;
mod policy;
mod progress;
mod serve;
mod transport;

pub mod error;
pub mod output;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use error::CliError;
use output::Output;

/// Exit code of a command line that is not understood.
const EXIT_USAGE: u8 = 2;

/// Coordinates fleets of coding agents; no change gets past policy.
#[derive(Debug, Parser)]
#[command(name = "portreeve", version, max_term_width = 100, arg_required_else_help = true)]
#[command(
    after_help = "Example:\n  portreeve serve\n  portreeve agent add claude-1 --type claude_code --profile claude_code_local"
)]
struct Cli {
    /// Print results as JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
    Agent(agent::Agent),
    Mcp(mcp::Mcp),
    Check(check::Check),
    Audit(audit::Audit),
    Policy(policy::Policy),
    Demo(demo::Demo),
}

/// Runs the command that the process was started with.
pub async fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let is_check = is_check(&args);
    match Cli::try_parse_from(args) {
        Ok(cli) => run(cli).await,
        Err(shown) => usage(&shown, is_check),
    }
}

/// Tells that the process could not even start a command.
pub fn cannot_start(error: &std::io::Error) {
    let cause = format!("cannot start the threads of the program: {error}");
    Output::new(false).error(&CliError::new(cause, "look at the limits on processes and memory (ulimit -a)"));
}

async fn run(cli: Cli) -> ExitCode {
    let output = Output::new(cli.json);
    let ended = match cli.command {
        Command::Serve(command) => command.run(&output).await,
        Command::Agent(command) => command.run(&output).await,
        Command::Mcp(command) => command.run(&output).await,
        Command::Check(command) => command.run(&output).await,
        Command::Audit(command) => command.run(&output).await,
        Command::Policy(command) => command.run(&output).await,
        Command::Demo(command) => command.run(&output).await,
    };
    ended.unwrap_or_else(|error: CliError| {
        output.error(&error);
        error.exit_code()
    })
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
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_says_what_it_does_and_shows_an_example() {
        let mut open = vec![Cli::command()];
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
