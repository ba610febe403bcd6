//! The work queue: submit, claim, heartbeat, complete, cancel, expire, look.

pub(crate) mod claim;
mod look;
mod report;
mod submit;

use super::action::Lookout;
use super::input::{Field, Kind};
use crate::domain::task::FAMILY_MAX;
use crate::engine::types::{Target, TaskTarget};
use crate::error::{Error, Result};

pub use claim::{Candidate, TaskClaim, TaskClaimed};
pub use look::{TaskEntry, TaskFound, TaskGet, TaskList, TaskListing};
pub use report::{TaskBeat, TaskCancel, TaskComplete, TaskEnded, TaskExpire, TaskHeartbeat, TasksExpired};
pub use submit::{TaskSubmit, TaskSubmitted};

/// Business reason: no such task.
pub const TASK_NOT_FOUND: &str = "task_not_found";
/// Business reason: the caller holds no live claim on the task.
pub const NOT_CLAIMED: &str = "task_not_found_or_not_claimed_by_agent";
/// Business reason: neither its submitter nor an admin.
pub const NOT_TASK_SUBMITTER: &str = "not_task_submitter";
/// Business reason: nothing rewrites a final task.
pub const TASK_ALREADY_FINAL: &str = "task_already_final";
/// Business reason: nothing to claim.
pub const NO_TASKS: &str = "no_tasks_available";

const TASK_ID: Field = Field::new("task_id", Kind::Uuid, "Identifier of the task").required();
const CLAIM_TOKEN: Field = Field::new("claim_token", Kind::Id, "The token that the claim answered");
const LEASE_SECONDS: Field = Field::new("lease_seconds", Kind::Int(1, 86_400), "Seconds until the claim runs out")
    .default(900)
    .code("lease_out_of_range");

fn task_target(id: &str, task_type: &str, priority: i64) -> Target {
    let priority = u8::try_from(priority).unwrap_or(0);
    Target::Task(TaskTarget { id: id.to_owned(), task_type: task_type.to_owned(), priority })
}

/// The queue itself: no task in particular.
fn queue() -> Target {
    task_target("", "", 0)
}

/// The type of a stored task, for policy; the queue itself when there is none.
async fn stored_target(at: Lookout<'_>, task_id: &str) -> Result<Target> {
    let task = at.view.task(task_id).await?;
    Ok(task.map_or_else(queue, |task| task_target(&task.id, &task.task_type, task.priority)))
}

/// The error of a dependency that is not there.
#[must_use]
pub fn unknown_dependency(task_id: &str) -> Error {
    Error::field("depends_on", "unknown_dependency", format!("there is no task `{task_id}` to depend on"))
}

/// More tasks than can fail at once wait for one that would.
#[must_use]
pub fn too_many_dependants(field: &str) -> Error {
    let msg = format!(
        "more than {FAMILY_MAX} tasks wait for this one, too many to fail with it at once; cancel some of those first, \
         or let its lease or deadline pass"
    );
    Error::field(field, "too_many_dependants", msg)
}
