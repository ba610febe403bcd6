//! Handoffs: what one agent leaves to the next. Written once, never changed.

use schemars::JsonSchema;
use serde::Serialize;

use super::action::{Action, Command, Lookout, Query, Subject};
use super::input::{AGENT_ID, AGENT_TYPE, Field, Input, Kind};
use super::sessions::SESSION_ID;
use super::{list_text, plain};
use crate::authn::Principal;
use crate::clock::Time;
use crate::engine::types::Target;
use crate::error::Result;
use crate::gate::Permit;

/// A list of a handoff.
const LIST: Kind = Kind::Texts(200, 4096);

/// Leaves a handoff.
#[derive(Debug, Clone)]
pub struct HandoffWrite {
    /// Chosen by the service.
    pub handoff_id: String,
    /// Recorded as given.
    pub session_id: Option<String>,
    /// Where things stand, in words.
    pub summary: String,
    /// The rest of it.
    pub lists: HandoffLists,
}

/// The lists of a handoff; empty where there is nothing to say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct HandoffLists {
    /// What is done.
    pub completed_work: Vec<String>,
    /// What is begun.
    pub in_progress: Vec<String>,
    /// What was decided, and why.
    pub decisions: Vec<String>,
    /// What to do next.
    pub next_steps: Vec<String>,
    /// Where to look.
    pub relevant_files: Vec<String>,
}

/// What a handoff answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct HandoffWritten {
    /// Whether it is stored.
    pub success: bool,
    /// Its identifier.
    pub handoff_id: Option<String>,
    /// Why not.
    pub error: Option<&'static str>,
}

impl Action for HandoffWrite {
    const NAME: &'static str = "handoff_write";
    const OPERATION: &'static str = "write_handoff";
    const INPUT: &'static [Field] = &[
        Field::new("summary", Kind::Text(65_536), "Where things stand, in words").required(),
        AGENT_ID,
        AGENT_TYPE,
        SESSION_ID,
        Field::new("completed_work", LIST, "What is done"),
        Field::new("in_progress", LIST, "What is begun"),
        Field::new("decisions", LIST, "What was decided, and why"),
        Field::new("next_steps", LIST, "What to do next"),
        Field::new("relevant_files", LIST, "Where to look"),
    ];
    type Output = HandoffWritten;

    fn parse(input: &Input, _who: &Principal) -> Result<Self> {
        Ok(Self {
            handoff_id: super::new_id(),
            session_id: input.opt_text("session_id"),
            summary: input.text("summary"),
            lists: HandoffLists {
                completed_work: input.texts("completed_work"),
                in_progress: input.texts("in_progress"),
                decisions: input.texts("decisions"),
                next_steps: input.texts("next_steps"),
                relevant_files: input.texts("relevant_files"),
            },
        })
    }

    async fn subject(&self, _at: Lookout<'_>) -> Result<Subject> {
        let mut texts = plain(&[("summary", Some(&self.summary)), ("session_id", self.session_id.as_deref())]);
        texts.extend(list_text("completed_work", &self.lists.completed_work));
        texts.extend(list_text("in_progress", &self.lists.in_progress));
        texts.extend(list_text("decisions", &self.lists.decisions));
        texts.extend(list_text("next_steps", &self.lists.next_steps));
        texts.extend(list_text("relevant_files", &self.lists.relevant_files));
        Ok(Subject { target: self.resource(), texts })
    }

    fn resource(&self) -> Target {
        Target::Handoff(self.handoff_id.clone())
    }
}

impl Command for HandoffWrite {
    fn is_refused(output: &HandoffWritten) -> bool {
        !output.success
    }
}

/// Reads handoffs, newest first.
#[derive(Debug, Clone)]
pub struct HandoffRead {
    /// Only this agent's.
    pub agent_name: Option<String>,
    /// Most entries.
    pub limit: i64,
}

/// A handoff.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct HandoffEntry {
    /// Its identifier.
    pub id: String,
    /// Who left it.
    pub agent_name: String,
    /// In which session, as the agent named it.
    pub session_id: Option<String>,
    /// Where things stood, in words.
    pub summary: String,
    #[serde(flatten)]
    #[expect(missing_docs, reason = "described there")]
    pub lists: HandoffLists,
    /// When it was left.
    pub created_at: Time,
}

/// Handoffs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct HandoffListing {
    /// The handoffs, newest first.
    pub handoffs: Vec<HandoffEntry>,
    #[serde(flatten)]
    #[expect(missing_docs, reason = "the same for every list")]
    pub listing: super::Listing,
}

impl Action for HandoffRead {
    const NAME: &'static str = "handoff_read";
    const OPERATION: &'static str = "read_handoff";
    const INPUT: &'static [Field] = &[
        Field::new("agent_name", Kind::Id, "Only this agent's handoffs; without one, everybody's"),
        Field::new("limit", Kind::Int(1, 100), "Most entries in the answer").default(1),
        AGENT_ID,
        AGENT_TYPE,
    ];
    type Output = HandoffListing;

    fn parse(input: &Input, _who: &Principal) -> Result<Self> {
        Ok(Self { agent_name: input.opt_text("agent_name"), limit: input.int("limit") })
    }

    async fn subject(&self, _at: Lookout<'_>) -> Result<Subject> {
        Ok(Subject::of(self.resource()))
    }

    fn resource(&self) -> Target {
        Target::Handoff(self.agent_name.clone().unwrap_or_else(|| "*".to_owned()))
    }
}

impl Query for HandoffRead {
    async fn read(&self, at: Lookout<'_>, _permit: &Permit<Self>) -> Result<HandoffListing> {
        let page = at.view.handoffs(self).await?;
        let listing = super::Listing::of(&page, "name an agent with `agent_name`, or raise `limit` (most 100)");
        Ok(HandoffListing { handoffs: page.items, listing })
    }
}
