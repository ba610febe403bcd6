//! What is asked: who, which operation, on what, with which texts.
//!
//! These types mirror `wit/policy.wit` one to one, so that the shell around this
//! crate only copies fields.

use serde::{Deserialize, Serialize};

/// Who asks. There is no trust level here: it is resolved from the profile, so
/// that no caller can pass a wrong one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Principal {
    /// Identity of the agent.
    pub agent_id: String,
    /// Kind of agent, for instance `claude_code`.
    pub agent_type: String,
    /// Name of a profile of the bundle.
    pub profile: String,
    /// The store's fact about the agent; it means trust 0.
    pub suspended: bool,
}

/// A task as far as policy looks at it. An empty `task_type` is the queue
/// itself: a claim that found nothing to claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskTarget {
    /// Identity of the task.
    pub id: String,
    /// Kind of task, for instance `review`.
    pub task_type: String,
    /// 1 is the most urgent, 10 the least.
    pub priority: u8,
}

/// What is acted on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// A lock key: a path relative to the repository, or a logical key.
    LockKey(String),
    /// A file that a tool edits, relative to the repository.
    File(String),
    /// A name to connect to.
    Domain(String),
    /// A task of the queue.
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

/// The kinds of target, without their content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetKind {
    /// See [`Target::LockKey`].
    LockKey,
    /// See [`Target::File`].
    File,
    /// See [`Target::Domain`].
    Domain,
    /// See [`Target::Task`].
    Task,
    /// See [`Target::Session`].
    Session,
    /// See [`Target::Memory`].
    Memory,
    /// See [`Target::Handoff`].
    Handoff,
    /// See [`Target::Agent`].
    Agent,
    /// See [`Target::Component`].
    Component,
    /// See [`Target::AuditLog`].
    AuditLog,
    /// See [`Target::Branch`].
    Branch,
    /// See [`Target::Command`].
    Command,
    /// See [`Target::Tool`].
    Tool,
}

impl Target {
    /// Which kind of target this is.
    #[must_use]
    pub fn kind(&self) -> TargetKind {
        match self {
            Self::LockKey(_) => TargetKind::LockKey,
            Self::File(_) => TargetKind::File,
            Self::Domain(_) => TargetKind::Domain,
            Self::Task(_) => TargetKind::Task,
            Self::Session(_) => TargetKind::Session,
            Self::Memory(_) => TargetKind::Memory,
            Self::Handoff(_) => TargetKind::Handoff,
            Self::Agent(_) => TargetKind::Agent,
            Self::Component(_) => TargetKind::Component,
            Self::AuditLog => TargetKind::AuditLog,
            Self::Branch(_) => TargetKind::Branch,
            Self::Command(_) => TargetKind::Command,
            Self::Tool(_) => TargetKind::Tool,
        }
    }

    /// The identity of what is acted on; empty for the audit log.
    #[must_use]
    pub fn id(&self) -> &str {
        match self {
            Self::LockKey(id)
            | Self::File(id)
            | Self::Domain(id)
            | Self::Session(id)
            | Self::Memory(id)
            | Self::Handoff(id)
            | Self::Agent(id)
            | Self::Component(id)
            | Self::Branch(id)
            | Self::Command(id)
            | Self::Tool(id) => id,
            Self::Task(task) => &task.id,
            Self::AuditLog => "",
        }
    }
}

impl TargetKind {
    /// Every kind, in the order of the contract.
    pub const ALL: [Self; 13] = [
        Self::LockKey,
        Self::File,
        Self::Domain,
        Self::Task,
        Self::Session,
        Self::Memory,
        Self::Handoff,
        Self::Agent,
        Self::Component,
        Self::AuditLog,
        Self::Branch,
        Self::Command,
        Self::Tool,
    ];

    /// The name that bundles use, for instance `lock_key`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::LockKey => "lock_key",
            Self::File => "file",
            Self::Domain => "domain",
            Self::Task => "task",
            Self::Session => "session",
            Self::Memory => "memory",
            Self::Handoff => "handoff",
            Self::Agent => "agent",
            Self::Component => "component",
            Self::AuditLog => "audit_log",
            Self::Branch => "branch",
            Self::Command => "command",
            Self::Tool => "tool",
        }
    }

    /// The Cedar entity type that stands for this kind.
    #[must_use]
    pub fn entity_type(self) -> &'static str {
        match self {
            Self::LockKey => "LockKey",
            Self::File => "File",
            Self::Domain => "Domain",
            Self::Task => "Task",
            Self::Session => "Session",
            Self::Memory => "Memory",
            Self::Handoff => "Handoff",
            Self::Agent => "Agent",
            Self::Component => "Component",
            Self::AuditLog => "AuditLog",
            Self::Branch => "Branch",
            Self::Command => "Command",
            Self::Tool => "Tool",
        }
    }
}

/// How to read a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TextFormat {
    /// As it stands.
    #[default]
    Plain,
    /// A JSON document: every string in it is read, and every array of strings
    /// also as one command line.
    Json,
}

/// A text that the guardrails read, whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Text {
    /// Where it came from, for instance `task_description`.
    pub label: String,
    /// How to read it.
    pub format: TextFormat,
    /// The text itself.
    pub body: String,
}

/// One question to the policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Who asks.
    pub principal: Principal,
    /// Name of an operation of the bundle, for instance `acquire_lock`.
    pub operation: String,
    /// What is acted on.
    pub target: Target,
    /// What the guardrails read.
    pub texts: Vec<Text>,
}
