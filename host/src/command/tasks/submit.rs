//! Putting a task into the queue.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use super::task_target;
use crate::authn::Principal;
use crate::clock::Time;
use crate::command::action::{Action, Command, Lookout, Subject, Wakes};
use crate::command::input::{AGENT_ID, AGENT_TYPE, Field, Input, Kind, Place};
use crate::command::{json_text, plain};
use crate::engine::types::Target;
use crate::error::Result;

/// Puts a task into the queue.
#[derive(Debug, Clone)]
pub struct TaskSubmit {
    /// Chosen by the service.
    pub task_id: String,
    /// What kind of work.
    pub task_type: String,
    /// The work, in words.
    pub description: String,
    /// The work, as data.
    pub input_data: Option<Value>,
    /// 1 is first, 10 last.
    pub priority: i64,
    /// Tasks that must be completed before.
    pub depends_on: Vec<String>,
    /// When the task is given up.
    pub deadline: Option<Time>,
    /// Attempts it may take.
    pub max_attempts: i64,
    /// Registered archetype that a claimant needs.
    pub required_archetype: Option<String>,
    /// Trust that a claimant needs.
    pub required_trust: Option<i64>,
}

/// What a submission answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct TaskSubmitted {
    /// Whether the task is in the queue.
    pub success: bool,
    /// Its identifier.
    pub task_id: Option<String>,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
}

const REQUIREMENTS: &[Field] = &[
    Field::new("archetype", Kind::Id, "Registered archetype that a claimant needs"),
    Field::new("min_trust_level", Kind::Int(0, 4), "Trust that a claimant needs"),
];

impl Action for TaskSubmit {
    const NAME: &'static str = "task_submit";
    const OPERATION: &'static str = "submit_work";
    const INPUT: &'static [Field] = &[
        Field::new("task_type", Kind::Text(256), "What kind of work").required(),
        Field::new("task_description", Kind::Text(1 << 20), "The work, in words").required(),
        Field::new("input_data", Kind::Object, "The work, as data"),
        Field::new("priority", Kind::Int(1, 10), "1 is first, 10 last").default(5).code("priority_out_of_range"),
        Field::new("depends_on", Kind::Uuids(1000), "Tasks that must be completed before"),
        Field::new("deadline", Kind::Time, "When the task is given up"),
        Field::new("max_attempts", Kind::Int(1, 100), "Attempts it may take").default(3),
        Field::new("agent_requirements", Kind::Object, "What a claimant needs: `archetype`, `min_trust_level`"),
        AGENT_ID,
        AGENT_TYPE,
    ];
    type Output = TaskSubmitted;

    fn parse(input: &Input, _who: &Principal) -> Result<Self> {
        let empty = Map::new();
        let requirements = input.object("agent_requirements").unwrap_or(&empty);
        let requirements = Input::read(REQUIREMENTS, requirements, Place::Body)?;
        let mut depends_on = input.texts("depends_on");
        depends_on.sort_unstable();
        depends_on.dedup();
        Ok(Self {
            task_id: crate::command::new_id(),
            task_type: input.text("task_type"),
            description: input.text("task_description"),
            input_data: input.object("input_data").cloned().map(Value::Object),
            priority: input.int("priority"),
            depends_on,
            deadline: input.time("deadline"),
            max_attempts: input.int("max_attempts"),
            required_archetype: requirements.opt_text("archetype"),
            required_trust: requirements.opt_int("min_trust_level"),
        })
    }

    async fn subject(&self, _at: Lookout<'_>) -> Result<Subject> {
        let mut texts = plain(&[
            ("task_type", Some(&self.task_type)),
            ("task_description", Some(&self.description)),
            ("archetype", self.required_archetype.as_deref()),
        ]);
        texts.extend(self.input_data.as_ref().map(|data| json_text("input_data", data)));
        Ok(Subject { target: self.resource(), texts })
    }

    fn resource(&self) -> Target {
        task_target(&self.task_id, &self.task_type, self.priority)
    }
}

impl Command for TaskSubmit {
    fn is_refused(output: &TaskSubmitted) -> bool {
        !output.success
    }

    fn wakes(output: &TaskSubmitted) -> Wakes {
        Wakes::tasks_if(output.success)
    }
}
