//! Claiming a task: find a candidate, have policy decide about that very task,
//! take it; if policy keeps it from this claimant, leave it to others and look on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::{LEASE_SECONDS, queue, task_target};
use crate::app::App;
use crate::authn::Principal;
use crate::clock::Time;
use crate::command::action::{Action, Command, Lookout, Subject};
use crate::command::input::{AGENT_ID, AGENT_TYPE, Field, Input, Kind};
use crate::command::plain;
use crate::engine::types::{Target, Text, TextFormat};
use crate::error::{Error, Result};
use crate::gate::Circumstances;
use crate::store::{Claims, Committed};

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
/// task, so the gate is asked anew for each candidate; [`claim`] does that.
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
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
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
                format: TextFormat::Json,
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

// ------------------------------------------------------- looking for a task

/// Most tasks that one claim has policy decide about.
const CANDIDATES_MAX: usize = 64;

/// How long a claim waits for others that decide about the last tasks; one of them may not get its task.
const WAIT_FOR_OTHERS: Duration = Duration::from_secs(5);

/// How long a claim that waits goes without looking. It is woken by commits of this process, and told of those of other
/// hosts; this is for those that it was not told of.
const LOOK_PERIOD: Duration = Duration::from_secs(2);

/// Most tasks that are remembered as kept from claimants.
const KEPT_MAX: usize = 20_000;

/// Reasons that concern the task and not the claimant's standing: the claim looks on.
const ABOUT_THE_TASK: [&str; 2] = ["destructive_operation_blocked", "task_type_not_allowed"];

/// Tasks that claims of this process are deciding about, so that not all of them try the same one.
#[derive(Debug, Default)]
pub(crate) struct Reservations {
    /// Held from looking to reserving, so that two claims never choose the same task.
    choosing: tokio::sync::Mutex<()>,
    taken: Mutex<BTreeSet<String>>,
    freed: Notify,
}

/// One task, reserved until this is dropped.
struct Reservation {
    all: Arc<Reservations>,
    task_id: String,
}

impl Reservations {
    fn taken(&self) -> Vec<String> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    fn reserve(self: &Arc<Self>, task_id: &str) -> Reservation {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).insert(task_id.to_owned());
        Reservation { all: Arc::clone(self), task_id: task_id.to_owned() }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.all.taken.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.task_id);
        self.all.freed.notify_waiters();
    }
}

/// Claims a task for `who`, waiting for one if asked to.
pub(crate) async fn claim(
    app: &App,
    who: &Principal,
    command: TaskClaim,
    circumstances: &Circumstances,
) -> Result<Committed<TaskClaimed>> {
    let place = if command.wait_seconds > 0 { app.gate().signals().wait_place(who.agent_id()) } else { None };
    let wait_seconds = if place.is_some() { command.wait_seconds } else { 0 };
    let until = Instant::now() + Duration::from_secs(u64::try_from(wait_seconds).unwrap_or(0));
    let mut is_waiting = false;
    loop {
        // Registered before looking, so that a task that comes between looking and waiting still wakes.
        let woken = app.gate().signals().tasks();
        let mut search = Search::of(app, who);
        if let Some(answer) = search.round(app, who, &command, circumstances).await? {
            return Ok(answer);
        }
        if Instant::now() >= until {
            let blocked = search.blocked(app, who, &command).await?;
            return app.gate().run(who, TaskClaim { blocked, ..command }, circumstances).await;
        }
        if !is_waiting {
            // Who may not claim at all is told so now, and not after the wait. This look is no answer to be repeated.
            let look = Circumstances { idempotency_key: None, ..circumstances.clone() };
            app.gate().run(who, command.clone(), &look).await?;
            is_waiting = true;
        }
        let look_again = Instant::now() + LOOK_PERIOD;
        tokio::select! {
            () = woken => {}
            () = tokio::time::sleep_until(until.min(look_again)) => {}
            () = app.stopping() => {
                return app.gate().run(who, command, circumstances).await;
            }
        }
    }
}

/// Tasks that policy kept from claimants, each with the reason. Neither a task's texts nor, under one facts version
/// and one epoch, the claimant's standing change, so nothing is asked twice; and nobody starves behind such tasks.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    by_claimant: Mutex<BTreeMap<Standing, Reasons>>,
}

/// Why policy keeps tasks from a claimant, by task.
type Reasons = BTreeMap<String, String>;

/// What a claimant's decisions depend on beside the task.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Standing {
    agent_id: String,
    facts_version: i64,
    epoch: i64,
}

impl Kept {
    fn of(&self, claimant: &Standing) -> Reasons {
        let kept = self.by_claimant.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(claimant).cloned().unwrap_or_default()
    }

