//! Looking: locks, tasks, profile, guardrails, policy and the audit log.

use serde_json::{Value, json};

use super::ask::Ask;
use super::history::{Class, Expect};
use super::op::Op;
use super::worker::{Role, Worker};

impl Worker {
    /// One look at something that every profile may see.
    pub(super) async fn look(&mut self) {
        match self.rng.below(8) {
            0 => self.look_at_a_lock().await,
            1 => {
                self.client.call(Ask::new(Op::LockList, Expect::Works, Value::Null).query("limit=20")).await;
            }
            2 => self.look_at_a_task().await,
            3 => {
                let ask = Ask::new(Op::TaskList, Expect::Works, Value::Null).query("status=pending&limit=10");
                self.client.call(ask).await;
            }
            4 => self.look_at_the_profile().await,
            5 => self.look_into_the_audit_log().await,
            6 if self.role == Role::Evaluator => self.look_at_the_profile().await,
            6 => self.ask_the_guardrails().await,
            _ if self.role == Role::Reviewer => self.look_at_a_lock().await,
            _ => self.ask_the_policy().await,
        }
    }

    async fn look_at_a_lock(&mut self) {
        let file = self.choose_file();
        let path = self.path_of(file);
        self.client.call(Ask::new(Op::LockStatus, Expect::Works, Value::Null).segment("file_path", &path)).await;
    }

    async fn look_at_a_task(&mut self) {
        let Some(task_id) = self.known_tasks(1).pop() else { return };
        self.client.call(Ask::new(Op::TaskGet, Expect::Works, json!({"task_id": task_id}))).await;
    }

    async fn look_at_the_profile(&mut self) {
        let reply = self.client.call(Ask::new(Op::ProfileMe, Expect::Works, Value::Null)).await;
        if reply.is_allowed() {
            let own = self.client.who.profile.clone();
            let shown = reply.body.pointer("/profile/name").and_then(Value::as_str) == Some(own.as_str());
            self.client.check(&reply, shown, "another profile than its own");
        }
    }

    /// Agents below trust 3 see their own rows only.
    async fn look_into_the_audit_log(&mut self) {
        let reply = self.client.call(Ask::new(Op::AuditQuery, Expect::Works, Value::Null).query("limit=20")).await;
        if reply.class == Class::Allowed && self.trust < 3 {
            let own = self.client.who.agent_id.as_str();
            let entries = reply.body.get("entries").and_then(Value::as_array);
            let only_own =
                entries.into_iter().flatten().all(|e| e.get("agent_id").and_then(Value::as_str) == Some(own));
            self.client.check(&reply, only_own, "rows of others");
        }
    }

    async fn ask_the_guardrails(&mut self) {
        let body = json!({"operation_text": "git push --force origin main"});
        let reply = self.client.call(Ask::new(Op::GuardrailsCheck, Expect::Works, body)).await;
        if reply.is_allowed() {
            let safe = reply.body.get("safe") == Some(&json!(true));
            self.client.check(&reply, safe == (self.trust >= 3), "a guardrail that sees another trust");
        }
    }

    /// What the body says of trust changes nothing.
    async fn ask_the_policy(&mut self) {
        let body = json!({
            "operation": "manage_agents", "resource": "somebody", "trust_level": 4,
            "context": {"trust_level": 4, "profile": "admin"},
        });
        let reply = self.client.call(Ask::new(Op::PolicyCheck, Expect::Works, body)).await;
        if reply.is_allowed() {
            let refused = reply.body.get("allowed") == Some(&json!(false));
            self.client.check(&reply, refused, "a trust that was taken from the body");
        }
    }
}
