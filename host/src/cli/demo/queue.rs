//! The work queue at work: submit, claim, report, cancel; and claims that ended.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::ask::Ask;
use super::history::{Claim, Class, Expect, Taken};
use super::op::Op;
use super::worker::{BLOCKED, OldClaim, Worker};

/// Claims that an agent remembers after their end.
const OLD_CLAIMS_MAX: usize = 32;
/// Own tasks that an agent remembers.
const SUBMITTED_MAX: usize = 64;
/// The lease of a claim that is kept up.
const LEASE_SECONDS: i64 = 60;

impl Worker {
    /// A task about a real file, as the body of a submission.
    pub(super) fn task(&mut self) -> Value {
        let file = self.choose_file();
        let material = &self.world.material;
        let source = material.files.get(file).filter(|source| source.quotable);
        let (what, lines) = source.map_or(("a file", 0), |source| (source.path.as_str(), source.lines));
        let (task_type, verb) = match self.rng.below(10) {
            0..5 => ("implement", "Rework"),
            5..7 => ("test", "Cover with tests"),
            7 => ("docs", "Describe"),
            8 => ("review", "Review the last change of"),
            _ => ("evaluate", "Judge the state of"),
        };
        let mut body = json!({
            "task_type": task_type,
            "task_description": format!("{verb} {what} ({lines} lines)."),
            "input_data": {"path": what, "lines": lines},
            "priority": self.rng.between(1, 9),
            "max_attempts": self.rng.between(1, 4),
        });
        let Some(map) = body.as_object_mut() else { return body };
        if self.rng.chance(20) {
            let count = self.rng.below(3) + 1;
            map.insert("depends_on".to_owned(), json!(self.known_tasks(count)));
        }
        if self.rng.chance(3) {
            let deadline = self.world.clock.now().plus_seconds(self.rng.between(1, 4));
            map.insert("deadline".to_owned(), json!(deadline));
        }
        if self.rng.chance(8) {
            map.insert("agent_requirements".to_owned(), json!({"min_trust_level": self.rng.between(2, 3)}));
        }
        body
    }

    /// Tasks that somebody submitted lately.
    pub(super) fn known_tasks(&mut self, count: usize) -> Vec<String> {
        let board = self.world.board();
        let tasks = board.tasks.iter().map(|(task_id, _)| task_id.clone()).collect::<Vec<_>>();
        drop(board);
        (0..count).filter_map(|_| self.rng.pick(&tasks).cloned()).collect()
    }

    pub(super) async fn submit_a_task(&mut self) {
        let task = self.task();
        // A dependency that failed meanwhile stands against a task.
        let expect = if task.get("depends_on").is_some() { Expect::Either } else { Expect::Works };
        let reply = self.client.call(Ask::new(Op::TaskSubmit, expect, task)).await;
        if let Some(task_id) = reply.text("task_id").filter(|_| reply.is_allowed()) {
            self.remember(task_id);
        }
    }

    pub(super) fn remember(&mut self, task_id: &str) {
        if self.submitted.len() >= SUBMITTED_MAX {
            self.submitted.pop_front();
        }
        self.submitted.push_back(task_id.to_owned());
        self.world.board().remember_task(task_id, &self.client.who.agent_id);
    }

    /// Claims a task and brings it to an end, one way or another.
    pub(super) async fn work_on_a_task(&mut self, task_types: &[&str]) {
        let abandon = self.rng.chance(3);
        let lease = if abandon { 1 } else { LEASE_SECONDS };
        let wait = i64::from(self.rng.chance(2));
        let body = json!({"task_types": task_types, "lease_seconds": lease, "wait_seconds": wait});
        let reply = self.client.call(Ask::new(Op::TaskClaim, Expect::Either, body)).await;
        let (Some(task_id), Some(token)) = (reply.text("task_id"), reply.text("claim_token")) else { return };
        let (task_id, token) = (task_id.to_owned(), token.to_owned());
        let claim = Claim {
            agent_id: self.client.who.agent_id.clone(),
            task_id: task_id.clone(),
            claimed: reply.answered,
            ended: None,
            expires: lapse(reply.sent, lease),
            completed: false,
        };
        self.client.history.claims.push(claim);
        if abandon {
            // A second and some after the answer the lease has run out for certain.
            self.retire(task_id, token, reply.answered + Duration::from_millis(1_100));
            return;
        }
        if self.rng.chance(30) && !self.beat(&task_id, &token).await {
            return;
        }
        if self.rng.chance(20) && self.role == super::worker::Role::Writer {
            self.edit_a_file().await;
        }
        self.report(&task_id, &token).await;
    }

