//! Sessions: register, heartbeat, list, and cleaning up after those that are no longer heard of.

use schemars::JsonSchema;
use serde::Serialize;

use super::action::{Action, Command, Lookout, Query, Subject, Wakes};
use super::input::{AGENT_ID, AGENT_TYPE, Field, Input, Kind, LIMIT, Preset};
use super::{list_text, plain};
use crate::authn::Principal;
use crate::clock::Time;
use crate::domain::memory::union;
use crate::domain::session::{STANDINGS, Said, Session, Standing};
use crate::engine::types::Target;
use crate::error::Result;
use crate::gate::Permit;

/// Business reason: the session is another agent's.
pub const SESSION_OWNED_BY_OTHER: &str = "session_owned_by_other";
/// Business reason: the agent has as many live sessions as one may have; they end when they are not heard of.
pub const TOO_MANY_SESSIONS: &str = "too_many_sessions";
/// Business reason: no session of the caller's. Whether it is another's is not told.
pub const SESSION_NOT_FOUND: &str = "session_not_found";
/// Business reason: the caller's session was ended; it must be registered again.
pub const SESSION_ENDED: &str = "session_ended";

/// The caller's session on what it writes. One that the service does not know is no error.
pub(super) const SESSION_ID: Field = Field::new("session_id", Kind::Id, "The caller's session, recorded as given");

// ---------------------------------------------------------------- register

/// Registers a session of the caller's, or says anew what it is at.
#[derive(Debug, Clone)]
pub struct SessionRegister {
    /// As the caller named it, or chosen by the service.
    pub session_id: String,
    /// What the caller says of itself.
    pub said: Said,
}

/// What a registration answers; every key is always there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct SessionRegistered {
    /// Whether the session is the caller's and live now.
    pub success: bool,
    /// The session.
    pub session_id: Option<String>,
    /// Why not: `session_owned_by_other`.
    pub reason: Option<&'static str>,
    /// The same, for clients that look here.
    pub error: Option<&'static str>,
}

impl Action for SessionRegister {
    const NAME: &'static str = "session_register";
    const OPERATION: &'static str = "register_session";
    const INPUT: &'static [Field] = &[
        AGENT_ID,
        AGENT_TYPE,
        Field::new("session_id", Kind::Id, "A name of your own for the session; without one you are given one"),
        Field::new("capabilities", Kind::Texts(50, 64), "What you can do, in single words"),
        Field::new("current_task", Kind::Text(4096), "What you are about to do"),
    ];
    type Output = SessionRegistered;

    fn parse(input: &Input, _who: &Principal) -> Result<Self> {
        // An empty list is said; only an absent one leaves what was said before.
        let is_said = input.to_json().get("capabilities").is_some();
        let capabilities = is_said.then(|| union(input.texts("capabilities"), Vec::new()));
        Ok(Self {
            session_id: input.opt_text("session_id").unwrap_or_else(super::new_id),
            said: Said { capabilities, current_task: input.opt_text("current_task") },
        })
    }

    async fn subject(&self, _at: Lookout<'_>) -> Result<Subject> {
        let mut texts =
            plain(&[("session_id", Some(&self.session_id)), ("current_task", self.said.current_task.as_deref())]);
        texts.extend(list_text("capabilities", self.said.capabilities.as_deref().unwrap_or_default()));
        Ok(Subject { target: self.resource(), texts })
    }

    fn resource(&self) -> Target {
        Target::Session(self.session_id.clone())
    }
}

impl Command for SessionRegister {
    fn is_refused(output: &SessionRegistered) -> bool {
        !output.success
    }
}

// --------------------------------------------------------------- heartbeat

/// Says that a session of the caller's is alive.
#[derive(Debug, Clone)]
pub struct SessionHeartbeat {
    /// Which; none for the one that was last heard of.
    pub session_id: Option<String>,
}

/// What a heartbeat answers; every key is always there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct SessionBeat {
    /// Whether the session goes on.
    pub success: bool,
    /// The session.
    pub session_id: Option<String>,
    /// Why not: `session_not_found`, or `session_ended`, which takes a new registration.
    pub error: Option<&'static str>,
    /// The same, as on every refusal.
    pub reason: Option<&'static str>,
}

impl SessionBeat {
    /// The session goes on.
    #[must_use]
    pub const fn done(session_id: String) -> Self {
        Self { success: true, session_id: Some(session_id), error: None, reason: None }
    }

    /// It does not.
    #[must_use]
    pub const fn refused(session_id: Option<String>, reason: &'static str) -> Self {
        Self { success: false, session_id, error: Some(reason), reason: Some(reason) }
    }
}

impl Action for SessionHeartbeat {
    const NAME: &'static str = "session_heartbeat";
    const OPERATION: &'static str = "heartbeat";
    const INPUT: &'static [Field] = &[
        Field::new("session_id", Kind::Id, "Which session; without one, your session that was last heard of"),
        AGENT_ID,
        AGENT_TYPE,
    ];
    type Output = SessionBeat;

    fn parse(input: &Input, _who: &Principal) -> Result<Self> {
        Ok(Self { session_id: input.opt_text("session_id") })
    }

    async fn subject(&self, _at: Lookout<'_>) -> Result<Subject> {
        Ok(Subject::of(self.resource()))
    }

    fn resource(&self) -> Target {
        Target::Session(self.session_id.clone().unwrap_or_else(|| "*".to_owned()))
    }
}

impl Command for SessionHeartbeat {
    fn is_refused(output: &SessionBeat) -> bool {
        !output.success
    }
}

// -------------------------------------------------------------------- list

