//! Where commands print: JSON for programs, text and tables for people.
//!
//! Results go to stdout, everything else to stderr. A reader that goes away
//! (`portreeve audit tail | head`) is no error.

use std::fmt::Display;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use comfy_table::{Table, presets};
use owo_colors::OwoColorize;
use serde::Serialize;

use super::error::CliError;
use crate::domain::hidden::is_hidden;

/// There is one stdout, and so one reader of it.
static READER_GONE: AtomicBool = AtomicBool::new(false);

/// How a command prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Output {
    /// Whether results are JSON.
    pub json: bool,
}

/// What a piece of text says, for its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// It went well.
    Good,
    /// It did not.
    Bad,
    /// Worth a look.
    Notice,
    /// Of less interest.
    Faint,
    /// A heading.
    Strong,
}

impl Output {
    /// Prints as JSON if `json`, else for people.
    #[must_use]
    pub const fn new(json: bool) -> Self {
        Self { json }
    }

    /// One JSON document, on a line of its own where a program reads it, indented on a terminal.
    ///
    /// # Errors
    /// When stdout cannot be written to.
    pub fn json(&self, value: &impl Serialize) -> Result<(), CliError> {
        let text =
            if io::stdout().is_terminal() { serde_json::to_string_pretty(value) } else { serde_json::to_string(value) };
        self.line(text.map_err(|error| unwritable(&error))?)
    }

    /// One line of text.
    ///
    /// # Errors
    /// When stdout cannot be written to.
    pub fn line(&self, text: impl Display) -> Result<(), CliError> {
        let mut stdout = io::stdout().lock();
        tolerate(writeln!(stdout, "{text}").and_then(|()| stdout.flush()))
    }

    /// A table without frames. Cells are plain text; control characters in them become visible.
    ///
    /// # Errors
    /// When stdout cannot be written to.
    pub fn table<R>(&self, header: &[&str], rows: impl IntoIterator<Item = R>) -> Result<(), CliError>
    where
        R: IntoIterator<Item = String>,
    {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header(header);
        for row in rows {
            table.add_row(row.into_iter().map(|cell| tame(&cell)));
        }
        let text = table.trim_fmt();
        let (head, body) = text.split_once('\n').unwrap_or((&text, ""));
        // Coloured once it is laid out: the layout counts every character.
        self.line(format_args!("{}\n{body}", self.paint(Tone::Strong, head)))
    }

    /// Whether whoever read stdout has gone away, so that a command without an end of its own should end.
    #[must_use]
    pub fn is_reader_gone(&self) -> bool {
        READER_GONE.load(Ordering::Relaxed)
    }

    /// Text for stdout, coloured on a terminal and plain elsewhere.
    #[must_use]
    pub fn paint(&self, tone: Tone, text: impl Display) -> String {
        paint(!self.json && colours(&io::stdout()), tone, text)
    }

    /// A line on stderr: progress, warnings, never a result.
    pub fn note(&self, text: impl Display) {
        // Nobody is left to tell when stderr is gone.
        drop(writeln!(io::stderr().lock(), "{text}"));
    }

    /// A warning on stderr.
    pub fn warn(&self, text: impl Display) {
        self.note(format_args!("{} {text}", paint(colours(&io::stderr()), Tone::Notice, "warning:")));
    }

    /// An error with its next step, on stderr.
    pub fn error(&self, error: &CliError) {
        let colour = colours(&io::stderr());
        self.note(format_args!("{} {}", paint(colour, Tone::Bad, "error:"), tame(&error.cause)));
        self.note(format_args!("{} {}", paint(colour, Tone::Strong, "next:"), tame(&error.next)));
    }
}

/// Whether a stream shows colours: a terminal, and nobody who set `NO_COLOR`.
fn colours(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn paint(colour: bool, tone: Tone, text: impl Display) -> String {
    if !colour {
        return text.to_string();
    }
    match tone {
        Tone::Good => text.green().to_string(),
        Tone::Bad => text.red().to_string(),
        Tone::Notice => text.yellow().to_string(),
        Tone::Faint => text.dimmed().to_string(),
        Tone::Strong => text.bold().to_string(),
    }
}

/// Text that others wrote must not steer the terminal: control characters become visible.
#[must_use]
pub fn tame(text: &str) -> String {
    let mut tamed = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => tamed.push(c),
            c if c.is_control() || is_hidden(c) => tamed.extend(c.escape_unicode()),
            c => tamed.push(c),
        }
    }
    tamed
}

fn tolerate(written: io::Result<()>) -> Result<(), CliError> {
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {
            READER_GONE.store(true, Ordering::Relaxed);
            Ok(())
        }
        Err(error) => Err(unwritable(&error)),
        Ok(()) => Ok(()),
    }
}

fn unwritable(error: &dyn Display) -> CliError {
    CliError::new(format!("cannot write to stdout: {error}"), "look at where the output is redirected to")
}
