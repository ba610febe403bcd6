//! Between generated and public types. Requests are lent, answers are judged.
//!
//! A component is not trusted to answer sensibly: identifiers that are no
//! identifiers, trust outside its range and endless lists are garbage. Prose is
//! cut instead, because it may quote the request.

use super::bindings::decider as wit;
use super::error::EngineError;
use super::types::{
    BundleFile, Decision, Effect, EngineMode, Manifest, NetworkRuleInfo, Obligations, OperationClass, OperationInfo,
    PatternInfo, PolicyInfo, PolicyRequest, Problem, ProfileInfo, Severity, Target, TargetKind, TestFailure,
    TestReport, Text, TextFormat, Violation,
};

const TRUST_MAX: u8 = 4;
const REASON_CHARS_MAX: usize = 64;
const NAME_BYTES_MAX: usize = 4_096;
const PROSE_BYTES_MAX: usize = 8_192;
const MATCHED_CHARS_MAX: usize = 200;
const DECIDING_MAX: usize = 1_000;
const VIOLATIONS_MAX: usize = 10_000;
/// What a decision may hold in names and texts, all together: it is answered, logged, and sampled.
const DECISION_BYTES_MAX: usize = 512 << 10;
const MANIFEST_LIST_MAX: usize = 20_000;
const PROBLEMS_MAX: usize = 1_000;

type Judged<T> = Result<T, EngineError>;

// ---------------------------------------------------------------- request

pub(super) fn lend_texts(texts: &[Text]) -> Vec<wit::Text<'_>> {
    texts
        .iter()
        .map(|text| wit::Text {
            label: &text.label,
            format: match text.format {
                TextFormat::Plain => wit::TextFormat::Plain,
                TextFormat::Json => wit::TextFormat::Json,
            },
            body: &text.body,
        })
        .collect()
}

pub(super) fn lend_request<'a>(request: &'a PolicyRequest, texts: &'a [wit::Text<'a>]) -> wit::Request<'a> {
    let principal = &request.principal;
    wit::Request {
        principal: wit::Principal {
            agent_id: &principal.agent_id,
            agent_type: &principal.agent_type,
            profile: &principal.profile,
            suspended: principal.suspended,
        },
        operation: &request.operation,
        target: lend_target(&request.target),
        texts,
    }
}

fn lend_target(target: &Target) -> wit::Target<'_> {
    match target {
        Target::LockKey(key) => wit::Target::LockKey(key),
        Target::File(path) => wit::Target::File(path),
        Target::Domain(name) => wit::Target::Domain(name),
        Target::Task(task) => {
            wit::Target::Task(wit::TaskTarget { id: &task.id, task_type: &task.task_type, priority: task.priority })
        }
        Target::Session(id) => wit::Target::Session(id),
        Target::Memory(id) => wit::Target::Memory(id),
        Target::Handoff(id) => wit::Target::Handoff(id),
        Target::Agent(id) => wit::Target::Agent(id),
        Target::Component(digest) => wit::Target::Component(digest),
        Target::AuditLog => wit::Target::AuditLog,
        Target::Branch(name) => wit::Target::Branch(name),
        Target::Command(line) => wit::Target::Command(line),
        Target::Tool(name) => wit::Target::Tool(name),
    }
}

pub(super) fn lend_files(files: &[BundleFile]) -> Vec<wit::BundleFile<'_>> {
    files.iter().map(|file| wit::BundleFile { path: &file.path, text: &file.text }).collect()
}

// --------------------------------------------------------------- decision

pub(super) fn judge_decision(decision: wit::Decision) -> Judged<Decision> {
    let decision = Decision {
        effect: effect(decision.effect),
        reason: reason(decision.reason)?,
        detail: prose(decision.detail),
        remedy: prose(decision.remedy),
        engine: engine_mode(decision.engine),
        trust_level: trust(decision.trust_level)?,
        deciding: names("deciding", decision.deciding, DECIDING_MAX)?,
        diagnostics: each("diagnostics", decision.diagnostics, DECIDING_MAX, |text| Ok(prose(text)))?,
        violations: each("violations", decision.violations, VIOLATIONS_MAX, judge_violation)?,
        obligations: obligations(&decision.obligations),
        network_rule: decision.network_rule.map(name).transpose()?,
    };
    let bytes = size_of(&decision);
    if bytes > DECISION_BYTES_MAX {
        return Err(EngineError::garbage(format!(
            "a decision of {bytes} bytes, at most {DECISION_BYTES_MAX} are taken"
        )));
    }
    Ok(decision)
}

fn size_of(decision: &Decision) -> usize {
    let texts = |texts: &[String]| texts.iter().map(String::len).sum::<usize>();
    let violations = decision.violations.iter().map(|found| {
        let Violation { pattern_name, category, matched_text, label, remedy, .. } = found;
        [pattern_name, category, matched_text, label, remedy].iter().map(|text| text.len()).sum::<usize>()
    });
    texts(&decision.deciding).saturating_add(texts(&decision.diagnostics)).saturating_add(violations.sum::<usize>())
}

