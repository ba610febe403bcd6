//! Tells people what takes seconds: a spinner on a terminal, lines elsewhere.

use std::io::{self, IsTerminal};
use std::sync::OnceLock;
use std::time::Duration;

use indicatif::ProgressBar;

use super::output::Output;
use crate::engine::Stage;

const TICK: Duration = Duration::from_millis(100);

/// Shows stages on stderr until it is dropped.
pub(super) struct Progress<'a> {
    output: &'a Output,
    spinner: OnceLock<ProgressBar>,
}

impl<'a> Progress<'a> {
    pub(super) const fn new(output: &'a Output) -> Self {
        Self { output, spinner: OnceLock::new() }
    }

    /// A stage begins.
    pub(super) fn show(&self, stage: Stage) {
        let text = match stage {
            Stage::Loading => "loading the policy bundle into its component (once per bundle, some seconds)",
            Stage::Compiling => "compiling the policy component (once, some seconds; kept in the cache)",
        };
        if !io::stderr().is_terminal() {
            self.output.note(text);
            return;
        }
        let spinner = self.spinner.get_or_init(ProgressBar::new_spinner);
        spinner.enable_steady_tick(TICK);
        spinner.set_message(text);
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        if let Some(spinner) = self.spinner.get() {
            spinner.finish_and_clear();
        }
    }
}
