//! The queue.
//!
//! CLAIM: one holder at a time, final statuses that stay, attempts that are counted.

use serde_json::{Value, json};

use super::super::op::{Submission, TYPES};
use super::{Answer, Model, Task, name, time};

const NOT_CLAIMED: &str = "task_not_found_or_not_claimed_by_agent";
const OPEN: [&str; 2] = ["pending", "claimed"];

fn label(what: &str, n: usize) -> Value {
    json!(format!("{what} {n}"))
}

fn ended(task: usize, status: &str) -> Answer {
    Answer::ok(json!({"success": true, "status": status, "task_id": label("task", task), "reason": null}))
}

fn refused(task: usize, reason: &str) -> Answer {
    Answer::ok(json!({"success": false, "status": null, "task_id": label("task", task), "reason": reason}))
}

impl Model {
    pub(super) fn submit(&mut self, who: usize, task: &Submission) -> Answer {
        let lost = |n: &usize| ["failed", "cancelled"].contains(&self.tasks[*n].status);
        if task.depends_on.iter().any(lost) {
            return Answer::ok(json!({"success": false, "task_id": null, "reason": "dependency_failed"}));
        }
        let open = self.tasks.iter().filter(|known| known.submitted_by == who && OPEN.contains(&known.status)).count();
        if open >= self.tasks_most(who) {
            return Answer::denied("open_task_limit_reached");
        }
        self.tasks.push(Task {
            kind: task.kind,
            destructive: task.text == 1,
            priority: task.priority,
            status: "pending",
            submitted_by: who,
            attempts: 0,
            max_attempts: task.attempts,
            least_trust: task.least_trust,
            deadline: task.deadline,
            depends_on: task.depends_on.clone(),
            claimed_by: None,
            claimed_at: None,
            claim: None,
            lease_expires_at: None,
            heartbeat_at: None,
            error: None,
            completed_at: None,
        });
        Answer::ok(json!({"success": true, "task_id": label("task", self.tasks.len() - 1), "reason": null}))
    }

    /// What is left of the queue for a claimant, in the order in which it is offered.
    fn offered(&self, who: usize, kind: Option<usize>) -> Vec<usize> {
        let types: Vec<usize> = match (self.agents[who].profile, kind) {
            ("evaluator", Some(kind)) if TYPES[kind] != "review" => Vec::new(),
            ("evaluator", _) => vec![1],
            (_, Some(kind)) => vec![kind],
            (_, None) => vec![0, 1],
        };
        let fits = |task: &Task| {
            task.status == "pending"
                && types.contains(&task.kind)
                && task.depends_on.iter().all(|n| self.tasks[*n].status == "completed")
                && task.deadline.is_none_or(|at| self.now < at)
                && task.least_trust.is_none_or(|trust| trust <= self.trust(who))
                && !(TYPES[task.kind] == "review" && task.submitted_by == who)
        };
        let mut found: Vec<usize> = (0..self.tasks.len()).filter(|n| fits(&self.tasks[*n])).collect();
        found.sort_by_key(|n| (self.tasks[*n].priority, *n));
        found
    }

    pub(super) fn claim(&mut self, who: usize, kind: Option<usize>, lease: i64) -> Answer {
        self.expire();
        let offered = self.offered(who, kind);
        let blocked = |n: &usize| self.tasks[*n].destructive && self.trust(who) < 3;
        let Some(n) = offered.iter().copied().find(|n| !blocked(n)) else {
            let reason = if offered.is_empty() { "no_tasks_available" } else { "destructive_operation_blocked" };
            return Answer::ok(json!({
                "success": false, "task_id": null, "task_type": null, "priority": null, "deadline": null,
                "reason": reason, "claim_token": null, "lease_expires_at": null, "attempt": null,
            }));
        };
        let (now, claim) = (self.now, self.claims.len());
        self.claims.push(n);
        let task = &mut self.tasks[n];
        task.status = "claimed";
        task.claim = Some(claim);
        (task.claimed_by, task.claimed_at) = (Some(who), Some(now));
        (task.heartbeat_at, task.lease_expires_at) = (Some(now), Some(now + lease));
        Answer::ok(json!({
            "success": true,
            "task_id": label("task", n),
            "task_type": TYPES[task.kind],
            "priority": task.priority,
            "deadline": task.deadline.map(time),
            "reason": null,
            "claim_token": label("claim", claim),
            "lease_expires_at": time(now + lease),
            "attempt": task.attempts + 1,
        }))
    }

    fn holds(&self, who: usize, n: usize, claim: Option<usize>) -> bool {
        let task = &self.tasks[n];
        task.status == "claimed"
            && task.claimed_by == Some(who)
            && task.lease_expires_at.is_some_and(|at| self.now < at)
            && task.deadline.is_none_or(|at| self.now < at)
            && claim.is_none_or(|claim| task.claim == Some(claim))
    }

