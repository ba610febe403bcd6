//! Status reports: what an agent says of itself, and how urgent that is.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::action::{Action, Command, Lookout, Subject};
use super::input::{AGENT_ID, AGENT_TYPE, Field, Input, Kind, Preset};
use super::{json_text, plain};
use crate::authn::Principal;
use crate::domain::session::Urgency;
use crate::engine::types::Target;
use crate::error::Result;

/// Says how the caller is getting on. Its last report is what others see; it counts as a heartbeat.
#[derive(Debug, Clone)]
pub struct StatusReport {
    /// The session it is about; none for the one last heard of.
    pub session_id: Option<String>,
    /// Where the caller is in its work.
    pub phase: Option<String>,
    /// In words.
    pub message: Option<String>,
    /// Whether it cannot go on without a human.
    pub needs_human: bool,
    /// What happened.
    pub event_type: Option<String>,
    /// The change it works on.
    pub change_id: Option<String>,
    /// More, as data.
    pub metadata: Option<Value>,
}

impl StatusReport {
    /// How soon somebody should look at it.
    #[must_use]
    pub fn urgency(&self) -> Urgency {
        Urgency::of(self.needs_human, self.event_type.as_deref())
    }
}

/// What a report answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct StatusReported {
    /// Whether it is stored.
    pub success: bool,
    /// `high` when a human is needed, `medium` when something went wrong, else `low`.
    pub urgency: Urgency,
}

impl Action for StatusReport {
    const NAME: &'static str = "status_report";
    const OPERATION: &'static str = "heartbeat";
    const INPUT: &'static [Field] = &[
        AGENT_ID,
        AGENT_TYPE,
        Field::new("session_id", Kind::Id, "The session that is alive; without one, your session last heard of"),
        Field::new("phase", Kind::Text(256), "Where you are in your work"),
        Field::new("message", Kind::Text(16_384), "How it goes, in words"),
        Field::new("needs_human", Kind::Bool, "Whether you cannot go on without a human").preset(Preset::Bool(false)),
        Field::new(
            "event_type",
            Kind::Text(256),
            "What happened; `error`, `blocked`, `escalation` and `failed` make the report urgent",
        ),
        Field::new("change_id", Kind::Text(256), "The change you work on"),
        Field::new("metadata", Kind::Object, "More, as data"),
    ];
    type Output = StatusReported;

    fn parse(input: &Input, _who: &Principal) -> Result<Self> {
        Ok(Self {
            session_id: input.opt_text("session_id"),
            phase: input.opt_text("phase"),
            message: input.opt_text("message"),
            needs_human: input.opt_bool("needs_human").unwrap_or(false),
            event_type: input.opt_text("event_type"),
            change_id: input.opt_text("change_id"),
            metadata: input.object("metadata").cloned().map(Value::Object),
        })
    }

    async fn subject(&self, _at: Lookout<'_>) -> Result<Subject> {
        let mut texts = plain(&[
            ("phase", self.phase.as_deref()),
            ("message", self.message.as_deref()),
            ("event_type", self.event_type.as_deref()),
            ("change_id", self.change_id.as_deref()),
        ]);
        texts.extend(self.metadata.as_ref().map(|metadata| json_text("metadata", metadata)));
        Ok(Subject { target: self.resource(), texts })
    }

    fn resource(&self) -> Target {
        Target::Session(self.session_id.clone().unwrap_or_else(|| "*".to_owned()))
    }
}

impl Command for StatusReport {
    fn is_refused(_output: &StatusReported) -> bool {
        false
    }
}
