//! What is answered, and what a bundle says about itself.

use serde::{Deserialize, Serialize};

use crate::request::TargetKind;

/// Allowed or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// The operation may happen, within the obligations.
    Allow,
    /// It may not.
    Deny,
}

/// What a guardrail match means for a caller whose trust does not pass it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The operation is denied.
    Block,
    /// Recorded, and worth a look.
    Warn,
    /// Recorded.
    Log,
}

/// Which engine decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EngineMode {
    /// The rules of this crate over the profiles.
    Native,
    /// The Cedar policies of the bundle.
    Cedar,
    /// Both, which must agree.
    #[default]
    Both,
}

/// A guardrail pattern that matched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// Name of the pattern.
    pub pattern_name: String,
    /// Category of the pattern.
    pub category: String,
    /// Severity of the pattern.
    pub severity: Severity,
    /// What matched, at most 200 characters.
    pub matched_text: String,
    /// Label of the text it stood in.
    pub label: String,
    /// Least trust that passes the pattern.
    pub min_trust: u8,
    /// The caller's trust reaches `min_trust`: recorded, not a violation.
    pub passed_by_trust: bool,
    /// This match denies the operation, or would where the operation only reports.
    pub blocked: bool,
    /// What to do instead, in one sentence.
    pub remedy: String,
}

/// Limits that the store enforces inside the transaction of the change. `None`
/// is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Obligations {
    /// Longest lease of a lock.
    pub max_ttl_minutes: Option<u32>,
    /// Most locks held at once.
    pub max_locks_held: Option<u32>,
    /// Most tasks claimed at once.
    pub max_open_tasks: Option<u32>,
    /// Most calls in a minute.
    pub max_calls_per_minute: Option<u32>,
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// Allowed or not.
    pub effect: Effect,
    /// A stable code, see [`crate::reason`].
    pub reason: String,
    /// The reason in words, about this request.
    pub detail: String,
    /// What would be allowed, or who can change it; empty when allowed.
    pub remedy: String,
    /// The engine that decided.
    pub engine: EngineMode,
    /// Trust of the profile that was resolved; 0 when none was.
    pub trust_level: u8,
    /// Identifiers of the rules and Cedar policies that decided, sorted.
    pub deciding: Vec<String>,
    /// Errors met while evaluating; any of them denies.
    pub diagnostics: Vec<String>,
    /// Guardrail matches, also those that the caller's trust passes.
    pub violations: Vec<Violation>,
    /// Limits that come with an allowance.
    pub obligations: Obligations,
    /// The network rule that matched, where the target is a domain.
    pub network_rule: Option<String>,
}

/// How much trust an operation needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationClass {
    /// Trust 1.
    Read,
    /// Trust 2.
    Write,
    /// Trust 3.
    Admin,
    /// Trust 4.
    Owner,
}

impl OperationClass {
    /// Least trust for an operation of this class.
    #[must_use]
    pub fn min_trust(self) -> u8 {
        match self {
            Self::Read => 1,
            Self::Write => 2,
            Self::Admin => 3,
            Self::Owner => 4,
        }
    }

    /// The name that bundles and Cedar action groups use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
            Self::Owner => "owner",
        }
    }
}

/// An operation of the bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationInfo {
    /// Its name.
    pub name: String,
    /// How much trust it needs.
    pub class: OperationClass,
    /// What it acts on.
    pub target: TargetKind,
    /// What it does, in one sentence.
    pub description: String,
}

/// A profile of the bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfileInfo {
    /// Its name.
    pub name: String,
    /// Whom it is for.
    pub description: String,
    /// Agent types that may have it; `*` is any.
    pub agent_types: Vec<String>,
    /// 0 suspended to 4 admin.
    pub trust_level: u8,
    /// The only operations allowed; empty leaves it to the class.
    pub allowed_operations: Vec<String>,
    /// Operations never allowed.
    pub blocked_operations: Vec<String>,
    /// Operations allowed below the threshold of their class.
    pub grants: Vec<String>,
    /// The only task types it may work on; empty is any.
    pub task_types: Vec<String>,
    /// Globs of paths it may touch; empty is any.
    pub paths_allow: Vec<String>,
    /// Globs of paths it may not touch.
    pub paths_deny: Vec<String>,
    /// Limits that come with an allowance.
    pub limits: Obligations,
}

/// A guardrail pattern of the bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PatternInfo {
    /// Its name.
    pub name: String,
    /// What it belongs to, for instance `git`.
    pub category: String,
    /// What a match means.
    pub severity: Severity,
    /// Least trust that passes it.
    pub min_trust: u8,
    /// What it catches.
    pub description: String,
    /// What to do instead.
    pub remedy: String,
}

/// A Cedar policy of the bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyInfo {
    /// Its `@id`.
    pub id: String,
    /// Its `@reason`.
    pub reason: String,
    /// Permit or forbid.
    pub effect: Effect,
}

/// A network rule of the bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRuleInfo {
    /// Its identity.
    pub id: String,
    /// A name, or `*.` and a name.
    pub pattern: String,
    /// Allows or denies.
    pub allow: bool,
    /// The higher, the earlier it is tried.
    pub priority: i32,
    /// The profile it belongs to; none for the bundle's own.
    pub profile: Option<String>,
}

/// What a bundle says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Name of the bundle.
    pub name: String,
    /// Version of the bundle.
    pub version: String,
    /// `sha256:` and the digest of the bundle's files.
    pub bundle_digest: String,
    /// Which engine decides.
    pub engine: EngineMode,
    /// Operations, in the order of the file.
    pub operations: Vec<OperationInfo>,
    /// Profiles, sorted by name.
    pub profiles: Vec<ProfileInfo>,
    /// Guardrail patterns, sorted by file and then as written.
    pub patterns: Vec<PatternInfo>,
    /// Cedar policies, sorted by id.
    pub policies: Vec<PolicyInfo>,
    /// Network rules: the bundle's, then those of profiles, in the order tried.
    pub network_rules: Vec<NetworkRuleInfo>,
    /// How many decision-table cases the bundle carries.
    pub test_cases: u32,
}
