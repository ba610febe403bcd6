//! Guardrails: texts that no agent should carry out without enough trust.
//!
//! Texts are read whole, never a prefix. Each is tried as it stands and as a
//! shell would read it (see [`shell`]). A set of all expressions goes first, so
//! that a harmless text costs one pass a reading.

mod json;
mod pattern;
mod shell;
mod statement;
mod words;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use regex::bytes::{Regex, RegexSet, RegexSetBuilder};
use serde::Deserialize;

pub(crate) use self::json::is_too_deep;
pub(crate) use self::pattern::Pattern;
use self::pattern::Reading;
use crate::bundle::parse_toml;
use crate::decision::{Severity, Violation};
use crate::problem::Reporter;
use crate::request::{Request, Target, Text, TextFormat};

/// Most violations that one decision records. What blocks is always found.
const MAX_VIOLATIONS: usize = 64;

/// Longest quotation of a match, in characters.
const MAX_QUOTE: usize = 200;

/// Where a statement of SQL ends, if nothing closes it earlier.
const STATEMENT_END: &str =
    r"(?i);|^\s*(?:select|insert|update|delete|drop|create|alter|truncate|begin|commit|grant)\b";

/// All patterns of a bundle.
#[derive(Debug)]
pub(crate) struct Guardrails {
    patterns: Vec<Pattern>,
    text: Filter,
    commands: Filter,
    statement_end: Option<Regex>,
}

/// All expressions for one reading, and which pattern each belongs to.
#[derive(Debug, Default)]
struct Filter {
    set: RegexSet,
    owners: Vec<(usize, usize)>,
}

/// What the guardrails found in a request.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Findings {
    pub(crate) violations: Vec<Violation>,
    /// Patterns that block, sorted.
    pub(crate) blocking: BTreeSet<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    pattern: Vec<pattern::Entry>,
}

/// Reads one file of patterns.
pub(crate) fn read(text: &str, report: &mut Reporter<'_>) -> Vec<Pattern> {
    let Some(file) = parse_toml::<File>(text, report) else { return Vec::new() };
    let patterns: Vec<_> = file.pattern.into_iter().map(|entry| Pattern::compile(entry, report)).collect();
    if let Ok(end) = pattern::build(STATEMENT_END) {
        for pattern in &patterns {
            check_examples(pattern, &end, report);
        }
    }
    patterns
}

fn check_examples(pattern: &Pattern, end: &Regex, report: &mut Reporter<'_>) {
    let name = &pattern.info.name;
    for example in &pattern.examples.matches {
        if !matches_example(pattern, example.get_ref(), end) {
            report.at(example.span(), format!("pattern `{name}` does not match its example"));
        }
    }
    for example in &pattern.examples.passes {
        if matches_example(pattern, example.get_ref(), end) {
            report.at(example.span(), format!("pattern `{name}` matches what it should pass"));
        }
    }
}

fn matches_example(pattern: &Pattern, text: &str, end: &Regex) -> bool {
    let commands = shell::commands(text);
    (0..pattern.matchers.len()).any(|matcher| {
        (pattern.read != Reading::Commands && pattern.find(matcher, text.as_bytes(), end).is_some())
            || (pattern.read != Reading::Text && pattern.find(matcher, &commands, end).is_some())
    })
}

impl Guardrails {
    /// Joins the patterns of all files.
    pub(crate) fn new(patterns: Vec<Pattern>) -> Result<Self, regex::Error> {
        Ok(Self {
            text: Filter::new(&patterns, Reading::Text)?,
            commands: Filter::new(&patterns, Reading::Commands)?,
            statement_end: Some(pattern::build(STATEMENT_END)?),
            patterns,
        })
    }

    pub(crate) fn patterns(&self) -> impl Iterator<Item = &Pattern> {
        self.patterns.iter()
    }

    /// Tries every example of every pattern; `Err` holds what went wrong.
    pub(crate) fn run_examples(&self) -> Vec<Result<(), String>> {
        let Some(end) = &self.statement_end else { return Vec::new() };
        let mut results = Vec::new();
        for pattern in &self.patterns {
            let expected = pattern.examples.matches.iter().map(|example| (example, true));
            let passing = pattern.examples.passes.iter().map(|example| (example, false));
            for (example, expected) in expected.chain(passing) {
                let right = matches_example(pattern, example.get_ref(), end) == expected;
                let name = || format!("{}: {}", pattern.info.name, example.get_ref());
                results.push(if right { Ok(()) } else { Err(name()) });
            }
        }
        results
    }

