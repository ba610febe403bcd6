//! Field by field, between the types of the contract and those of the core.

use policy_core as core;

use crate::bindings::exports::portreeve::policy::decider as wit;

/// Enums that go out.
macro_rules! enums_out {
    ($($name:ident { $($variant:ident),+ })+) => {$(
        impl From<core::$name> for wit::$name {
            fn from(value: core::$name) -> Self {
                match value { $(core::$name::$variant => Self::$variant,)+ }
            }
        }
    )+};
}

/// Records that go out: fields of the same type, then fields to convert, then
/// lists to convert.
macro_rules! records_out {
    ($($name:ident { $($same:ident),* ; $($other:ident),* ; $($list:ident),* })+) => {$(
        impl From<core::$name> for wit::$name {
            fn from(value: core::$name) -> Self {
                Self {
                    $($same: value.$same,)*
                    $($other: value.$other.into(),)*
                    $($list: value.$list.into_iter().map(Into::into).collect(),)*
                }
            }
        }
    )+};
}

enums_out! {
    Effect { Allow, Deny }
    Severity { Block, Warn, Log }
    EngineMode { Native, Cedar, Both }
    OperationClass { Read, Write, Admin, Owner }
    TargetKind {
        LockKey, File, Domain, Task, Session, Memory, Handoff, Agent, Component, AuditLog, Branch,
        Command, Tool
    }
}

records_out! {
    Violation {
        pattern_name, category, matched_text, label, min_trust, passed_by_trust, blocked, remedy;
        severity;
    }
    Obligations { max_ttl_minutes, max_locks_held, max_open_tasks, max_calls_per_minute;; }
    Decision {
        reason, detail, remedy, trust_level, deciding, diagnostics, network_rule;
        effect, engine, obligations;
        violations
    }
    OperationInfo { name, description; class, target; }
    ProfileInfo {
        name, description, agent_types, trust_level, allowed_operations, blocked_operations, grants,
        task_types, paths_allow, paths_deny;
        limits;
    }
    PatternInfo { name, category, min_trust, description, remedy; severity; }
    PolicyInfo { id, reason; effect; }
    NetworkRuleInfo { id, pattern, allow, priority, profile;; }
    Manifest {
        name, version, bundle_digest, test_cases;
        engine;
        operations, profiles, patterns, policies, network_rules
    }
    Problem { file, line, column, message, help;; }
    TestFailure { name, expected, actual;; }
    TestReport { passed;; failures }
}

impl From<wit::BundleFile> for core::BundleFile {
    fn from(file: wit::BundleFile) -> Self {
        Self { path: file.path, text: file.text }
    }
}

impl From<wit::Request> for core::Request {
    fn from(request: wit::Request) -> Self {
        let principal = request.principal;
        Self {
            principal: core::Principal {
                agent_id: principal.agent_id,
                agent_type: principal.agent_type,
                profile: principal.profile,
                suspended: principal.suspended,
            },
            operation: request.operation,
            target: request.target.into(),
            texts: request.texts.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<wit::Text> for core::Text {
    fn from(text: wit::Text) -> Self {
        let format = match text.format {
            wit::TextFormat::Plain => core::TextFormat::Plain,
            wit::TextFormat::Json => core::TextFormat::Json,
        };
        Self { label: text.label, format, body: text.body }
    }
}

impl From<wit::Target> for core::Target {
    fn from(target: wit::Target) -> Self {
        match target {
            wit::Target::LockKey(key) => Self::LockKey(key),
            wit::Target::File(path) => Self::File(path),
            wit::Target::Domain(name) => Self::Domain(name),
            wit::Target::Task(task) => {
                Self::Task(core::TaskTarget { id: task.id, task_type: task.task_type, priority: task.priority })
            }
            wit::Target::Session(id) => Self::Session(id),
            wit::Target::Memory(id) => Self::Memory(id),
            wit::Target::Handoff(id) => Self::Handoff(id),
            wit::Target::Agent(id) => Self::Agent(id),
            wit::Target::Component(id) => Self::Component(id),
            wit::Target::AuditLog => Self::AuditLog,
            wit::Target::Branch(name) => Self::Branch(name),
            wit::Target::Command(line) => Self::Command(line),
            wit::Target::Tool(name) => Self::Tool(name),
        }
    }
}

/// Answers that are not about any place in a bundle.
fn problem(message: &str) -> core::Problem {
    let message = message.to_owned();
    core::Problem { file: String::new(), line: None, column: None, message, help: None }
}

pub(crate) fn loaded_twice() -> wit::Problem {
    problem("a bundle is loaded already").into()
}

pub(crate) fn not_loaded() -> core::Problem {
    problem("no bundle is loaded")
}

/// Without a bundle nothing can have come out as promised.
pub(crate) fn nothing_to_test() -> core::TestReport {
    let failure = core::TestFailure {
        name: "bundle".to_owned(),
        expected: "a loaded bundle".to_owned(),
        actual: "none".to_owned(),
    };
    core::TestReport { passed: 0, failures: vec![failure] }
}
