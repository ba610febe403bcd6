//! What the service has to answer, worked out from its promises alone: no code of the host is asked.
//!
//! DENY: what is refused here changes nothing, so any answer after it would tell.
//!
//! A model of one agent after the other. It knows every answer to the last field: the times too, since the test holds the
//! clock. What it leaves out are texts in prose and the numbers that only name a thing.

mod locks;
mod people;
mod policy;
mod tasks;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::op::{ADMIN, AGENTS, Act, Op};

/// An answer as far as the model knows it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

impl Answer {
    pub(crate) fn ok(body: Value) -> Self {
        Self { status: 200, body }
    }

    pub(crate) fn denied(reason: &str) -> Self {
        Self { status: 403, body: json!({"reason": reason}) }
    }

    pub(crate) fn invalid(kind: &str) -> Self {
        Self { status: 422, body: json!({"type": kind}) }
    }

    /// What became of it, in one word: for the table of what was reached.
    pub(crate) fn outcome(&self) -> String {
        let text = |name: &str| self.body[name].as_str().map(str::to_owned);
        let freed = |name: &str| self.body[name].as_u64().unwrap_or(0) > 0;
        match (self.status, &self.body["success"]) {
            (200, Value::Bool(true)) if self.body["task"].is_object() => {
                let told = |name: &str| self.body["task"][name].as_str().unwrap_or_default();
                format!("{} {}", told("status"), told("error_message")).trim_end().to_owned()
            }
            (200, Value::Bool(true)) if freed("tasks_requeued") => "requeues_tasks".to_owned(),
            (200, Value::Bool(true)) if freed("locks_released") => "releases_locks".to_owned(),
            (200, Value::Bool(true)) => text("action").or(text("status")).unwrap_or_else(|| "done".to_owned()),
            (200, Value::Bool(false)) => text("reason").unwrap_or_else(|| "refused".to_owned()),
            (200, _) => self.found(),
            (_, _) => text("reason").or(text("type")).unwrap_or_else(|| self.status.to_string()),
        }
    }

    /// What a question found.
    fn found(&self) -> String {
        for name in ["locked", "valid", "released"] {
            if let Some(is_so) = self.body[name].as_bool() {
                let otherwise = self.body["reason"].as_str().map_or(format!("not_{name}"), str::to_owned);
                return if is_so { name.to_owned() } else { otherwise };
            }
        }
        match self.body["items"].as_array() {
            Some(items) if items.is_empty() => "none".to_owned(),
            Some(_) => "some".to_owned(),
            None => "done".to_owned(),
        }
    }
}

/// An agent's standing.
#[derive(Debug, Clone)]
pub(crate) struct Agent {
    pub(crate) profile: &'static str,
    pub(crate) suspended: bool,
    /// When the log heard of it last.
    last_seen: Option<i64>,
}

#[derive(Debug, Clone)]
pub(crate) struct Lock {
    pub(crate) holder: usize,
    pub(crate) token: i64,
    session: Option<u8>,
    locked_at: i64,
    refreshed_at: i64,
    expires_at: i64,
}

#[derive(Debug, Clone)]
pub(crate) struct Task {
    pub(crate) kind: usize,
    destructive: bool,
    priority: i64,
    pub(crate) status: &'static str,
    submitted_by: usize,
    attempts: i64,
    max_attempts: i64,
    least_trust: Option<i64>,
    deadline: Option<i64>,
    depends_on: Vec<usize>,
    pub(crate) claimed_by: Option<usize>,
    claimed_at: Option<i64>,
    /// The order of the claim that holds it.
    pub(crate) claim: Option<usize>,
    lease_expires_at: Option<i64>,
    heartbeat_at: Option<i64>,
    error: Option<&'static str>,
    completed_at: Option<i64>,
}

