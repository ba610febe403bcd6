//! Tells people what takes seconds: a spinner or a bar on a terminal, lines elsewhere.

use std::io::{self, IsTerminal};
use std::sync::OnceLock;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::output::Output;
use crate::engine::Stage;
use crate::replay;
use crate::store::Step;

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

/// Shows that a service is at work, on stderr until it is dropped.
pub(super) struct Waiting(Option<ProgressBar>);

impl Waiting {
    pub(super) fn new(output: &Output, text: &'static str) -> Self {
        if !io::stderr().is_terminal() {
            output.note(text);
            return Self(None);
        }
        let spinner = ProgressBar::new_spinner();
        spinner.enable_steady_tick(TICK);
        spinner.set_message(text);
        Self(Some(spinner))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(spinner) = &self.0 {
            spinner.finish_and_clear();
        }
    }
}

/// Shows how far a store's move is, on stderr until it is dropped.
pub(super) struct Moving<'a> {
    output: &'a Output,
    bar: Option<ProgressBar>,
    said: &'static str,
}

impl<'a> Moving<'a> {
    pub(super) fn new(output: &'a Output) -> Self {
        let bar = io::stderr().is_terminal().then(|| ProgressBar::new(0));
        Self { output, bar, said: "" }
    }

    /// A step is done, or begins.
    pub(super) fn show(&mut self, step: Step) {
        let (text, at, of) = match step {
            Step::Log(at, of) => ("copying the audit log", at, of),
            Step::Verified(at, of) => ("verifying it there", at, of),
            Step::State => ("copying the tables", 0, 0),
        };
        let begins = text != self.said;
        self.said = text;
        match &self.bar {
            None if begins && of > 0 => self.output.note(format_args!("{text}: {of} rows")),
            None if begins => self.output.note(text),
            None => {}
            Some(bar) => {
                if begins {
                    bar.reset();
                    bar.set_style(style(of));
                    bar.set_message(text);
                }
                bar.set_length(of);
                bar.set_position(at);
            }
        }
    }
}

/// How a step is drawn; one that does not know how far it is has a spinner only.
fn style(of: u64) -> ProgressStyle {
    let style = match of {
        0 => ProgressStyle::with_template("{msg:24} {spinner}"),
        _ => ProgressStyle::with_template("{msg:24} {bar:30} {human_pos}/{human_len} rows, {per_sec:.0}, {eta} left"),
    };
    style.unwrap_or_else(|_| ProgressStyle::default_bar())
}

impl Drop for Moving<'_> {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Shows how far a proof is, on stderr until it is dropped.
pub(super) struct Proving<'a> {
    output: &'a Output,
    bar: Option<ProgressBar>,
}

impl<'a> Proving<'a> {
    pub(super) fn new(output: &'a Output) -> Self {
        let style = ProgressStyle::with_template("{msg} {bar:30} {pos}/{len}, {elapsed}");
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = io::stderr().is_terminal().then(|| ProgressBar::new(0).with_style(style));
        Self { output, bar: bar.map(|bar| bar.with_message("proving")) }
    }

    /// So many environments of so many are done.
    pub(super) fn show(&self, at: usize, of: usize) {
        match &self.bar {
            None if at == 0 => self.output.note(format_args!("proving: {of} request environments")),
            None => {}
            Some(bar) => {
                bar.set_length(u64::try_from(of).unwrap_or(u64::MAX));
                bar.set_position(u64::try_from(at).unwrap_or(u64::MAX));
            }
        }
    }
}

impl Drop for Proving<'_> {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Shows how far a replay of the log is, on a terminal, until it is dropped.
pub(super) struct Replaying(Option<ProgressBar>);

impl Replaying {
    pub(super) fn new() -> Self {
        let bar = io::stderr().is_terminal().then(|| ProgressBar::new(0).with_style(style(1)));
        Self(bar.map(|bar| bar.with_message("asking again")))
    }

    pub(super) fn show(&self, progress: replay::Progress) {
        if let Some(bar) = &self.0 {
            bar.set_length(progress.of);
            bar.set_position(progress.done);
        }
    }
}

impl Drop for Replaying {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
