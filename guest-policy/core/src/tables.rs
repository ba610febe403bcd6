//! Decision tables (`decisions/*.toml`): what a bundle promises to decide.

use serde::Deserialize;

use crate::bundle::parse_toml;
use crate::decide::Policy;
use crate::decision::{Decision, Effect, EngineMode};
use crate::problem::{Reporter, TestFailure, TestReport};
use crate::request::{Principal, Request, Target, Text, TextFormat};

/// One promise.
#[derive(Debug)]
pub(crate) struct Case {
    /// File and name.
    name: String,
    request: Request,
    expect: Expect,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expect {
    effect: Effect,
    reason: String,
    /// Among the deciding rules and policies, where the engine has them.
    #[serde(default)]
    policies: Vec<String>,
    /// Exactly the patterns that matched; not checked when absent.
    violations: Option<Vec<String>>,
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
    name: String,
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
        file.case.into_iter().map(|entry| Self::from_entry(path, entry)).collect()
    }

    fn from_entry(path: &str, entry: Entry) -> Self {
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
            name: format!("{path}: {}", entry.name),
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
        let (expected, actual): (Vec<_>, Vec<_>) = wrong.into_iter().unzip();
        Err(TestFailure {
            name: format!("{} ({mode:?})", self.name),
            expected: expected.join("; "),
            actual: actual.join("; "),
        })
    }
}

impl Expect {
    /// What differs: the expected and the actual side of each difference.
    fn differences(&self, decision: &Decision, mode: EngineMode) -> Vec<(String, String)> {
        let mut wrong = Vec::new();
        if self.effect != decision.effect || self.reason != decision.reason {
            wrong.push((
                format!("{:?} {}", self.effect, self.reason),
                format!("{:?} {}: {} {:?}", decision.effect, decision.reason, decision.detail, decision.diagnostics),
            ));
        }
        // Native rules have a prefix, Cedar policies have none; each engine names its own.
        let asked = |id: &&String| match mode {
            EngineMode::Native => id.contains(':'),
            EngineMode::Cedar => !id.contains(':') || id.starts_with("request:"),
            EngineMode::Both => true,
        };
        for id in self.policies.iter().filter(asked) {
            if !decision.deciding.contains(id) {
                wrong.push((format!("decided by `{id}`"), format!("{:?}", decision.deciding)));
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
                wrong.push((format!("violations {expected:?}"), format!("{actual:?}")));
            }
        }
        wrong
    }
}

impl Policy {
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