    async fn beat(&mut self, task_id: &str, token: &str) -> bool {
        let body = json!({"task_id": task_id, "claim_token": token, "lease_seconds": LEASE_SECONDS});
        let reply = self.client.call(Ask::new(Op::TaskHeartbeat, Expect::Either, body)).await;
        if reply.is_allowed()
            && let Some(claim) = self.client.history.claims.last_mut()
        {
            claim.expires = lapse(reply.sent, LEASE_SECONDS);
        }
        reply.is_allowed()
    }

    async fn report(&mut self, task_id: &str, token: &str) {
        let success = self.rng.chance(80);
        if self.rng.chance(4) {
            let body = json!({
                "task_id": task_id, "claim_token": token, "success": true,
                "result": {"log": ["cargo test", "cleaned up with rm -rf / --no-preserve-root"]},
            });
            self.client.call(Ask::new(Op::TaskComplete, Expect::Denied(BLOCKED), body)).await;
        }
        let mut body = if success {
            json!({"task_id": task_id, "success": true, "result": {"edits": self.client.history.edits}})
        } else {
            json!({"task_id": task_id, "success": false, "error_message": "the tests did not pass"})
        };
        if self.rng.chance(90)
            && let Some(map) = body.as_object_mut()
        {
            map.insert("claim_token".to_owned(), json!(token));
        }
        // Its submitter may have withdrawn it, or its deadline have passed.
        let reply = self.client.call(Ask::new(Op::TaskComplete, Expect::Either, body)).await;
        if matches!(reply.class, Class::Denied(_)) {
            return;
        }
        if let Some(claim) = self.client.history.claims.last_mut() {
            claim.ended = Some(reply.sent);
            claim.completed = reply.text("status") == Some("completed");
        }
        self.retire(task_id.to_owned(), token.to_owned(), reply.answered);
        if self.rng.chance(8) {
            self.use_an_old_claim().await;
        }
    }

    fn retire(&mut self, task_id: String, token: String, from: Instant) {
        if self.old_claims.len() >= OLD_CLAIMS_MAX {
            self.old_claims.pop_front();
        }
        self.old_claims.push_back(OldClaim { task_id, token, from });
    }

    /// Reports under a claim that ended: by a report, or because its lease ran out.
    pub(super) async fn use_an_old_claim(&mut self) {
        let Some(old) = self.old_claims.iter().find(|old| old.from <= Instant::now()).cloned() else { return };
        self.old_claims.retain(|kept| kept.token != old.token);
        let (op, body) = if self.rng.chance(50) {
            (Op::TaskComplete, json!({"task_id": old.task_id, "claim_token": old.token, "success": true}))
        } else {
            (Op::TaskHeartbeat, json!({"task_id": old.task_id, "claim_token": old.token}))
        };
        self.client.call(Ask::new(op, Expect::Conflict, body)).await;
    }

    /// Withdraws a task: mostly the agent's own, sometimes one that it may not.
    pub(super) async fn cancel_a_task(&mut self) {
        let own = self.client.who.agent_id.clone();
        let foreign = {
            let board = self.world.board();
            board.tasks.iter().filter(|(_, by)| *by != own).map(|(task_id, _)| task_id.clone()).collect::<Vec<_>>()
        };
        if self.rng.chance(25) && self.trust < 3 {
            let Some(task_id) = self.rng.pick(&foreign).cloned() else { return };
            let body = json!({"task_id": task_id, "reason": "not mine to withdraw"});
            self.client.call(Ask::new(Op::TaskCancel, Expect::Conflict, body)).await;
            return;
        }
        // Mostly the newest, which nobody has completed yet.
        let at = if self.rng.chance(70) {
            self.submitted.len().saturating_sub(1)
        } else {
            self.rng.below(self.submitted.len())
        };
        let Some(task_id) = self.submitted.remove(at) else { return };
        let body = json!({"task_id": task_id, "reason": "no longer wanted"});
        let reply = self.client.call(Ask::new(Op::TaskCancel, Expect::Either, body)).await;
        if !matches!(reply.class, Class::Conflict(_)) {
            self.client.history.taken.push(Taken { what: task_id, sent: reply.sent, answered: reply.answered });
        }
    }
}

/// So many seconds later.
fn lapse(at: Instant, seconds: i64) -> Instant {
    at + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}
