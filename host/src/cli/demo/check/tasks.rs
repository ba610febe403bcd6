//! The work queue as one thing at a time: every answer about a task in the log is the one that this model gives.

use std::collections::BTreeMap;

use serde_json::Value;

use super::log::{Entry, time};
use super::{Invariant, Ledger};
use crate::clock::Time;
use crate::domain::task::INDEPENDENT_TYPES;
use crate::store::StoredTask;

/// The least trust that may withdraw another's task.
const ADMIN_TRUST: i64 = 3;

/// A claim, as the log tells.
#[derive(Debug, Clone)]
struct Claim {
    agent_id: String,
    token: String,
    lease: Time,
}

/// A task, as the log tells.
#[derive(Debug, Clone)]
struct Task {
    status: String,
    attempts: i64,
    task_type: String,
    submitter: String,
    deadline: Option<Time>,
    claim: Option<Claim>,
}

/// All tasks, as the log tells.
#[derive(Debug, Default)]
pub(super) struct TaskModel {
    tasks: BTreeMap<String, Task>,
    /// Who completed what.
    pub(super) completed: BTreeMap<String, String>,
}

impl Task {
    fn is_final(&self) -> bool {
        matches!(self.status.as_str(), "completed" | "failed" | "cancelled")
    }

    fn is_held(&self, agent_id: &str, token: Option<&str>, now: Time) -> bool {
        let live = self.deadline.is_none_or(|at| now < at);
        let own = |claim: &Claim| {
            claim.agent_id == agent_id && now < claim.lease && token.is_none_or(|token| token == claim.token)
        };
        self.status == "claimed" && live && self.claim.as_ref().is_some_and(own)
    }
}

impl TaskModel {
    pub(super) fn step(&mut self, entry: &Entry<'_>, ledger: &mut Ledger) {
        if !entry.is("ok") && !entry.is("refused") {
            return;
        }
        let about = entry.text("task_id").unwrap_or_default().to_owned();
        let now = time(entry.row);
        match (entry.row.command.as_str(), entry.is("ok")) {
            ("task_submit", true) => self.submit(entry, ledger),
            ("task_claim", true) => self.claim(entry, now, ledger),
            ("task_heartbeat" | "task_complete", _) => {
                let token = entry.text("claim_token");
                let due = self.tasks.get(&about).is_some_and(|task| task.is_held(&entry.row.agent_id, token, now));
                self.is_due(entry, &about, due, ledger);
            }
            ("task_cancel", _) => {
                let due = self.tasks.get(&about).is_some_and(|task| {
                    !task.is_final() && (task.submitter == entry.row.agent_id || entry.row.trust_level >= ADMIN_TRUST)
                });
                self.is_due(entry, &about, due, ledger);
            }
            _ => {}
        }
        for change in entry.changes.iter().filter(|change| change.table == "work_queue") {
            let status = change.version.get("status").and_then(Value::as_str).unwrap_or_default();
            let attempts = change.version.get("attempt_count").and_then(Value::as_i64).unwrap_or(0);
            self.moved(entry, &change.key, status, attempts, ledger);
        }
    }

    fn is_due(&self, entry: &Entry<'_>, task_id: &str, due: bool, ledger: &mut Ledger) {
        ledger.check(Invariant::Claim, due == entry.is("ok"), || {
            format!("{} at {}, though the task was {:?}", entry.said(), time(entry.row), self.tasks.get(task_id))
        });
    }

    fn submit(&mut self, entry: &Entry<'_>, ledger: &mut Ledger) {
        let task_id = entry.result.get("task_id").and_then(Value::as_str).unwrap_or_default().to_owned();
        let task = Task {
            status: String::new(),
            attempts: 0,
            task_type: entry.text("task_type").unwrap_or_default().to_owned(),
            submitter: entry.row.agent_id.clone(),
            deadline: entry.text("deadline").and_then(|text| Time::parse(text).ok()),
            claim: None,
        };
        let fresh = self.tasks.insert(task_id, task).is_none();
        ledger.check(Invariant::Claim, fresh, || format!("{}: the task was there before", entry.said()));
    }

