//! Decision tables (`decisions/*.toml`): what a bundle promises to decide.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use toml::Spanned;

use crate::bundle::parse_toml;
use crate::decide::Policy;
use crate::decision::{Decision, Effect, EngineMode};
use crate::operation::Operations;
use crate::problem::{Problem, Reporter, TestFailure, TestReport, line_and_column};
use crate::profile::Profile;
use crate::reason::Reason;
use crate::request::{Principal, Request, Target, Text, TextFormat};

/// One promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// Path of its file inside the bundle.
    pub file: String,
    /// Where it is written, counted from 1.
    pub line: u32,
    /// What its author calls it.
    pub name: String,
    /// What is asked.
    pub request: Request,
    /// What is promised.
    pub expect: Expect,
}

/// What a case promises about a decision.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// Whether it is allowed.
    pub effect: Effect,
    /// The code of the reason.
    pub reason: String,
    /// Among the deciding rules and policies, where the engine has them.
    #[serde(default)]
    pub policies: Vec<String>,
    /// Exactly the patterns that matched; not checked when absent.
    pub violations: Option<Vec<String>>,
}

/// One way in which a decision is not what a case promises.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// What the case says.
    pub expected: String,
    /// What was decided.
    pub actual: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    case: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: Spanned<String>,
    principal: PrincipalEntry,
    operation: String,
    target: TargetEntry,
    text: Option<String>,
    json: Option<String>,
    #[serde(default)]
    texts: Vec<TextEntry>,
    expect: Expect,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PrincipalEntry {
    agent_type: String,
    profile: String,
    #[serde(default)]
    suspended: bool,
}

/// The audit log has no content, so it is written as a word.
#[derive(Deserialize)]
#[serde(untagged)]
enum TargetEntry {
    Word(AuditLog),
    Other(Target),
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum AuditLog {
    AuditLog,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TextEntry {
    label: String,
    #[serde(default)]
    format: TextFormat,
    body: String,
}

impl Case {
    /// Reads one file of cases.
    pub(crate) fn read(path: &str, text: &str, report: &mut Reporter<'_>) -> Vec<Self> {
        let Some(file) = parse_toml::<File>(text, report) else { return Vec::new() };
        let mut cases: Vec<Self> = Vec::new();
        for entry in file.case {
            let (span, (line, _)) = (entry.name.span(), line_and_column(text, entry.name.span().start));
            let case = Self::from_entry(path, line, entry);
            if cases.iter().any(|known| known.name == case.name) {
                let help = "give it a name of its own, so that a failure is found";
                report.idle(span, format!("two cases are called `{}`", case.name), help);
            }
            cases.push(case);
        }
        cases
    }

    /// File and name.
    #[must_use]
    pub fn title(&self) -> String {
        format!("{}: {}", self.file, self.name)
    }

    fn from_entry(path: &str, line: u32, entry: Entry) -> Self {
        let plain = entry.text.map(|body| ("text", TextFormat::Plain, body));
        let json = entry.json.map(|body| ("json", TextFormat::Json, body));
        let short = plain.into_iter().chain(json);
        let mut texts: Vec<Text> =
            short.map(|(label, format, body)| Text { label: label.to_owned(), format, body }).collect();
        texts.extend(entry.texts.into_iter().map(|text| Text {
            label: text.label,
            format: text.format,
            body: text.body,
        }));
        let principal = Principal {
            agent_id: "agent-1".to_owned(),
            agent_type: entry.principal.agent_type,
            profile: entry.principal.profile,
            suspended: entry.principal.suspended,
        };
        let target = match entry.target {
            TargetEntry::Word(AuditLog::AuditLog) => Target::AuditLog,
            TargetEntry::Other(target) => target,
        };
        Self {
            file: path.to_owned(),
            line,
            name: entry.name.into_inner(),
            request: Request { principal, operation: entry.operation, target, texts },
            expect: entry.expect,
        }
    }

    fn run(&self, policy: &Policy, mode: EngineMode) -> Result<(), TestFailure> {
        let decision = policy.decide_with(mode, &self.request);
        let wrong = self.expect.differences(&decision, mode);
        if wrong.is_empty() {
            return Ok(());
        }
        let (expected, actual): (Vec<_>, Vec<_>) = wrong.into_iter().map(|one| (one.expected, one.actual)).unzip();
        Err(TestFailure {
            name: format!("{} ({mode:?})", self.title()),
            expected: expected.join("; "),
            actual: actual.join("; "),
        })
    }
}

/// What a bundle has that a case may name.
pub(crate) struct Known<'a> {
    pub(crate) operations: &'a Operations,
    pub(crate) profiles: &'a BTreeMap<String, Profile>,
    pub(crate) patterns: BTreeSet<&'a str>,
    pub(crate) policies: BTreeSet<&'a str>,
}

impl Known<'_> {
    /// What a case names that is not there. It may be the point of the case: then its reason says so.
    pub(crate) fn problems(&self, case: &Case) -> Vec<Problem> {
        let Case { request, expect, .. } = case;
        let mut messages = Vec::new();
        let unknown = |what: Reason| expect.reason != what.code();
        if self.operations.get(&request.operation).is_none() && unknown(Reason::UnknownOperation) {
            messages.push(format!("there is no operation `{}`", request.operation));
        }
        let profile = &request.principal.profile;
        if !self.profiles.contains_key(profile) && unknown(Reason::UnknownProfile) && unknown(Reason::UnknownOperation)
        {
            messages.push(format!("there is no profile `{profile}`"));
        }
        let patterns = expect.violations.iter().flatten().filter(|name| !self.patterns.contains(name.as_str()));
        messages.extend(patterns.map(|name| format!("there is no pattern `{name}`")));
        let policies = expect.policies.iter().filter(|id| !id.contains(':') && !self.policies.contains(id.as_str()));
        messages.extend(policies.map(|id| format!("there is no Cedar policy `{id}`")));
        let problem = |message| Problem {
            file: case.file.clone(),
            line: Some(case.line),
            column: None,
            message: format!("case `{}`: {message}", case.name),
            help: None,
        };
        messages.into_iter().map(problem).collect()
    }
}

