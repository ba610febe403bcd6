//! What a command tells the person who ran it when it does not work out.

use std::fmt;
use std::process::ExitCode;

/// Why a command failed, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CliError {
    /// What went wrong, in words; may have several lines.
    pub cause: String,
    /// What to do next.
    pub next: String,
    /// The process' exit code.
    pub exit: u8,
}

impl CliError {
    /// An error that ends the command with 1.
    #[must_use]
    pub fn new(cause: impl Into<String>, next: impl Into<String>) -> Self {
        Self { cause: cause.into(), next: next.into(), exit: 1 }
    }

    /// The same error under another exit code.
    #[must_use]
    pub const fn with_exit(mut self, exit: u8) -> Self {
        self.exit = exit;
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