fn judge_violation(violation: wit::Violation) -> Judged<Violation> {
    Ok(Violation {
        pattern_name: name(violation.pattern_name)?,
        category: name(violation.category)?,
        severity: severity(violation.severity),
        matched_text: violation.matched_text.chars().take(MATCHED_CHARS_MAX).collect(),
        label: name(violation.label)?,
        min_trust: threshold(violation.min_trust)?,
        passed_by_trust: violation.passed_by_trust,
        blocked: violation.blocked,
        remedy: prose(violation.remedy),
    })
}

// --------------------------------------------------------------- manifest

pub(super) fn judge_manifest(manifest: wit::Manifest) -> Judged<Manifest> {
    const MAX: usize = MANIFEST_LIST_MAX;
    Ok(Manifest {
        name: name(manifest.name)?,
        version: name(manifest.version)?,
        bundle_digest: sha256(manifest.bundle_digest)?,
        engine: engine_mode(manifest.engine),
        operations: each("operations", manifest.operations, MAX, judge_operation)?,
        profiles: each("profiles", manifest.profiles, MAX, judge_profile)?,
        patterns: each("patterns", manifest.patterns, MAX, judge_pattern)?,
        policies: each("policies", manifest.policies, MAX, judge_policy)?,
        network_rules: each("network rules", manifest.network_rules, MAX, judge_rule)?,
        test_cases: manifest.test_cases,
    })
}

fn judge_operation(operation: wit::OperationInfo) -> Judged<OperationInfo> {
    Ok(OperationInfo {
        name: name(operation.name)?,
        class: match operation.class {
            wit::OperationClass::Read => OperationClass::Read,
            wit::OperationClass::Write => OperationClass::Write,
            wit::OperationClass::Admin => OperationClass::Admin,
            wit::OperationClass::Owner => OperationClass::Owner,
        },
        target: target_kind(operation.target),
        description: prose(operation.description),
    })
}

fn judge_profile(profile: wit::ProfileInfo) -> Judged<ProfileInfo> {
    const MAX: usize = MANIFEST_LIST_MAX;
    Ok(ProfileInfo {
        name: name(profile.name)?,
        description: prose(profile.description),
        agent_types: names("agent types", profile.agent_types, MAX)?,
        trust_level: trust(profile.trust_level)?,
        allowed_operations: names("allowed operations", profile.allowed_operations, MAX)?,
        blocked_operations: names("blocked operations", profile.blocked_operations, MAX)?,
        grants: names("grants", profile.grants, MAX)?,
        task_types: names("task types", profile.task_types, MAX)?,
        paths_allow: names("allowed paths", profile.paths_allow, MAX)?,
        paths_deny: names("denied paths", profile.paths_deny, MAX)?,
        limits: obligations(&profile.limits),
    })
}

fn judge_pattern(pattern: wit::PatternInfo) -> Judged<PatternInfo> {
    Ok(PatternInfo {
        name: name(pattern.name)?,
        category: name(pattern.category)?,
        severity: severity(pattern.severity),
        min_trust: threshold(pattern.min_trust)?,
        description: prose(pattern.description),
        remedy: prose(pattern.remedy),
    })
}

fn judge_policy(policy: wit::PolicyInfo) -> Judged<PolicyInfo> {
    Ok(PolicyInfo { id: name(policy.id)?, reason: prose(policy.reason), effect: effect(policy.effect) })
}

fn judge_rule(rule: wit::NetworkRuleInfo) -> Judged<NetworkRuleInfo> {
    Ok(NetworkRuleInfo {
        id: name(rule.id)?,
        pattern: name(rule.pattern)?,
        allow: rule.allow,
        priority: rule.priority,
        profile: rule.profile.map(name).transpose()?,
    })
}

// --------------------------------------------------- problems and reports

/// Problems are for people: what is too much is cut, never refused.
pub(super) fn tame_problems(problems: Vec<wit::Problem>) -> Vec<Problem> {
    problems
        .into_iter()
        .take(PROBLEMS_MAX)
        .map(|problem| Problem {
            file: prose(problem.file),
            line: problem.line,
            column: problem.column,
            message: prose(problem.message),
            help: problem.help.map(prose),
        })
        .collect()
}

pub(super) fn judge_report(report: wit::TestReport) -> Judged<TestReport> {
    let failures = each("failures", report.failures, MANIFEST_LIST_MAX, |failure| {
        Ok(TestFailure { name: prose(failure.name), expected: prose(failure.expected), actual: prose(failure.actual) })
    })?;
    Ok(TestReport { passed: report.passed, failures })
}

// ------------------------------------------------------------ small parts

