//! Looking at tasks.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::{TASK_ID, TASK_NOT_FOUND, queue, stored_target};
use crate::authn::Principal;
use crate::clock::Time;
use crate::command::Listing;
use crate::command::action::{Action, Lookout, Query, Subject};
use crate::command::input::{Field, Input, Kind, LIMIT};
use crate::domain::task::{STATUSES, Status};
use crate::engine::types::Target;
use crate::error::Result;
use crate::gate::Permit;

/// A task, whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[expect(missing_docs, reason = "the columns of the work queue, described where they are set")]
pub struct TaskEntry {
    pub id: String,
    pub task_type: String,
    pub description: String,
    pub status: Status,
    pub priority: i64,
    pub input_data: Option<Value>,
    pub submitted_by: String,
    pub claimed_by: Option<String>,
    pub claimed_at: Option<Time>,
    pub lease_expires_at: Option<Time>,
    pub attempt_count: i64,
    pub max_attempts: i64,
    pub result: Option<Value>,
    pub error_message: Option<String>,
    pub depends_on: Vec<String>,
    pub deadline: Option<Time>,
    pub created_at: Time,
    pub completed_at: Option<Time>,
}

/// Looks at one task.
#[derive(Debug, Clone)]
pub struct TaskGet {
    task_id: String,
}

/// One task, or its absence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct TaskFound {
    /// Whether there is one.
    pub success: bool,
    /// The task.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskEntry>,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
}

impl Action for TaskGet {
    const NAME: &'static str = "task_get";
    const OPERATION: &'static str = "get_task";
    const INPUT: &'static [Field] = &[TASK_ID];
    type Output = TaskFound;

    fn parse(input: &Input, _who: &Principal) -> Result<Self> {
        Ok(Self { task_id: input.text("task_id") })
    }

    async fn subject(&self, at: Lookout<'_>) -> Result<Subject> {
        stored_target(at, &self.task_id).await.map(Subject::of)
    }

    fn resource(&self) -> Target {
        queue()
    }
}

impl Query for TaskGet {
    async fn read(&self, at: Lookout<'_>, _permit: &Permit<Self>) -> Result<TaskFound> {
        let task = at.view.task(&self.task_id).await?;
        let reason = if task.is_none() { Some(TASK_NOT_FOUND) } else { None };
        Ok(TaskFound { success: task.is_some(), task, reason })
    }
}

/// Lists tasks, newest first.
#[derive(Debug, Clone)]
pub struct TaskList {
    /// Only this status.
    pub status: Option<String>,
    /// Only this type.
    pub task_type: Option<String>,
    /// Most entries.
    pub limit: i64,
}

/// Tasks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct TaskListing {
    /// The tasks, newest first.
    pub tasks: Vec<TaskEntry>,
    #[serde(flatten)]
    #[expect(missing_docs, reason = "the same for every list")]
    pub listing: Listing,
}

impl Action for TaskList {
    const NAME: &'static str = "task_list";
    const OPERATION: &'static str = "get_task";
    const INPUT: &'static [Field] = &[
        Field::new("status", Kind::Choice(&STATUSES), "Only this status"),
        Field::new("task_type", Kind::Text(256), "Only this type"),
        LIMIT,
    ];
    type Output = TaskListing;

    fn parse(input: &Input, _who: &Principal) -> Result<Self> {
        Ok(Self { status: input.opt_text("status"), task_type: input.opt_text("task_type"), limit: input.int("limit") })
    }

    async fn subject(&self, _at: Lookout<'_>) -> Result<Subject> {
        Ok(Subject::of(queue()))
    }

    fn resource(&self) -> Target {
        queue()
    }
}

impl Query for TaskList {
    async fn read(&self, at: Lookout<'_>, _permit: &Permit<Self>) -> Result<TaskListing> {
        let page = at.view.tasks(self).await?;
        let listing = Listing::of(&page, "narrow it with `status` or `task_type`, or raise `limit` (most 1000)");
        Ok(TaskListing { tasks: page.items, listing })
    }
}
