//! What crosses the boundary, as plain Rust.
//!
//! The types mirror `wit/policy.wit` one to one, so that the rest of the host
//! knows neither wasmtime nor generated code, and so that the audit log can
//! hold a request and its decision as JSON.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

// ---------------------------------------------------------------- request

/// Who asks. Filled from the key and the store, never from the caller's input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PolicyPrincipal {
    /// The agent's identifier.
    pub agent_id: String,
    /// The agent's type, for instance `claude_code`.
    pub agent_type: String,
    /// Name of a profile of the bundle.
    pub profile: String,
    /// The store's fact about the agent; it means trust 0.
    pub suspended: bool,
}

/// A task as far as policy looks at it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TaskTarget {
    /// The task's identifier; empty for the queue itself.
    pub id: String,
    /// The task's type; empty for the queue itself.
    pub task_type: String,
    /// The task's priority.
    pub priority: u8,
}

/// What is acted on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// A lock key: a path relative to the repository, or a logical key.
    LockKey(String),
    /// A file that a tool edits, relative to the repository.
    File(String),
    /// A name to connect to.
    Domain(String),
    /// A task, or the queue.
    Task(TaskTarget),
    /// A session.
    Session(String),
    /// A memory.
    Memory(String),
    /// A handoff.
    Handoff(String),
    /// An agent.
    Agent(String),
    /// A policy component.
    Component(String),
    /// The audit log.
    AuditLog,
    /// A branch of a repository.
    Branch(String),
    /// A command line that a tool would run.
    Command(String),
    /// A tool that a harness would call.
    Tool(String),
}

/// How to read a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TextFormat {
    /// As it stands.
    Plain,
    /// A JSON document: every string in it is read.
    Json,
}

/// A text that the guardrails read, whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Text {
    /// Where it came from, for instance `task_description`.
    pub label: String,
    /// How to read it.
    pub format: TextFormat,
    /// The text.
    pub body: String,
}

/// A question to the policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PolicyRequest {
    /// Who asks.
    pub principal: PolicyPrincipal,
    /// Name of an operation of the bundle.
    pub operation: String,
    /// What is acted on.
    pub target: Target,
    /// What the guardrails read.
    pub texts: Vec<Text>,
}

impl PolicyRequest {
    /// Bytes of text in the request, as far as its length is the caller's choice.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        let principal = self.principal.agent_id.len() + self.principal.agent_type.len() + self.principal.profile.len();
        let texts: usize = self.texts.iter().map(|text| text.label.len() + text.body.len()).sum();
        principal + self.operation.len() + self.target.byte_len() + texts
    }
}

impl Target {
    fn byte_len(&self) -> usize {
        match self {
            Self::Task(task) => task.id.len() + task.task_type.len(),
            Self::AuditLog => 0,
            Self::LockKey(name)
            | Self::File(name)
            | Self::Domain(name)
            | Self::Session(name)
            | Self::Memory(name)
            | Self::Handoff(name)
            | Self::Agent(name)
            | Self::Component(name)
            | Self::Branch(name)
            | Self::Command(name)
            | Self::Tool(name) => name.len(),
        }
    }
}

// --------------------------------------------------------------- decision

/// Whether the operation may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// It may.
    Allow,
    /// It may not.
    Deny,
}

/// What a guardrail match leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The operation is denied.
    Block,
    /// It goes on, with a warning.
    Warn,
    /// It goes on, recorded.
    Log,
}

/// Which rules of the bundle decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EngineMode {
    /// The profile's native rules.
    Native,
    /// The Cedar policies.
    Cedar,
    /// Both, and they have to agree.
    Both,
}

/// A guardrail pattern that matched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Violation {
    /// Name of the pattern.
    pub pattern_name: String,
    /// The pattern's category.
    pub category: String,
    /// The pattern's severity.
    pub severity: Severity,
    /// What matched, shortened.
    pub matched_text: String,
    /// Label of the text it stood in.
    pub label: String,
    /// Least trust that passes this pattern.
    pub min_trust: u8,
    /// The caller's trust reaches `min_trust`: recorded, not a violation.
    pub passed_by_trust: bool,
    /// This match denies the operation, or would where the operation only reports.
    pub blocked: bool,
    /// What to do instead.
    pub remedy: String,
}

/// Limits that the store enforces inside the transaction of the change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Obligations {
    /// Longest lease of a lock.
    pub max_ttl_minutes: Option<u32>,
    /// Most locks that the agent holds at once.
    pub max_locks_held: Option<u32>,
    /// Most open tasks that the agent submitted.
    pub max_open_tasks: Option<u32>,
    /// Most calls a minute.
    pub max_calls_per_minute: Option<u32>,
}

