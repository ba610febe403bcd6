//! One guardrail pattern: what an author writes, and what it is compiled to.

use regex::bytes::{Captures, Regex, RegexBuilder};
use serde::Deserialize;
use toml::Spanned;

use super::statement::Statements;
use crate::bundle::{NAME_HELP, is_name};
use crate::compare::Expressions;
use crate::decision::{PatternInfo, Severity};
use crate::problem::Reporter;

/// Which reading of a text a pattern is tried on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reading {
    /// The text as it stands.
    Text,
    /// The commands of the text, one a line.
    Commands,
    /// First one, then the other.
    #[default]
    Both,
}

/// A pattern as authors write it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    name: Spanned<String>,
    category: String,
    severity: Severity,
    min_trust: Spanned<u8>,
    description: String,
    remedy: String,
    #[serde(default)]
    read: Reading,
    #[serde(rename = "match")]
    matchers: Spanned<Vec<Spanned<String>>>,
    /// Tried on what matched: excuses this match and no other.
    #[serde(default)]
    unless: Vec<Spanned<String>>,
    /// Tried on the rest of the SQL statement after a match: excuses it.
    #[serde(default)]
    without: Vec<Spanned<String>>,
    matches: Vec<Spanned<String>>,
    passes: Vec<Spanned<String>>,
}

/// A pattern, ready to be tried.
#[derive(Debug)]
pub(crate) struct Pattern {
    pub(crate) info: PatternInfo,
    pub(crate) read: Reading,
    pub(crate) matchers: Vec<Regex>,
    unless: Vec<Regex>,
    without: Option<Regex>,
    pub(crate) examples: Examples,
}

/// What an author promises about a pattern, with the places of the promises.
#[derive(Debug)]
pub(crate) struct Examples {
    pub(crate) matches: Vec<Spanned<String>>,
    pub(crate) passes: Vec<Spanned<String>>,
}

impl Pattern {
    pub(crate) fn compile(entry: Entry, report: &mut Reporter<'_>) -> Self {
        entry.check(report);
        let without: Vec<&str> = entry.without.iter().map(|part| part.get_ref().as_str()).collect();
        let without = (!without.is_empty()).then(|| without.join("|"));
        let without = without.and_then(|joined| {
            let span = entry.without.first().map(Spanned::span).unwrap_or_default();
            compile(&Spanned::new(span, joined), report)
        });
        let mut compile_all = |list: &[Spanned<String>]| list.iter().filter_map(|text| compile(text, report)).collect();
        Self {
            matchers: compile_all(entry.matchers.get_ref()),
            unless: compile_all(&entry.unless),
            without,
            info: PatternInfo {
                name: entry.name.into_inner(),
                category: entry.category,
                severity: entry.severity,
                min_trust: entry.min_trust.into_inner(),
                description: entry.description,
                remedy: entry.remedy,
            },
            read: entry.read,
            examples: Examples { matches: entry.matches, passes: entry.passes },
        }
    }

    /// The expressions as they are written.
    pub(crate) fn expressions(&self) -> Expressions<'_> {
        Expressions {
            on_text: self.read != Reading::Commands,
            on_commands: self.read != Reading::Text,
            matchers: self.matchers.iter().map(Regex::as_str).collect(),
            unless: self.unless.iter().map(Regex::as_str).collect(),
            without: self.without.as_ref().map(Regex::as_str),
        }
    }

    /// The first match that nothing excuses, tried with one of the matchers.
    pub(crate) fn find(&self, matcher: usize, text: &[u8], end: &Regex) -> Option<(usize, usize)> {
        let regex = self.matchers.get(matcher)?;
        let mut statements: Option<Statements> = None;
        regex
            .captures_iter(text)
            .filter(same_on_both_sides)
            .filter_map(|captures| captures.get(0))
            .find(|found| {
                let excused = self.unless.iter().any(|unless| unless.is_match(found.as_bytes()));
                !excused
                    && self.without.as_ref().is_none_or(|without| {
                        !statements
                            .get_or_insert_with(|| Statements::new(text, without, end))
                            .excuses(found.start(), found.end())
                    })
            })
            .map(|found| (found.start(), found.end()))
    }
}

impl Entry {
    fn check(&self, report: &mut Reporter<'_>) {
        if !is_name(self.name.get_ref()) {
            let message = format!("`{}` is not a name", self.name.get_ref());
            report.at_with_help(self.name.span(), message, NAME_HELP);
        }
        if !(1..=4).contains(self.min_trust.get_ref()) {
            let help = "the least trust that passes goes from 1 to 4";
            report.at_with_help(self.min_trust.span(), "`min_trust` is out of range", help);
        }
        if self.matchers.get_ref().is_empty() {
            report.at(self.matchers.span(), "a pattern without a regular expression never matches");
        }
        if self.matches.is_empty() {
            let help = "give at least one text in `matches`";
            report.at_with_help(self.name.span(), "a pattern needs an example that it matches", help);
        }
    }
}

/// A matcher may name two groups `left` and `right`: it then only matches where
/// both caught the same, as in a condition that compares a column with itself.
fn same_on_both_sides(captures: &Captures<'_>) -> bool {
    match (captures.name("left"), captures.name("right")) {
        (Some(left), Some(right)) => left.as_bytes().eq_ignore_ascii_case(right.as_bytes()),
        _ => true,
    }
}

fn compile(text: &Spanned<String>, report: &mut Reporter<'_>) -> Option<Regex> {
    match build(text.get_ref()) {
        Ok(regex) => Some(regex),
        Err(error) => {
            report.at(text.span(), format!("not a regular expression: {error}"));
            None
        }
    }
}

/// Expressions are about bytes and ASCII: shells and SQL are, it keeps the
/// automata small, and no text is slower for not being ASCII. `^` and `$` are
/// the ends of a line.
pub(crate) fn build(expression: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(expression).unicode(false).multi_line(true).size_limit(4 << 20).build()
}