impl Task {
    /// Whether an attempt ended otherwise than well.
    pub(crate) fn is_tried(&self) -> bool {
        self.error.is_some()
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub(crate) agent: usize,
    started_at: i64,
    last_heartbeat: i64,
    ended: bool,
}

#[derive(Debug, Clone)]
struct Memory {
    agent: usize,
    summary: u8,
    tags: Vec<u8>,
    created_at: i64,
}

/// The whole state of a service, and the time.
#[derive(Debug, Clone)]
pub(crate) struct Model {
    /// Seconds since the run began.
    pub(crate) now: i64,
    pub(crate) agents: Vec<Agent>,
    pub(crate) epoch: i64,
    pub(crate) component: usize,
    pub(crate) locks: BTreeMap<usize, Lock>,
    pub(crate) tokens: BTreeMap<usize, i64>,
    pub(crate) tasks: Vec<Task>,
    /// The task of each claim, in the order of claims.
    pub(crate) claims: Vec<usize>,
    pub(crate) sessions: BTreeMap<u8, Session>,
    memories: Vec<Memory>,
    /// Who wrote each handoff, and when.
    handoffs: Vec<(usize, i64)>,
    /// First answers, by agent and key.
    once: BTreeMap<(usize, u8), (Act, Answer, i64)>,
}

impl Default for Model {
    fn default() -> Self {
        let agent = |(_, profile): (&str, &'static str)| Agent { profile, suspended: false, last_seen: None };
        Self {
            now: 0,
            agents: AGENTS.map(agent).into(),
            epoch: 1,
            component: 0,
            locks: BTreeMap::new(),
            tokens: BTreeMap::new(),
            tasks: Vec::new(),
            claims: Vec::new(),
            sessions: BTreeMap::new(),
            memories: Vec::new(),
            handoffs: Vec::new(),
            once: BTreeMap::new(),
        }
    }
}

/// A time as answers show it to the model.
fn time(at: i64) -> Value {
    json!(format!("T+{at}"))
}

fn name(agent: usize) -> &'static str {
    AGENTS[agent].0
}

impl Model {
    /// Whether a step names only what there is. A shrunk script may not.
    pub(crate) fn knows(&self, op: &Op) -> bool {
        let (tasks, claims) = (self.tasks.len(), self.claims.len());
        match &op.act {
            Act::Submit(task) => task.depends_on.iter().all(|n| *n < tasks),
            Act::Beat { task, claim, .. } => *task < tasks && *claim < claims,
            Act::Complete { task, claim, .. } => *task < tasks && claim.is_none_or(|claim| claim < claims),
            Act::Cancel { task } | Act::Task { task } => *task < tasks,
            _ => true,
        }
    }

    /// Does a step: the answer that has to be given.
    pub(crate) fn step(&mut self, op: &Op) -> Answer {
        match op.act {
            Act::Advance { seconds } => {
                self.now += seconds;
                self.expire();
                self.agents[ADMIN].last_seen = Some(self.now);
                return Answer::ok(json!({}));
            }
            Act::Restart => return Answer::ok(json!({})),
            _ => {}
        }
        let answer = self.answer(op);
        self.agents[op.who].last_seen = Some(self.now);
        answer
    }

    fn answer(&mut self, op: &Op) -> Answer {
        let first = op.once.and_then(|key| self.once.get(&(op.who, key))).filter(|(.., at)| self.now < at + 24 * 3600);
        // Of a repeat only the caller's standing is judged: it changes nothing, whatever its texts say.
        if let Some(reason) =
            self.forbids(op).filter(|reason| first.is_none() || *reason != "destructive_operation_blocked")
        {
            return Answer::denied(reason);
        }
        if let Some((act, answer, _)) = first {
            return if *act == op.act { answer.clone() } else { Answer::invalid("idempotency_key_reused") };
        }
        let Some(key) = op.once else { return self.act(op) };
        let answer = self.act(op);
        // A failure is no first answer.
        if answer.status == 200 {
            self.once.insert((op.who, key), (op.act.clone(), answer.clone(), self.now));
        }
        answer
    }

    fn act(&mut self, op: &Op) -> Answer {
        let who = op.who;
        match &op.act {
            Act::Acquire { key, ttl, session } => self.acquire(who, *key, *ttl, *session),
            Act::Renew { key, token, ttl } => self.renew(who, *key, *token, *ttl),
            Act::Release { key, token } => self.release(who, *key, *token),
            Act::Verify { key, token } => self.verify(*key, *token),
            Act::Status { key } => self.status(*key),
            Act::Locks { of } => self.held(*of),
            Act::Force { key } => self.force(*key),
            Act::Submit(task) => self.submit(who, task),
            Act::Claim { kind, lease } => self.claim(who, *kind, *lease),
            Act::Beat { task, claim, lease } => self.beat(who, *task, *claim, *lease),
            Act::Complete { task, claim, success } => self.complete(who, *task, *claim, *success),
            Act::Cancel { task } => self.cancel(who, *task),
            Act::Task { task } => Answer::ok(json!({"success": true, "task": self.shown(*task)})),
            Act::Tasks { status } => self.listed(*status),
            Act::Register { session } => self.register(who, *session),
            Act::Heartbeat { session } => self.heartbeat(who, *session),
            Act::Sessions { status } => self.sessions_of(*status),
            Act::Cleanup { minutes, dry_run } => self.cleanup(*minutes, *dry_run),
            Act::Remember { summary, tag } => self.remember(who, *summary, *tag),
            Act::Recall { all, tag } => self.recall(who, *all, *tag),
            Act::HandOff => self.hand_off(who),
            Act::Handoffs { of } => self.handoffs_of(*of),
            Act::Activate { component, expected } => self.activate(*component, *expected),
            Act::Components => self.components(),
            Act::Suspend { whom, suspended } => self.suspend(*whom, *suspended),
            Act::Profile { profile } => self.give(*profile),
            Act::Advance { .. } | Act::Restart => Answer::ok(json!({})),
        }
    }
}