    fn claim(&mut self, entry: &Entry<'_>, now: Time, ledger: &mut Ledger) {
        let said = |field: &str| entry.result.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        let Some(task) = self.tasks.get_mut(&said("task_id")) else {
            return ledger.check(Invariant::Claim, false, || format!("{}: no such task", entry.said()));
        };
        let free = task.status == "pending" && task.deadline.is_none_or(|at| now < at);
        ledger.check(Invariant::Claim, free, || format!("{}, though the task was {task:?}", entry.said()));
        let agent_id = entry.row.agent_id.clone();
        let independent = !INDEPENDENT_TYPES.contains(&task.task_type.as_str());
        ledger.check(Invariant::Claim, independent || task.submitter != agent_id, || {
            format!("{}: claimed its own {}", entry.said(), task.task_type)
        });
        let evaluation = entry.row.profile != "evaluator" || !independent;
        ledger.check(Invariant::Trust, evaluation, || format!("{}: a {}", entry.said(), task.task_type));
        let lease = now.plus_seconds(entry.int("lease_seconds").unwrap_or(0));
        task.claim = Some(Claim { agent_id, token: said("claim_token"), lease });
    }

    /// One change of one task: the statuses that may follow each other, and the attempts that go with them.
    fn moved(&mut self, entry: &Entry<'_>, task_id: &str, status: &str, attempts: i64, ledger: &mut Ledger) {
        let Some(task) = self.tasks.get_mut(task_id) else {
            return ledger
                .check(Invariant::Claim, false, || format!("{}: changed the unknown task {task_id}", entry.said()));
        };
        let command = entry.row.command.as_str();
        let ended = attempts == task.attempts.saturating_add(1);
        let same = attempts == task.attempts;
        let fine = match (task.status.as_str(), status) {
            ("", "pending") => command == "task_submit" && attempts == 0,
            ("pending", "claimed") => command == "task_claim" && same,
            ("claimed", "claimed") => command == "task_heartbeat" && same,
            ("claimed", "completed") => command == "task_complete" && ended,
            ("claimed", "pending" | "failed") => matches!(command, "task_complete" | "task_expire") && ended,
            // With what it depends on, or by its deadline.
            ("pending", "failed") => matches!(command, "task_complete" | "task_expire" | "task_cancel") && same,
            ("pending", "cancelled") => command == "task_cancel" && same,
            ("claimed", "cancelled") => command == "task_cancel" && ended,
            _ => false,
        };
        ledger.check(Invariant::Claim, fine, || format!("{}: {} → {status} ({attempts})", entry.said(), task.status));
        if command == "task_expire" && task.status == "claimed" {
            let now = time(entry.row);
            let lapsed = task.claim.as_ref().is_some_and(|claim| claim.lease <= now);
            let late = task.deadline.is_some_and(|at| at <= now);
            ledger.check(Invariant::Claim, lapsed || late, || {
                format!("{}: took a live claim on {task_id}", entry.said())
            });
        }
        if status == "completed" {
            self.completed.insert(task_id.to_owned(), entry.row.agent_id.clone());
        }
        (task.status, task.attempts) = (status.to_owned(), attempts);
        match (status, &mut task.claim) {
            ("claimed", Some(claim)) if command == "task_heartbeat" => {
                claim.lease = time(entry.row).plus_seconds(entry.int("lease_seconds").unwrap_or(0));
            }
            ("claimed", _) => {}
            (_, claim) => *claim = None,
        }
    }

    pub(super) fn compare(&self, stored: &[StoredTask], ledger: &mut Ledger) {
        for task in stored {
            let told = self.tasks.get(&task.task_id);
            let same = told.is_some_and(|t| {
                (t.status.as_str(), t.attempts) == (task.status.as_str(), task.attempt_count)
                    && t.claim.as_ref().is_none_or(|claim| task.claimed_by.as_ref() == Some(&claim.agent_id))
            });
            ledger.check(Invariant::Gate, same, || format!("stored {task:?}, the log says {told:?}"));
        }
        ledger.check(Invariant::Gate, stored.len() == self.tasks.len(), || {
            format!("{} tasks are stored, the log says {}", stored.len(), self.tasks.len())
        });
    }
}
