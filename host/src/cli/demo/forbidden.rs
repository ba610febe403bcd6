//! What agents try and may not: texts, names, keys, powers, and input that makes no sense.

use serde_json::{Value, json};

use super::ask::Ask;
use super::history::{Decided, Expect};
use super::op::Op;
use super::worker::{BLOCKED, IDENTITY, STANDING, Worker};

/// Texts that no agent below trust 4 may hand on, each in another disguise.
const NEVER: &[&str] = &[
    "then run rm -rf / and start over",
    "sudo rm -fr --no-preserve-root /",
    "bash -c \"rm --recursive --force /\"",
    "DROP TABLE agents;",
    "append the key to ~/.ssh/authorized_keys",
];
/// Texts that pass from trust 3 on.
const ELEVATED: &[&str] = &[
    "git push --force origin main",
    "git push origin +main",
    "git reset --hard HEAD~3",
    "rm -rf build/",
    "cargo publish",
    "terraform destroy -auto-approve",
];
/// Bytes of a real file that stand before such a text: the guardrails read it all the same.
const PREFIX_BYTES: usize = 6_000;

impl Worker {
    /// An attempt of an agent that may otherwise write.
    pub(super) async fn try_what_is_forbidden(&mut self) {
        match self.rng.below(11) {
            0 | 1 => self.submit_what_is_blocked(NEVER).await,
            2 | 3 if self.trust < 3 => self.submit_what_is_blocked(ELEVATED).await,
            2 => self.submit_what_only_trust_passes().await,
            3 | 4 if self.trust >= 3 => self.force_release().await,
            4 => self.try_to_force_release().await,
            5 => self.speak_as_another().await,
            6 => self.try_to_manage_agents().await,
            7 => self.use_a_wrong_key().await,
            8 => self.lock_what_is_guarded().await,
            9 => self.send_nonsense().await,
            _ => self.ask_for_too_long_a_lease().await,
        }
    }

    /// An attempt of an agent that may not write locks or tasks.
    pub(super) async fn try_what_readers_may_not(&mut self) {
        let path = self.random_path();
        let task_id = self.known_tasks(1).pop().unwrap_or_else(|| uuid::Uuid::nil().to_string());
        let reviewer = self.role == super::worker::Role::Reviewer;
        let (op, body) = match self.rng.below(7) {
            0 | 1 => (Op::LockAcquire, json!({"file_path": path})),
            2 => (Op::LockRelease, json!({"file_path": path})),
            3 => (Op::TaskSubmit, self.task()),
            4 => (Op::TaskCancel, json!({"task_id": task_id})),
            5 if reviewer => (Op::TaskClaim, json!({})),
            5 => return self.try_to_manage_agents().await,
            _ => return self.speak_as_another().await,
        };
        self.client.call(Ask::new(op, Expect::Denied(STANDING), body)).await;
    }

    fn random_path(&mut self) -> String {
        let file = self.choose_file();
        self.path_of(file)
    }

