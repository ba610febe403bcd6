//! What a command tells the person who ran it when it does not work out.

use std::fmt;
use std::process::ExitCode;

use serde_json::Value;

/// The command line, or a file that it names, is not understood.
pub const EXIT_USAGE: u8 = 2;
/// Policy said no.
pub const EXIT_DENIED: u8 = 3;
/// The service answered that it did not do it: a lock is held, there is no task, a name is taken.
pub const EXIT_REFUSED: u8 = 4;

/// Why a command failed, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CliError {
    /// What went wrong, in words; may have several lines.
    pub cause: String,
    /// What to do next.
    pub next: String,
    /// The process' exit code.
    pub exit: u8,
    /// What the service answered, if it did: what programs read instead of the words.
    pub body: Option<Box<Value>>,
}

impl CliError {
    /// An error that ends the command with 1.
    #[must_use]
    pub fn new(cause: impl Into<String>, next: impl Into<String>) -> Self {
        Self { cause: cause.into(), next: next.into(), exit: 1, body: None }
    }

    /// The same error under another exit code.
    #[must_use]
    pub const fn with_exit(mut self, exit: u8) -> Self {
        self.exit = exit;
        self
    }

    /// The same error with the answer that it is about.
    #[must_use]
    pub fn with_body(mut self, body: &Value) -> Self {
        self.body = Some(Box::new(body.clone()));
        self
    }

    /// The exit code, as `main` returns it.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.exit)
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (next: {})", self.cause, self.next)
    }
}

impl std::error::Error for CliError {}
