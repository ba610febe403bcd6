//! What becomes of a claimed task: heartbeat, completion, withdrawal, and what time does.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::{CLAIM_TOKEN, LEASE_SECONDS, TASK_ID, queue, stored_target};
use crate::authn::Principal;
use crate::clock::Time;
use crate::command::action::{Action, Command, Lookout, Subject, Wakes};
use crate::command::input::{AGENT_ID, AGENT_TYPE, Field, Input, Kind};
use crate::command::{json_text, plain};
use crate::domain::task::Status;
use crate::engine::types::Target;
use crate::error::Result;

/// Extends the lease of a claim.
#[derive(Debug, Clone)]
pub struct TaskHeartbeat {
    /// The task.
    pub task_id: String,
    /// The token that the claim answered.
    pub claim_token: String,
    /// How long from now.
    pub lease_seconds: i64,
}

/// What a heartbeat answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct TaskBeat {
    /// Whether the claim goes on.
    pub success: bool,
    /// When it runs out.
    pub lease_expires_at: Option<Time>,
    /// Why not.
    pub reason: Option<&'static str>,
}

impl Action for TaskHeartbeat {
    const NAME: &'static str = "task_heartbeat";
    const OPERATION: &'static str = "complete_work";
    const INPUT: &'static [Field] = &[TASK_ID, CLAIM_TOKEN.required(), LEASE_SECONDS, AGENT_ID, AGENT_TYPE];
    type Output = TaskBeat;

    fn parse(input: &Input, _who: &Principal) -> Result<Self> {
        Ok(Self {
            task_id: input.text("task_id"),
            claim_token: input.text("claim_token"),
            lease_seconds: input.int("lease_seconds"),
        })
    }

    async fn subject(&self, at: Lookout<'_>) -> Result<Subject> {
        stored_target(at, &self.task_id).await.map(Subject::of)
    }

    fn resource(&self) -> Target {
        queue()
    }
}

impl Command for TaskHeartbeat {
    fn is_refused(output: &TaskBeat) -> bool {
        !output.success
    }
}

/// Reports how a claimed task went.
#[derive(Debug, Clone)]
pub struct TaskComplete {
    /// The task.
    pub task_id: String,
    /// Whether it was done.
    pub success: bool,
    /// What came of it.
    pub result: Option<Value>,
    /// What went wrong.
    pub error_message: Option<String>,
    /// If given, must be the present one.
    pub claim_token: Option<String>,
}

/// What a report or a withdrawal answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct TaskEnded {
    /// Whether it counted.
    pub success: bool,
    /// Where the task stands now.
    pub status: Option<Status>,
    /// The task.
    pub task_id: String,
    /// Why not.
    pub reason: Option<&'static str>,
}

impl TaskEnded {
    /// It did not count.
    #[must_use]
    pub fn refused(task_id: &str, reason: &'static str) -> Self {
        Self { success: false, status: None, task_id: task_id.to_owned(), reason: Some(reason) }
    }

    /// It counted.
    #[must_use]
    pub fn now(task_id: &str, status: Status) -> Self {
        Self { success: true, status: Some(status), task_id: task_id.to_owned(), reason: None }
    }
}

impl Action for TaskComplete {
    const NAME: &'static str = "task_complete";
    const OPERATION: &'static str = "complete_work";
    const INPUT: &'static [Field] = &[
        TASK_ID,
        AGENT_ID,
        AGENT_TYPE,
        Field::new("success", Kind::Bool, "Whether it was done").required(),
        Field::new("result", Kind::Object, "What came of it"),
        Field::new("error_message", Kind::Text(65_536), "What went wrong"),
        CLAIM_TOKEN,
    ];
    type Output = TaskEnded;

    fn parse(input: &Input, _who: &Principal) -> Result<Self> {
        Ok(Self {
            task_id: input.text("task_id"),
            success: input.opt_bool("success").unwrap_or(false),
            result: input.object("result").cloned().map(Value::Object),
            error_message: input.opt_text("error_message"),
            claim_token: input.opt_text("claim_token"),
        })
    }

    async fn subject(&self, at: Lookout<'_>) -> Result<Subject> {
        let mut texts = plain(&[("error_message", self.error_message.as_deref())]);
        texts.extend(self.result.as_ref().map(|result| json_text("result", result)));
        Ok(Subject { target: stored_target(at, &self.task_id).await?, texts })
    }

    fn resource(&self) -> Target {
        queue()
    }
}

impl Command for TaskComplete {
    fn is_refused(output: &TaskEnded) -> bool {
        !output.success
    }

    fn wakes(output: &TaskEnded) -> Wakes {
        Wakes::tasks_if(output.success)
    }
}

/// Withdraws a task that is not final. Its submitter may, and an admin.
#[derive(Debug, Clone)]
pub struct TaskCancel {
    /// The task.
    pub task_id: String,
    /// Why, in words.
    pub reason: Option<String>,
}

impl Action for TaskCancel {
    const NAME: &'static str = "task_cancel";
    const OPERATION: &'static str = "submit_work";
    const INPUT: &'static [Field] =
        &[TASK_ID, Field::new("reason", Kind::Text(4096), "Why, in words"), AGENT_ID, AGENT_TYPE];
    type Output = TaskEnded;

    fn parse(input: &Input, _who: &Principal) -> Result<Self> {
        Ok(Self { task_id: input.text("task_id"), reason: input.opt_text("reason") })
    }

    async fn subject(&self, at: Lookout<'_>) -> Result<Subject> {
        let target = stored_target(at, &self.task_id).await?;
        Ok(Subject { target, texts: plain(&[("cancel_reason", self.reason.as_deref())]) })
    }

    fn resource(&self) -> Target {
        queue()
    }
}

impl Command for TaskCancel {
    fn is_refused(output: &TaskEnded) -> bool {
        !output.success
    }
}

/// What time does to tasks: lapsed leases and passed deadlines. Runs as `system`.
#[derive(Debug, Clone)]
pub struct TaskExpire;

/// How many tasks time changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct TasksExpired {
    /// Back in the queue.
    pub requeued: i64,
    /// Given up, dependants included.
    pub failed: i64,
}

impl Action for TaskExpire {
    const NAME: &'static str = "task_expire";
    const OPERATION: &'static str = "expire_leases";
    const INPUT: &'static [Field] = &[];
    type Output = TasksExpired;

    fn parse(_input: &Input, _who: &Principal) -> Result<Self> {
        Ok(Self)
    }

    async fn subject(&self, _at: Lookout<'_>) -> Result<Subject> {
        Ok(Subject::of(queue()))
    }

    fn resource(&self) -> Target {
        queue()
    }
}

impl Command for TaskExpire {
    fn is_refused(_output: &TasksExpired) -> bool {
        false
    }

    fn wakes(output: &TasksExpired) -> Wakes {
        Wakes::tasks_if(output.requeued > 0)
    }
}