impl Expect {
    /// How a decision differs from what is promised. Each engine names its own rules: what the other would name is not missed.
    #[must_use]
    pub fn differences(&self, decision: &Decision, mode: EngineMode) -> Vec<Difference> {
        let mut wrong = Vec::new();
        let mut differs = |expected: String, actual: String| wrong.push(Difference { expected, actual });
        if self.effect != decision.effect || self.reason != decision.reason {
            differs(
                format!("{:?} {}", self.effect, self.reason),
                format!("{:?} {}: {} {:?}", decision.effect, decision.reason, decision.detail, decision.diagnostics),
            );
        }
        // Native rules have a prefix, Cedar policies have none; each engine names its own.
        let asked = |id: &&String| match mode {
            EngineMode::Native => id.contains(':'),
            EngineMode::Cedar => !id.contains(':') || id.starts_with("request:"),
            EngineMode::Both => true,
        };
        for id in self.policies.iter().filter(asked) {
            if !decision.deciding.contains(id) {
                differs(format!("decided by `{id}`"), format!("{:?}", decision.deciding));
            }
        }
        if let Some(patterns) = &self.violations {
            let mut actual: Vec<&String> =
                decision.violations.iter().map(|violation| &violation.pattern_name).collect();
            let mut expected: Vec<&String> = patterns.iter().collect();
            actual.sort();
            actual.dedup();
            expected.sort();
            if actual != expected {
                differs(format!("violations {expected:?}"), format!("{actual:?}"));
            }
        }
        wrong
    }
}

impl Policy {
    /// The cases of the bundle's decision tables, by file and in the order in which they are written.
    #[must_use]
    pub fn cases(&self) -> &[Case] {
        &self.cases
    }

    /// Runs every case on each engine, and every example of every pattern.
    #[must_use]
    pub fn run_tests(&self) -> TestReport {
        let mut report = TestReport::default();
        for case in &self.cases {
            for mode in [EngineMode::Native, EngineMode::Cedar, EngineMode::Both] {
                report.add(case.run(self, mode));
            }
        }
        for result in self.guardrails.run_examples() {
            report.add(result.map_err(|name| TestFailure {
                name,
                expected: "as the pattern promises".to_owned(),
                actual: "the opposite".to_owned(),
            }));
        }
        report
    }
}

impl TestReport {
    fn add(&mut self, result: Result<(), TestFailure>) {
        match result {
            Ok(()) => self.passed = self.passed.saturating_add(1),
            Err(failure) => self.failures.push(failure),
        }
    }
}
