//! A session: one run of an agent, alive while it is heard of. And how urgent what an agent says of itself is.

use schemars::JsonSchema;
use serde::Serialize;

use crate::clock::Time;

/// Minutes without a heartbeat after which a session counts as idle.
pub const ACTIVE_MINUTES: i64 = 15;

/// A session as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// As its agent named it, or chosen by the service.
    pub session_id: String,
    /// Whose it is, for good.
    pub agent_id: String,
    /// The agent's type.
    pub agent_type: String,
    /// What the agent says it can do.
    pub capabilities: Vec<String>,
    /// What the agent says it is at.
    pub current_task: Option<String>,
    /// When it was registered, or registered again after it had ended.
    pub started_at: Time,
    /// When it was last heard of.
    pub last_heartbeat: Time,
    /// When cleanup ended it.
    pub ended_at: Option<Time>,
}

/// Whether a session is heard of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Heard of within [`ACTIVE_MINUTES`].
    Active,
    /// Not heard of since.
    Idle,
    /// Ended.
    Disconnected,
}

/// All standings, by name.
pub const STANDINGS: [&str; 3] = ["active", "idle", "disconnected"];

impl Session {
    /// Where it stands at `now`. It is idle from the very instant at which a cleanup of that age would end it.
    #[must_use]
    pub fn standing(&self, now: Time) -> Standing {
        if self.ended_at.is_some() {
            Standing::Disconnected
        } else if now < self.last_heartbeat.plus_minutes(ACTIVE_MINUTES) {
            Standing::Active
        } else {
            Standing::Idle
        }
    }

    /// Registered again by its agent: what is given anew counts, and an ended one goes on.
    #[must_use]
    pub fn registered(self, agent_type: &str, said: Said, now: Time) -> Self {
        let is_new_start = self.ended_at.is_some();
        Self {
            agent_type: agent_type.to_owned(),
            capabilities: said.capabilities.unwrap_or(self.capabilities),
            current_task: said.current_task.or(self.current_task),
            started_at: if is_new_start { now } else { self.started_at },
            last_heartbeat: self.last_heartbeat.max(now),
            ended_at: None,
            ..self
        }
    }
}

/// What an agent says of itself when it registers a session; what is absent stays as it was.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said {
    /// What it can do.
    pub capabilities: Option<Vec<String>>,
    /// What it is at.
    pub current_task: Option<String>,
}

/// How soon somebody should look at a status report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Urgency {
    /// A human is needed.
    High,
    /// Something went wrong.
    Medium,
    /// Nothing special.
    Low,
}

/// Event types that mean trouble, in any case of letters.
pub const TROUBLE: [&str; 4] = ["error", "blocked", "escalation", "failed"];

impl Urgency {
    /// The urgency of a report.
    #[must_use]
    pub fn of(needs_human: bool, event_type: Option<&str>) -> Self {
        let is_trouble = |kind: &str| TROUBLE.iter().any(|word| word.eq_ignore_ascii_case(kind.trim()));
        if needs_human {
            Self::High
        } else if event_type.is_some_and(is_trouble) {
            Self::Medium
        } else {
            Self::Low
        }
    }

    /// The name on the wire and in the store.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Medium => "medium",
            Self::Low => "low",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> Session {
        Session {
            session_id: "s".to_owned(),
            agent_id: "a".to_owned(),
            agent_type: "t".to_owned(),
            capabilities: vec!["rust".to_owned()],
            current_task: Some("parser".to_owned()),
            started_at: Time::from_micros(0),
            last_heartbeat: Time::from_micros(0),
            ended_at: None,
        }
    }

    #[test]
    fn a_session_is_idle_after_a_quarter_of_an_hour() {
        let quarter = Time::from_micros(0).plus_minutes(15);
        assert_eq!(session().standing(Time::from_micros(quarter.as_micros() - 1)), Standing::Active);
        assert_eq!(session().standing(quarter), Standing::Idle);
        let ended = Session { ended_at: Some(quarter), ..session() };
        assert_eq!(ended.standing(quarter), Standing::Disconnected);
    }

    #[test]
    fn registering_again_keeps_what_is_not_said_and_revives() {
        let now = Time::from_micros(0).plus_minutes(60);
        let again = session().registered("u", Said::default(), now);
        assert_eq!((again.agent_type.as_str(), again.current_task.as_deref()), ("u", Some("parser")));
        assert_eq!((again.capabilities, again.started_at), (session().capabilities, session().started_at));
        assert_eq!(again.last_heartbeat, now);
        let ended = Session { ended_at: Some(now), ..session() };
        let said = Said { capabilities: Some(Vec::new()), current_task: Some("lexer".to_owned()) };
        let revived = ended.registered("t", said, now);
        assert_eq!((revived.ended_at, revived.started_at), (None, now));
        assert_eq!((revived.capabilities.len(), revived.current_task.as_deref()), (0, Some("lexer")));
    }

    #[test]
    fn urgency_knows_humans_before_trouble() {
        assert_eq!(Urgency::of(true, Some("progress")), Urgency::High);
        assert_eq!(Urgency::of(false, Some("BLOCKED")), Urgency::Medium);
        assert_eq!(Urgency::of(false, Some("unblocked")), Urgency::Low);
        assert_eq!(Urgency::of(false, None), Urgency::Low);
        assert_eq!([Urgency::High, Urgency::Medium, Urgency::Low].map(Urgency::as_str), ["high", "medium", "low"]);
    }
}
