//! What is wrong with a bundle, and where.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// Something wrong with a bundle or a policy text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Path inside the bundle; empty for a text without a file.
    pub file: String,
    /// Counted from 1.
    pub line: Option<u32>,
    /// Counted from 1, in characters.
    pub column: Option<u32>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

/// A file of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleFile {
    /// Path inside the bundle, with `/`.
    pub path: String,
    /// Its whole text.
    pub text: String,
}

/// A decision-table case that did not come out as written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestFailure {
    /// File, name of the case, and engine.
    pub name: String,
    /// What the table says.
    pub expected: String,
    /// What was decided.
    pub actual: String,
}

/// What came of the decision tables.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TestReport {
    /// Checks that came out as written; each case runs once per engine mode.
    pub passed: u32,
    /// The others.
    pub failures: Vec<TestFailure>,
}

/// A file being read, with the problems found in it so far.
pub(crate) struct Reporter<'a> {
    file: &'a str,
    text: &'a str,
    care: Care,
    problems: &'a mut Vec<Problem>,
}

/// How much of what is found in a bundle is a problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Care {
    /// What keeps it from being decided by.
    Loading,
    /// Also what has no effect: its author meant something by it.
    Strict,
}

impl<'a> Reporter<'a> {
    pub(crate) fn new(file: &'a str, text: &'a str, care: Care, problems: &'a mut Vec<Problem>) -> Self {
        Self { file, text, care, problems }
    }

    /// The file that is being read.
    pub(crate) fn file(&self) -> &str {
        self.file
    }

    /// Records what has no effect, if anybody cares.
    pub(crate) fn idle(&mut self, span: Range<usize>, message: impl Into<String>, help: impl Into<String>) {
        if self.care == Care::Strict {
            self.at_with_help(span, message, help);
        }
    }

    /// Records a problem at a place of the file.
    pub(crate) fn at(&mut self, span: Range<usize>, message: impl Into<String>) {
        self.record(Some(span.start), message.into(), None);
    }

    /// Records a problem at a place of the file, and what to do about it.
    pub(crate) fn at_with_help(&mut self, span: Range<usize>, message: impl Into<String>, help: impl Into<String>) {
        self.record(Some(span.start), message.into(), Some(help.into()));
    }

    /// Records a problem, with all that is known about it.
    pub(crate) fn record(&mut self, offset: Option<usize>, message: String, help: Option<String>) {
        let place = offset.map(|at| line_and_column(self.text, at));
        self.problems.push(Problem {
            file: self.file.to_owned(),
            line: place.map(|(line, _)| line),
            column: place.map(|(_, column)| column),
            message,
            help,
        });
    }
}

/// A problem of the bundle as a whole, or of a file that is not there.
pub(crate) fn missing(file: &str, message: impl Into<String>) -> Problem {
    Problem { file: file.to_owned(), line: None, column: None, message: message.into(), help: None }
}

/// Line and column of a byte offset, both counted from 1.
pub(crate) fn line_and_column(text: &str, offset: usize) -> (u32, u32) {
    let before = text.get(..text.floor_char_boundary(offset)).unwrap_or(text);
    let line = before.bytes().filter(|byte| *byte == b'\n').count().saturating_add(1);
    let column = before.chars().rev().take_while(|c| *c != '\n').count().saturating_add(1);
    (u32::try_from(line).unwrap_or(u32::MAX), u32::try_from(column).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::line_and_column;

    #[test]
    fn places_count_from_one_and_in_characters() {
        assert_eq!(line_and_column("", 0), (1, 1));
        assert_eq!(line_and_column("ab\ncd", 3), (2, 1));
        assert_eq!(line_and_column("é=1", 2), (1, 2));
        assert_eq!(line_and_column("ab", 99), (1, 3));
    }
}