/// Lists sessions: who is there and what they are at.
#[derive(Debug, Clone)]
pub struct SessionList {
    /// Only agents that say they can do this.
    pub capability: Option<String>,
    /// Only this standing; none for all but the ended ones.
    pub status: Option<String>,
    /// Only this agent's.
    pub agent_name: Option<String>,
    /// Most entries.
    pub limit: i64,
}

/// A session as lists show it, with what its agent last reported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct SessionEntry {
    /// Whose it is.
    pub agent_id: String,
    /// The agent's type.
    pub agent_type: String,
    /// The session.
    pub session_id: String,
    /// What the agent says it can do.
    pub capabilities: Vec<String>,
    /// Whether it is heard of.
    pub status: Standing,
    /// What the agent says it is at.
    pub current_task: Option<String>,
    /// When it was last heard of.
    pub last_heartbeat: Time,
    /// Since when.
    pub started_at: Time,
    /// The agent's phase, from its last status report.
    pub phase: Option<String>,
    /// The message of that report.
    pub message: Option<String>,
    /// Whether that report asks for a human.
    pub needs_human: Option<bool>,
}

impl SessionEntry {
    /// A session as it stands at `now`, without a report.
    #[must_use]
    pub fn of(session: Session, now: Time) -> Self {
        Self {
            status: session.standing(now),
            agent_id: session.agent_id,
            agent_type: session.agent_type,
            session_id: session.session_id,
            capabilities: session.capabilities,
            current_task: session.current_task,
            last_heartbeat: session.last_heartbeat,
            started_at: session.started_at,
            phase: None,
            message: None,
            needs_human: None,
        }
    }
}

/// Sessions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct SessionListing {
    /// The sessions, the one last heard of first.
    pub agents: Vec<SessionEntry>,
    #[serde(flatten)]
    #[expect(missing_docs, reason = "the same for every list")]
    pub listing: super::Listing,
}

impl Action for SessionList {
    const NAME: &'static str = "session_list";
    const OPERATION: &'static str = "discover_agents";
    const INPUT: &'static [Field] = &[
        Field::new("capability", Kind::Text(256), "Only agents that say they can do this"),
        Field::new("status", Kind::Choice(&STANDINGS), "Only this status; without one, all but the disconnected"),
        Field::new("agent_name", Kind::Id, "Only this agent's sessions"),
        LIMIT,
    ];
    type Output = SessionListing;

    fn parse(input: &Input, _who: &Principal) -> Result<Self> {
        Ok(Self {
            capability: input.opt_text("capability"),
            status: input.opt_text("status"),
            agent_name: input.opt_text("agent_name"),
            limit: input.int("limit"),
        })
    }

    async fn subject(&self, _at: Lookout<'_>) -> Result<Subject> {
        Ok(Subject::of(self.resource()))
    }

    fn resource(&self) -> Target {
        Target::Agent(self.agent_name.clone().unwrap_or_else(|| "*".to_owned()))
    }
}

impl Query for SessionList {
    async fn read(&self, at: Lookout<'_>, _permit: &Permit<Self>) -> Result<SessionListing> {
        let page = at.view.sessions(self).await?;
        let listing =
            super::Listing::of(&page, "narrow it with `capability` or `status`, or raise `limit` (most 1000)");
        Ok(SessionListing { agents: page.items, listing })
    }
}

// ----------------------------------------------------------------- cleanup

/// Ends sessions that are no longer heard of, and frees what agents without another live session held.
#[derive(Debug, Clone)]
pub struct SessionCleanup {
    /// Minutes without a heartbeat after which a session is ended.
    pub stale_threshold_minutes: i64,
    /// Only count; change nothing.
    pub dry_run: bool,
}

/// The most sessions, the most locks and the most claims of one cleanup, and the most tasks that fail with those claims: the
/// next call takes the rest. On PostgreSQL: half of the function `family_max`.
pub const CLEANUP_MAX: usize = 25_000;

/// What a cleanup did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct SessionsCleaned {
    /// Always true: a cleanup that finds nothing has succeeded.
    pub success: bool,
    /// Agents whose last live sessions were ended.
    pub agents_cleaned: i64,
    /// Locks of theirs that are free now.
    pub locks_released: i64,
    /// Claims of theirs that are back in the queue.
    pub tasks_requeued: i64,
    /// Agents that are left for another call, where it was too much to free at once; else absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining: Option<i64>,
    /// Whether anybody who waits may go on now. Never shown.
    #[serde(skip)]
    pub is_freed: bool,
}

impl Action for SessionCleanup {
    const NAME: &'static str = "session_cleanup";
    const OPERATION: &'static str = "cleanup_agents";
    const INPUT: &'static [Field] = &[
        Field::new("stale_threshold_minutes", Kind::Int(1, 10_080), "Minutes without a heartbeat that end a session")
            .default(15)
            .code("threshold_out_of_range"),
        Field::new("dry_run", Kind::Bool, "Only count what would be done").preset(Preset::Bool(false)),
        AGENT_ID,
        AGENT_TYPE,
    ];
    type Output = SessionsCleaned;

    fn parse(input: &Input, _who: &Principal) -> Result<Self> {
        let dry_run = input.opt_bool("dry_run").unwrap_or(false);
        Ok(Self { stale_threshold_minutes: input.int("stale_threshold_minutes"), dry_run })
    }

    async fn subject(&self, _at: Lookout<'_>) -> Result<Subject> {
        Ok(Subject::of(self.resource()))
    }

    fn resource(&self) -> Target {
        Target::Agent("*".to_owned())
    }
}

impl Command for SessionCleanup {
    fn is_refused(_output: &SessionsCleaned) -> bool {
        false
    }

    fn wakes(output: &SessionsCleaned) -> Wakes {
        if output.is_freed { Wakes::All } else { Wakes::Nothing }
    }
}