    fn add(&self, claimant: &Standing, task_id: String, reason: String) {
        let mut kept = self.by_claimant.lock().unwrap_or_else(PoisonError::into_inner);
        // Forgetting is harmless: policy is asked again.
        if kept.values().map(BTreeMap::len).sum::<usize>() >= KEPT_MAX {
            kept.clear();
        }
        kept.entry(claimant.clone()).or_default().insert(task_id, reason);
    }
}

struct Search {
    claimant: Standing,
    /// Tasks that policy keeps from this claimant, with the reason.
    kept: Reasons,
    /// Where the claim stands among what it may not have.
    passed_over: Vec<String>,
}

impl Search {
    fn of(app: &App, who: &Principal) -> Self {
        let epoch = app.gate().policy().active().epoch;
        let claimant = Standing { agent_id: who.agent_id().to_owned(), facts_version: who.facts_version(), epoch };
        let kept = app.kept().of(&claimant);
        Self { claimant, passed_over: kept.keys().cloned().collect(), kept }
    }

    /// Looks once: the answer, or none when there is nothing to claim now.
    async fn round(
        &mut self,
        app: &App,
        who: &Principal,
        command: &TaskClaim,
        circumstances: &Circumstances,
    ) -> Result<Option<Committed<TaskClaimed>>> {
        app.expire_tasks().await?;
        // A repeat under the same key gets its first answer, whatever waits in the queue now.
        if let Some(key) = &circumstances.idempotency_key
            && app.gate().store().view().is_repeat(who.agent_id(), key).await?
        {
            return app.gate().run(who, command.clone(), circumstances).await.map(Some);
        }
        for _ in 0..CANDIDATES_MAX {
            let Some((reservation, claim)) = self.next(app, who, command).await? else { return Ok(None) };
            match app.gate().run(who, claim, circumstances).await {
                Ok(Committed::Done(claimed)) if claimed.raced => {}
                Ok(answer) => return Ok(Some(answer)),
                Err(Error::Denied(denial)) if ABOUT_THE_TASK.contains(&denial.reason.as_str()) => {
                    let (task_id, reason) =
                        (reservation.task_id.clone(), format!("{}: {}", denial.reason, denial.detail));
                    app.kept().add(&self.claimant, task_id.clone(), reason.clone());
                    self.kept.insert(task_id.clone(), reason);
                    self.passed_over.push(task_id);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// The next candidate that no other claim of this process is deciding about.
    async fn next(&self, app: &App, who: &Principal, command: &TaskClaim) -> Result<Option<(Reservation, TaskClaim)>> {
        let profile = app.profile_of(who);
        let Some(task_types) = wanted_types(&command.task_types, &profile.task_types) else { return Ok(None) };
        let view = app.gate().store().view();
        let patience = Instant::now() + WAIT_FOR_OTHERS;
        loop {
            let freed = app.reservations().freed.notified();
            let choosing = app.reservations().choosing.lock().await;
            let taken = app.reservations().taken();
            let passed_over: Vec<String> = self.passed_over.iter().chain(&taken).cloned().collect();
            let claims = Claims {
                agent_id: who.agent_id(),
                archetype: who.archetype(),
                trust_level: profile.trust_level,
                task_types: &task_types,
                passed_over: &passed_over,
            };
            if let Some(task) = view.task_candidate(&claims).await? {
                let reservation = app.reservations().reserve(&task.task_id);
                return Ok(Some((reservation, TaskClaim { candidate: Some(task), ..command.clone() })));
            }
            drop(choosing);
            let left = Claims { passed_over: &self.passed_over, ..claims };
            if taken.is_empty() || view.task_candidate(&left).await?.is_none() {
                return Ok(None);
            }
            if timeout_at(patience, freed).await.is_err() {
                return Ok(None);
            }
        }
    }

    /// What keeps the first task in the queue from the claimant, for its answer.
    async fn blocked(&self, app: &App, who: &Principal, command: &TaskClaim) -> Result<Option<String>> {
        let profile = app.profile_of(who);
        let Some(task_types) = wanted_types(&command.task_types, &profile.task_types) else { return Ok(None) };
        let claims = Claims {
            agent_id: who.agent_id(),
            archetype: who.archetype(),
            trust_level: profile.trust_level,
            task_types: &task_types,
            passed_over: &[],
        };
        let first = app.gate().store().view().task_candidate(&claims).await?;
        Ok(first.and_then(|task| self.kept.get(&task.task_id).cloned()))
    }
}

/// The types to look for: what was asked for, as far as the profile takes it. Empty means any, none means nothing.
fn wanted_types(asked: &[String], profile: &[String]) -> Option<Vec<String>> {
    match (asked.is_empty(), profile.is_empty()) {
        (_, true) => Some(asked.to_vec()),
        (true, false) => Some(profile.to_vec()),
        (false, false) => {
            let both: Vec<String> = asked.iter().filter(|kind| profile.contains(kind)).cloned().collect();
            (!both.is_empty()).then_some(both)
        }
    }
}