/// What the policy answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Decision {
    /// Whether the operation may happen.
    pub effect: Effect,
    /// A code, `[a-z0-9_]{1,64}`.
    pub reason: String,
    /// The reason in words, about this request.
    pub detail: String,
    /// What would be allowed, or who can change it.
    pub remedy: String,
    /// Which rules decided.
    pub engine: EngineMode,
    /// Trust of the resolved profile, 0 to 4.
    pub trust_level: u8,
    /// Identifiers of the rules and policies that decided, sorted.
    pub deciding: Vec<String>,
    /// Errors met while evaluating; any of them denies.
    pub diagnostics: Vec<String>,
    /// Guardrail patterns that matched.
    pub violations: Vec<Violation>,
    /// Limits for the store to enforce.
    pub obligations: Obligations,
    /// The network rule that matched, where the target is a domain.
    pub network_rule: Option<String>,
}

// --------------------------------------------------------------- manifest

/// What an operation does, which sets the trust it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OperationClass {
    /// Looks.
    Read,
    /// Changes.
    Write,
    /// Changes what is not the caller's.
    Admin,
    /// Manages agents and components.
    Owner,
}

/// The kind of a [`Target`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the same names as `Target`, documented there")]
pub enum TargetKind {
    LockKey,
    File,
    Domain,
    Task,
    Session,
    Memory,
    Handoff,
    Agent,
    Component,
    AuditLog,
    Branch,
    Command,
    Tool,
}

/// An operation that the bundle knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OperationInfo {
    /// Its name.
    pub name: String,
    /// What it does.
    pub class: OperationClass,
    /// What it acts on.
    pub target: TargetKind,
    /// In words.
    pub description: String,
}

/// A profile of the bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProfileInfo {
    /// Its name.
    pub name: String,
    /// In words.
    pub description: String,
    /// Agent types it is meant for.
    pub agent_types: Vec<String>,
    /// Trust, 0 to 4.
    pub trust_level: u8,
    /// Operations it may do; empty means that the class decides.
    pub allowed_operations: Vec<String>,
    /// Operations it may never do.
    pub blocked_operations: Vec<String>,
    /// Operations it may do below the trust of their class.
    pub grants: Vec<String>,
    /// Task types it takes.
    pub task_types: Vec<String>,
    /// Globs of paths it may touch.
    pub paths_allow: Vec<String>,
    /// Globs of paths it may not touch.
    pub paths_deny: Vec<String>,
    /// Its limits.
    pub limits: Obligations,
}

/// A guardrail pattern of the bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PatternInfo {
    /// Its name.
    pub name: String,
    /// Its category.
    pub category: String,
    /// What a match leads to.
    pub severity: Severity,
    /// Least trust that passes it.
    pub min_trust: u8,
    /// In words.
    pub description: String,
    /// What to do instead.
    pub remedy: String,
}

/// A Cedar policy of the bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PolicyInfo {
    /// Its `@id`.
    pub id: String,
    /// Its `@reason`.
    pub reason: String,
    /// Permit or forbid.
    pub effect: Effect,
}

/// A network rule of the bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NetworkRuleInfo {
    /// Its identifier.
    pub id: String,
    /// The names it matches.
    pub pattern: String,
    /// Whether it allows.
    pub allow: bool,
    /// Lower comes first.
    pub priority: i32,
    /// The profile it belongs to; none for the bundle's own.
    pub profile: Option<String>,
}

/// What a component says that it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Manifest {
    /// Name of the bundle.
    pub name: String,
    /// Version of the bundle.
    pub version: String,
    /// `sha256:` and the digest of the bundle's files.
    pub bundle_digest: String,
    /// Which rules decide.
    pub engine: EngineMode,
    /// Operations.
    pub operations: Vec<OperationInfo>,
    /// Profiles.
    pub profiles: Vec<ProfileInfo>,
    /// Guardrail patterns.
    pub patterns: Vec<PatternInfo>,
    /// Cedar policies.
    pub policies: Vec<PolicyInfo>,
    /// Network rules.
    pub network_rules: Vec<NetworkRuleInfo>,
    /// How many cases [`super::PolicyComponent::run_tests`] runs.
    pub test_cases: u32,
}

// --------------------------------------------------------------- problems

/// What is wrong with a bundle or a policy, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// Path inside the bundle; empty for a text without a file.
    pub file: String,
    /// Counted from 1.
    pub line: Option<u32>,
    /// Counted from 1.
    pub column: Option<u32>,
    /// What is wrong.
    pub message: String,
    /// How to mend it.
    pub help: Option<String>,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.file.is_empty() {
            write!(f, "{}", self.file)?;
            if let Some(line) = self.line {
                write!(f, ":{line}")?;
                if let Some(column) = self.column {
                    write!(f, ":{column}")?;
                }
            }
            write!(f, ": ")?;
        }
        write!(f, "{}", self.message)?;
        match &self.help {
            Some(help) => write!(f, " ({help})"),
            None => Ok(()),
        }
    }
}

/// A file of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct BundleFile {
    /// Path inside the bundle, with `/`.
    pub path: String,
    /// Its text.
    pub text: String,
}

/// A case of the bundle's decision tables that came out otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TestFailure {
    /// File and name of the case.
    pub name: String,
    /// What the table says.
    pub expected: String,
    /// What the policy says.
    pub actual: String,
}

/// How the bundle's own tests went.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TestReport {
    /// Cases that came out as written.
    pub passed: u32,
    /// Cases that did not.
    pub failures: Vec<TestFailure>,
}
