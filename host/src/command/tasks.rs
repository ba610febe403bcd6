//! The work queue: submit, claim, heartbeat, complete, cancel, look.

use serde::Serialize;
use serde_json::{Map, Value};

use super::action::{Action, Command, Lookout, Query, Subject};
use super::input::{AGENT_ID, AGENT_TYPE, Field, Input, Kind, LIMIT};
use super::{json_text, plain};
use crate::authn::Principal;
use crate::clock::Time;
use crate::domain::task::{STATUSES, Status};
use crate::engine::types::{Target, TaskTarget, Text};
use crate::error::{Error, Result};
use crate::gate::Permit;

/// Business reason: no such task.
pub const TASK_NOT_FOUND: &str = "task_not_found";
/// Business reason: the caller holds no live claim on the task.
pub const NOT_CLAIMED: &str = "task_not_found_or_not_claimed_by_agent";
/// Business reason: nothing to claim.
pub const NO_TASKS: &str = "no_tasks_available";

const TASK_ID: Field = Field::new("task_id", Kind::Uuid, "Identifier of the task").required();
const CLAIM_TOKEN: Field = Field::new("claim_token", Kind::Text(128), "The token that the claim answered");
const LEASE_SECONDS: Field =
    Field::new("lease_seconds", Kind::Int(1, 86_400), "Seconds until the claim runs out").default(900).code("lease_out_of_range");

fn task_target(id: &str, task_type: &str, priority: i64) -> Target {
    let priority = u8::try_from(priority).unwrap_or(0);
    Target::Task(TaskTarget { id: id.to_owned(), task_type: task_type.to_owned(), priority })
}

/// The queue itself: no task in particular.
fn queue() -> Target {
    task_target("", "", 0)
}

// ------------------------------------------------------------------ submit

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
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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
        let requirements = Input::read(REQUIREMENTS, requirements, super::input::Place::Body)?;
        let mut depends_on = input.texts("depends_on");
        depends_on.sort_unstable();
        depends_on.dedup();
        Ok(Self {
            task_id: super::new_id(),
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
        let mut texts = plain(&[("task_type", Some(&self.task_type)), ("task_description", Some(&self.description))]);
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

    fn wakes(output: &TaskSubmitted) -> bool {
        output.success
    }
}

// ------------------------------------------------------------------- claim

/// A task that a claimant may take, as it stood when it was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its identifier.
    pub task_id: String,
    /// What kind of work.
    pub task_type: String,
    /// The work, in words.
    pub description: String,
    /// The work, as JSON text.
    pub input_data: Option<String>,
    /// 1 is first, 10 last.
    pub priority: i64,
}

/// Claims one task, or finds that there is none. Policy decides about this very
/// task, so the gate is asked anew for each candidate; [`super::claim`] does that.
#[derive(Debug, Clone)]
pub struct TaskClaim {
    /// Only these types; empty for any.
    pub task_types: Vec<String>,
    /// How long the claim holds without a heartbeat.
    pub lease_seconds: i64,
    /// How long to wait for a task.
    pub wait_seconds: i64,
    /// The task to claim; none when nothing was found.
    pub candidate: Option<Candidate>,
    /// Guardrails that kept tasks from this claimant on the way, for the answer.
    pub blocked: Option<String>,
}

/// What a claim answers; every key is always there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TaskClaimed {
    /// Whether the caller now works on a task.
    pub success: bool,
    /// The task.
    pub task_id: Option<String>,
    /// What kind of work.
    pub task_type: Option<String>,
    /// The work, in words.
    pub description: Option<String>,
    /// The work, as data.
    pub input_data: Option<Value>,
    /// 1 is first, 10 last.
    pub priority: Option<i64>,
    /// When the task is given up.
    pub deadline: Option<Time>,
    /// Why not.
    pub reason: Option<String>,
    /// Proves the claim.
    pub claim_token: Option<String>,
    /// When the claim runs out.
    pub lease_expires_at: Option<Time>,
    /// Which attempt this is, counted from 1.
    pub attempt: Option<i64>,
    /// Another agent was first; the claim is tried again. Never shown.
    #[serde(skip)]
    pub raced: bool,
}