    pub(super) fn beat(&mut self, who: usize, n: usize, claim: usize, lease: i64) -> Answer {
        let now = self.now;
        if !self.holds(who, n, Some(claim)) {
            return Answer::ok(json!({"success": false, "lease_expires_at": null, "reason": NOT_CLAIMED}));
        }
        (self.tasks[n].heartbeat_at, self.tasks[n].lease_expires_at) = (Some(now), Some(now + lease));
        Answer::ok(json!({"success": true, "lease_expires_at": time(now + lease), "reason": null}))
    }

    pub(super) fn complete(&mut self, who: usize, n: usize, claim: Option<usize>, success: bool) -> Answer {
        if !self.holds(who, n, claim) {
            return refused(n, NOT_CLAIMED);
        }
        if success {
            self.tasks[n].attempts += 1;
            self.end(n, "completed", None);
        } else {
            self.spend(n, "broken", Some("broken"));
        }
        ended(n, self.tasks[n].status)
    }

    pub(super) fn cancel(&mut self, who: usize, n: usize) -> Answer {
        let task = &self.tasks[n];
        if task.submitted_by != who && self.trust(who) < 3 {
            return refused(n, "not_task_submitter");
        }
        if !OPEN.contains(&task.status) {
            return refused(n, "task_already_final");
        }
        self.tasks[n].attempts += i64::from(task.status == "claimed");
        self.end(n, "cancelled", Some("no more"));
        ended(n, "cancelled")
    }

    /// Ends a task, and with it all that waits for what will not come.
    fn end(&mut self, n: usize, status: &'static str, error: Option<&'static str>) {
        let now = self.now;
        let task = &mut self.tasks[n];
        (task.status, task.error, task.completed_at) = (status, error, Some(now));
        (task.claim, task.lease_expires_at, task.heartbeat_at) = (None, None, None);
        if status == "completed" {
            return;
        }
        for waiting in 0..self.tasks.len() {
            if self.tasks[waiting].status == "pending" && self.tasks[waiting].depends_on.contains(&n) {
                self.end(waiting, "failed", Some("dependency_failed"));
            }
        }
    }

    /// An attempt is over without success: back to the queue, or the last one was it.
    fn spend(&mut self, n: usize, last: &'static str, error: Option<&'static str>) {
        let task = &mut self.tasks[n];
        task.attempts += 1;
        if task.attempts >= task.max_attempts {
            self.end(n, "failed", Some(last));
            return;
        }
        (task.status, task.error) = ("pending", error);
        (task.claimed_by, task.claimed_at, task.claim) = (None, None, None);
        (task.lease_expires_at, task.heartbeat_at) = (None, None);
    }

    /// What time does.
    pub(super) fn expire(&mut self) {
        for n in 0..self.tasks.len() {
            let task = &self.tasks[n];
            if !OPEN.contains(&task.status) {
                continue;
            }
            if task.deadline.is_some_and(|at| at <= self.now) {
                self.tasks[n].attempts += i64::from(task.status == "claimed");
                self.end(n, "failed", Some("deadline_exceeded"));
            } else if task.lease_expires_at.is_some_and(|at| at <= self.now) {
                self.spend(n, "attempts_exhausted", None);
            }
        }
    }

    pub(super) fn claims_left(&self, agent: usize, cutoff: i64) -> Vec<usize> {
        let is_left = |task: &Task| {
            task.status == "claimed"
                && task.claimed_by == Some(agent)
                && task.heartbeat_at.is_some_and(|at| at <= cutoff)
        };
        (0..self.tasks.len()).filter(|n| is_left(&self.tasks[*n])).collect()
    }

    /// Whether the task goes back to the queue when its claim is given up.
    pub(super) fn is_retried(&self, n: usize) -> bool {
        self.tasks[n].deadline.is_none_or(|at| self.now < at) && self.tasks[n].attempts + 1 < self.tasks[n].max_attempts
    }

    pub(super) fn abandon(&mut self, n: usize) {
        if self.tasks[n].deadline.is_some_and(|at| at <= self.now) {
            self.tasks[n].attempts += 1;
            self.end(n, "failed", Some("deadline_exceeded"));
        } else {
            self.spend(n, "attempts_exhausted", None);
        }
    }

    pub(super) fn shown(&self, n: usize) -> Value {
        let task = &self.tasks[n];
        json!({
            "id": label("task", n),
            "task_type": TYPES[task.kind],
            "status": task.status,
            "priority": task.priority,
            "submitted_by": name(task.submitted_by),
            "claimed_by": task.claimed_by.map(name),
            "claimed_at": task.claimed_at.map(time),
            "lease_expires_at": task.lease_expires_at.map(time),
            "attempt_count": task.attempts,
            "max_attempts": task.max_attempts,
            "error_message": task.error,
            "depends_on": task.depends_on.iter().map(|n| label("task", *n)).collect::<Vec<_>>(),
            "deadline": task.deadline.map(time),
            "completed_at": task.completed_at.map(time),
        })
    }

    pub(super) fn listed(&self, status: Option<&str>) -> Answer {
        let wanted =
            (0..self.tasks.len()).rev().filter(|n| status.is_none_or(|status| self.tasks[*n].status == status));
        Answer::ok(json!({"items": wanted.map(|n| self.shown(n)).collect::<Vec<_>>()}))
    }
}