fn effect(effect: wit::Effect) -> Effect {
    match effect {
        wit::Effect::Allow => Effect::Allow,
        wit::Effect::Deny => Effect::Deny,
    }
}

fn severity(severity: wit::Severity) -> Severity {
    match severity {
        wit::Severity::Block => Severity::Block,
        wit::Severity::Warn => Severity::Warn,
        wit::Severity::Log => Severity::Log,
    }
}

fn engine_mode(mode: wit::EngineMode) -> EngineMode {
    match mode {
        wit::EngineMode::Native => EngineMode::Native,
        wit::EngineMode::Cedar => EngineMode::Cedar,
        wit::EngineMode::Both => EngineMode::Both,
    }
}

fn target_kind(kind: wit::TargetKind) -> TargetKind {
    match kind {
        wit::TargetKind::LockKey => TargetKind::LockKey,
        wit::TargetKind::File => TargetKind::File,
        wit::TargetKind::Domain => TargetKind::Domain,
        wit::TargetKind::Task => TargetKind::Task,
        wit::TargetKind::Session => TargetKind::Session,
        wit::TargetKind::Memory => TargetKind::Memory,
        wit::TargetKind::Handoff => TargetKind::Handoff,
        wit::TargetKind::Agent => TargetKind::Agent,
        wit::TargetKind::Component => TargetKind::Component,
        wit::TargetKind::AuditLog => TargetKind::AuditLog,
        wit::TargetKind::Branch => TargetKind::Branch,
        wit::TargetKind::Command => TargetKind::Command,
        wit::TargetKind::Tool => TargetKind::Tool,
    }
}

fn obligations(limits: &wit::Obligations) -> Obligations {
    Obligations {
        max_ttl_minutes: limits.max_ttl_minutes,
        max_locks_held: limits.max_locks_held,
        max_open_tasks: limits.max_open_tasks,
        max_calls_per_minute: limits.max_calls_per_minute,
    }
}

fn reason(code: String) -> Judged<String> {
    let legal = |byte: u8| byte == b'_' || byte.is_ascii_lowercase() || byte.is_ascii_digit();
    if (1..=REASON_CHARS_MAX).contains(&code.len()) && code.bytes().all(legal) {
        return Ok(code);
    }
    Err(EngineError::garbage("the reason is not a code"))
}

fn sha256(digest: String) -> Judged<String> {
    let legal = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let hex = digest.strip_prefix("sha256:");
    if hex.is_some_and(|hex| hex.len() == 64 && hex.bytes().all(legal)) {
        return Ok(digest);
    }
    Err(EngineError::garbage("the bundle's digest is not a SHA-256 digest"))
}

fn trust(level: u8) -> Judged<u8> {
    if level <= TRUST_MAX {
        return Ok(level);
    }
    Err(EngineError::garbage(format!("trust {level} is out of range")))
}

/// Least trust that passes: one more than there is means that nobody does.
fn threshold(level: u8) -> Judged<u8> {
    if level <= TRUST_MAX + 1 {
        return Ok(level);
    }
    Err(EngineError::garbage(format!("least trust {level} is out of range")))
}

fn name(name: String) -> Judged<String> {
    if name.len() <= NAME_BYTES_MAX {
        return Ok(name);
    }
    Err(EngineError::garbage("a name is endless"))
}

fn names(what: &str, list: Vec<String>, max: usize) -> Judged<Vec<String>> {
    each(what, list, max, name)
}

fn each<T, U>(what: &str, list: Vec<T>, max: usize, judge: impl FnMut(T) -> Judged<U>) -> Judged<Vec<U>> {
    if list.len() > max {
        return Err(EngineError::garbage(format!("{} {what}", list.len())));
    }
    list.into_iter().map(judge).collect()
}

fn prose(mut text: String) -> String {
    if text.len() > PROSE_BYTES_MAX {
        text.truncate(text.floor_char_boundary(PROSE_BYTES_MAX));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decision(names: usize) -> wit::Decision {
        wit::Decision {
            effect: wit::Effect::Deny,
            reason: "no".to_owned(),
            detail: String::new(),
            remedy: String::new(),
            engine: wit::EngineMode::Native,
            trust_level: 0,
            deciding: vec!["y".repeat(NAME_BYTES_MAX); names],
            diagnostics: Vec::new(),
            violations: Vec::new(),
            obligations: wit::Obligations {
                max_ttl_minutes: None,
                max_locks_held: None,
                max_open_tasks: None,
                max_calls_per_minute: None,
            },
            network_rule: None,
        }
    }

    #[test]
    fn a_decision_of_many_long_names_is_garbage() {
        let most = DECISION_BYTES_MAX / NAME_BYTES_MAX;
        assert_eq!(judge_decision(decision(most)).unwrap().deciding.len(), most);
        assert_eq!(judge_decision(decision(most + 1)).unwrap_err().code(), "garbage");
    }
}