impl TaskClaimed {
    /// Nothing was claimed.
    #[must_use]
    pub fn none(reason: impl Into<String>) -> Self {
        Self { reason: Some(reason.into()), ..Self::default() }
    }
}

impl Action for TaskClaim {
    const NAME: &'static str = "task_claim";
    const OPERATION: &'static str = "get_work";
    const INPUT: &'static [Field] = &[
        AGENT_ID,
        AGENT_TYPE,
        Field::new("task_types", Kind::Texts(100, 256), "Only these types"),
        LEASE_SECONDS,
        Field::new("wait_seconds", Kind::Int(0, 60), "Wait so long for a task").default(0).code("wait_out_of_range"),
    ];
    type Output = TaskClaimed;

    fn parse(input: &Input, _who: &Principal) -> Result<Self> {
        Ok(Self {
            task_types: input.texts("task_types"),
            lease_seconds: input.int("lease_seconds"),
            wait_seconds: input.int("wait_seconds"),
            candidate: None,
            blocked: None,
        })
    }

    async fn subject(&self, _at: Lookout<'_>) -> Result<Subject> {
        let mut subject = Subject::of(self.resource());
        if let Some(task) = &self.candidate {
            subject.texts = plain(&[("task_description", Some(&task.description))]);
            subject.texts.extend(task.input_data.as_ref().map(|data| Text {
                label: "input_data".to_owned(),
                format: crate::engine::types::TextFormat::Json,
                body: data.clone(),
            }));
        }
        Ok(subject)
    }

    fn resource(&self) -> Target {
        self.candidate.as_ref().map_or_else(queue, |task| task_target(&task.task_id, &task.task_type, task.priority))
    }
}

impl Command for TaskClaim {
    fn is_refused(output: &TaskClaimed) -> bool {
        !output.success
    }

    fn is_answer(output: &TaskClaimed) -> bool {
        !output.raced
    }
}

// --------------------------------------------------------------- heartbeat

/// The type of a stored task, for policy; the queue itself when there is none.
async fn stored_target(at: Lookout<'_>, task_id: &str) -> Result<Target> {
    let task = at.view.task(task_id).await?;
    Ok(task.map_or_else(queue, |task| task_target(&task.id, &task.task_type, task.priority)))
}

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
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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

// ---------------------------------------------------------------- complete

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
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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

    fn wakes(output: &TaskEnded) -> bool {
        output.success
    }
}

// ------------------------------------------------------------------ cancel

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

// ------------------------------------------------------------------ expire

/// What time does to tasks: lapsed leases and passed deadlines. Runs as `system`.
#[derive(Debug, Clone)]
pub struct TaskExpire;

/// How many tasks time changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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

    fn wakes(output: &TasksExpired) -> bool {
        output.requeued > 0
    }
}

// -------------------------------------------------------------------- look

/// A task, whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TaskListing {
    /// The tasks, newest first.
    pub tasks: Vec<TaskEntry>,
    #[serde(flatten)]
    #[expect(missing_docs, reason = "the same for every list")]
    pub listing: super::Listing,
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
        Ok(Self {
            status: input.opt_text("status"),
            task_type: input.opt_text("task_type"),
            limit: input.int("limit"),
        })
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
        let listing = super::Listing::of(&page, "narrow it with `status` or `task_type`, or raise `limit` (most 1000)");
        Ok(TaskListing { tasks: page.items, listing })
    }
}

/// The error of a dependency that is not there.
#[must_use]
pub fn unknown_dependency(task_id: &str) -> Error {
    Error::field("depends_on", "unknown_dependency", format!("there is no task `{task_id}` to depend on"))
}