    /// Reads every text of a request, for a caller of this trust.
    pub(crate) fn scan(&self, request: &Request, trust: u8) -> Findings {
        let mut scan = Scan { rails: self, trust, findings: Findings::default(), seen: BTreeSet::new() };
        match &request.target {
            Target::Command(line) => scan.plain("command", line),
            Target::File(path) => scan.plain("file", path),
            _ => {}
        }
        for text in &request.texts {
            scan.text(text);
        }
        scan.findings
    }
}

impl Filter {
    fn new(patterns: &[Pattern], reading: Reading) -> Result<Self, regex::Error> {
        let mut filter = Self::default();
        let mut expressions = Vec::new();
        for (at, pattern) in patterns.iter().enumerate() {
            if pattern.read == reading || pattern.read == Reading::Both {
                for (matcher, regex) in pattern.matchers.iter().enumerate() {
                    expressions.push(regex.as_str());
                    filter.owners.push((at, matcher));
                }
            }
        }
        filter.set = RegexSetBuilder::new(expressions).unicode(false).multi_line(true).size_limit(32 << 20).build()?;
        Ok(filter)
    }
}

/// One request being read.
struct Scan<'a> {
    rails: &'a Guardrails,
    trust: u8,
    findings: Findings,
    /// Pattern and label pairs that are recorded already.
    seen: BTreeSet<(usize, String)>,
}

impl Scan<'_> {
    fn text(&mut self, text: &Text) {
        let inner = match text.format {
            TextFormat::Plain => json::Json::Malformed,
            TextFormat::Json => json::read(&text.body),
        };
        match inner {
            json::Json::Texts(texts) => texts.iter().for_each(|inner| self.plain(&text.label, inner)),
            // What does not parse is still read.
            json::Json::Malformed | json::Json::TooDeep => self.plain(&text.label, &text.body),
        }
    }

    fn plain(&mut self, label: &str, text: &str) {
        self.try_reading(label, text.as_bytes(), &self.rails.text);
        if !self.rails.commands.owners.is_empty() {
            self.try_reading(label, &shell::commands(text), &self.rails.commands);
        }
    }

    fn try_reading(&mut self, label: &str, reading: &[u8], filter: &Filter) {
        let Some(end) = &self.rails.statement_end else { return };
        for candidate in filter.set.matches(reading) {
            let Some((at, matcher)) = filter.owners.get(candidate).copied() else { continue };
            let Some(pattern) = self.rails.patterns.get(at) else { continue };
            if self.seen.contains(&(at, label.to_owned())) {
                continue;
            }
            if let Some((start, stop)) = pattern.find(matcher, reading, end) {
                self.seen.insert((at, label.to_owned()));
                let matched = reading.get(start..stop).unwrap_or_default();
                self.record(pattern, label, matched);
            }
        }
    }

    fn record(&mut self, pattern: &Pattern, label: &str, matched: &[u8]) {
        let info = &pattern.info;
        let passed_by_trust = self.trust >= info.min_trust;
        let blocked = info.severity == Severity::Block && !passed_by_trust;
        let news = blocked && self.findings.blocking.insert(info.name.clone());
        if self.findings.violations.len() >= MAX_VIOLATIONS && !news {
            return;
        }
        self.findings.violations.push(Violation {
            pattern_name: info.name.clone(),
            category: info.category.clone(),
            severity: info.severity,
            matched_text: quote(matched),
            label: label.to_owned(),
            min_trust: info.min_trust,
            passed_by_trust,
            blocked,
            remedy: info.remedy.clone(),
        });
    }
}

/// A match as a person reads it, cut to a bounded length between characters.
fn quote(matched: &[u8]) -> String {
    let text = String::from_utf8_lossy(matched);
    let shown = text.trim().chars().map(|c| if c == '\u{1}' { ' ' } else { c });
    shown.take(MAX_QUOTE).collect()
}