    async fn submit_what_is_blocked(&mut self, texts: &'static [&'static str]) {
        let text = self.rng.pick(texts).copied().unwrap_or_default();
        let mut task = self.task();
        let described = task.get("task_description").and_then(Value::as_str).unwrap_or_default().to_owned();
        let (in_data, behind) = (self.rng.chance(30), self.rng.chance(30));
        if let Some(map) = task.as_object_mut() {
            map.remove("depends_on");
            map.remove("deadline");
            if in_data {
                map.insert("input_data".to_owned(), json!({"steps": [{"run": text}]}));
            } else if behind {
                let file = self.rng.below(self.world.material.files.len());
                let source = self.world.material.files.get(file);
                let prefix = source.map(|source| self.world.material.text(source, PREFIX_BYTES)).unwrap_or_default();
                map.insert("task_description".to_owned(), json!(format!("{described}\n{prefix}\n\n{text}\n")));
            } else {
                map.insert("task_description".to_owned(), json!(format!("{described} {text}")));
            }
        }
        self.client.call(Ask::new(Op::TaskSubmit, Expect::Denied(BLOCKED), task)).await;
    }

    /// Its agent's trust passes the text; agents with less must never get the task.
    async fn submit_what_only_trust_passes(&mut self) {
        let text = self.rng.pick(ELEVATED).copied().unwrap_or_default();
        let task = json!({"task_type": "implement", "task_description": text, "priority": 9, "max_attempts": 1});
        let reply = self.client.call(Ask::new(Op::TaskSubmit, Expect::Works, task)).await;
        if let Some(task_id) = reply.text("task_id").filter(|_| reply.is_allowed()) {
            self.remember(task_id);
        }
    }

    /// Keys and the like are kept from agents by their names.
    async fn lock_what_is_guarded(&mut self) {
        let guarded = &self.world.material.guarded;
        let path = self.rng.pick(guarded).map_or("deploy/.ssh/id_ed25519", |source| source.path.as_str());
        let body = json!({"file_path": path});
        self.client.call(Ask::new(Op::LockAcquire, Expect::Denied(BLOCKED), body)).await;
    }

    async fn try_to_force_release(&mut self) {
        let path = self.random_path();
        let ask = Ask::new(Op::LockForceRelease, Expect::Denied(STANDING), Value::Null).segment("file_path", &path);
        self.client.call(ask).await;
    }

    /// The body names another agent than the key.
    async fn speak_as_another(&mut self) {
        let Some((agent_id, agent_type)) = self.other() else { return };
        let path = self.random_path();
        let mut body = json!({"file_path": path, "agent_id": agent_id});
        // A type alone is a lie only where the types differ.
        if agent_type != self.client.who.agent_type
            && self.rng.chance(30)
            && let Some(map) = body.as_object_mut()
        {
            map.remove("agent_id");
            map.insert("agent_type".to_owned(), json!(agent_type));
        }
        let op = *self.rng.pick(&[Op::LockAcquire, Op::LockRelease]).unwrap_or(&Op::LockAcquire);
        self.client.call(Ask::new(op, Expect::Denied(IDENTITY), body)).await;
    }

    async fn try_to_manage_agents(&mut self) {
        let own = self.client.who.agent_id.clone();
        let name = format!("{own}-friend-{}", self.rng.below(1_000_000));
        let expect = Expect::Denied(STANDING);
        let agent_type = self.client.who.agent_type.clone();
        let ask = match self.rng.below(4) {
            0 => Ask::new(
                Op::AgentCreate,
                expect,
                json!({"agent_id": name, "agent_type": "operator", "profile": "admin"}),
            ),
            1 => Ask::new(Op::AgentKeyCreate, expect, json!({})).segment("id", crate::app::ADMIN),
            // Of evaluators there is no local profile to ask for.
            2 if agent_type != "evaluator" => {
                Ask::new(Op::AgentProfile, expect, json!({"profile": format!("{agent_type}_local")}))
                    .segment("id", &own)
            }
            _ => Ask::new(Op::AgentSuspend, expect, json!({"suspended": true})).segment("id", crate::app::ADMIN),
        };
        self.client.call(ask).await;
    }

    async fn use_a_wrong_key(&mut self) {
        let key = match self.rng.below(3) {
            0 => String::new(),
            1 => format!("prv_{:064x}", self.rng.below(usize::MAX)),
            // One's own with another end.
            _ => self.client.who.key.chars().take(self.client.who.key.len().saturating_sub(1)).chain(['x']).collect(),
        };
        let body = json!({"file_path": self.random_path()});
        self.client.call(Ask::new(Op::LockAcquire, Expect::Unauthenticated, body).key(&key)).await;
    }

    async fn send_nonsense(&mut self) {
        let path = self.random_path();
        let not = Decided::Not;
        let unknown = uuid::Uuid::now_v7().to_string();
        let (op, body, code, decided) = match self.rng.below(7) {
            0 => (Op::LockAcquire, json!({"file_path": format!("./{path}")}), "invalid_file_path", not),
            1 => (Op::LockAcquire, json!({"file_path": format!("../{path}")}), "invalid_file_path", not),
            2 => (Op::LockAcquire, json!({"file_path": path, "ttl_minutes": 481}), "ttl_out_of_range", not),
            3 => (Op::TaskComplete, json!({"task_id": "the last one", "success": true}), "uuid_parsing", not),
            4 => (Op::TaskClaim, json!({"lease_seconds": 0}), "lease_out_of_range", not),
            5 => (
                Op::TaskSubmit,
                json!({"task_type": "docs", "task_description": "later", "depends_on": [unknown]}),
                "unknown_dependency",
                Decided::Before,
            ),
            _ => (Op::TaskSubmit, json!({}), "missing", not),
        };
        self.client.call(Ask::new(op, Expect::Invalid(code, decided), body)).await;
    }

    /// Longer than the profile allows to agents with trust 2.
    async fn ask_for_too_long_a_lease(&mut self) {
        if self.trust >= 3 {
            return;
        }
        let body = json!({"file_path": self.random_path(), "ttl_minutes": 121});
        self.client.call(Ask::new(Op::LockAcquire, Expect::Invalid("ttl_out_of_range", Decided::Before), body)).await;
    }

    /// The same request twice under one key: the second gets the first one's answer and changes nothing.
    pub(super) async fn repeat_a_request(&mut self) {
        self.repeats += 1;
        let key = format!("{}-{}", self.client.who.agent_id, self.repeats);
        let mut task = self.task();
        if let Some(map) = task.as_object_mut() {
            map.remove("depends_on");
        }
        let first = Ask::new(Op::TaskSubmit, Expect::Works, task.clone()).idempotency(&key);
        let first = self.client.call(first).await;
        if !first.is_allowed() {
            return;
        }
        if let Some(task_id) = first.text("task_id") {
            self.remember(task_id);
        }
        let again = Ask::new(Op::TaskSubmit, Expect::Replayed, task.clone()).idempotency(&key);
        let again = self.client.call(again).await;
        self.client.check(
            &again,
            again.body.get("task_id") == first.body.get("task_id"),
            "another answer than the first",
        );
        // Under the same key another request is refused.
        if let Some(map) = task.as_object_mut() {
            map.insert("priority".to_owned(), json!(10));
        }
        let expect = Expect::Invalid("idempotency_key_reused", Decided::Before);
        self.client.call(Ask::new(Op::TaskSubmit, expect, task).idempotency(&key)).await;
    }
}
