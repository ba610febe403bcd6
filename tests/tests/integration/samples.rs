//! A valid input for every entry of the catalogue, and who may and may not send it.
//!
//! Coverage tests go through the catalogue and look here, so an entry without a
//! sample fails them.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use portreeve::command::catalogue::{CATALOGUE, Entry, Kind, Method};
use serde_json::{Value, json};

use crate::harness::{Client, Request, Server};

/// How one entry is called.
#[derive(Debug)]
pub(crate) struct Sample {
    pub(crate) entry: &'static str,
    /// A profile that may.
    pub(crate) fit: &'static str,
    /// A profile that may not, and the reason it hears; none where everyone with trust may.
    pub(crate) unfit: Option<(&'static str, &'static str)>,
    /// Whether `agent_id` means the caller, so that another's is refused.
    pub(crate) caller: bool,
    /// Body, or query string as an object. `{…}` stands for a thing of the [`Scene`].
    pub(crate) input: Value,
    /// An input that is not understood.
    pub(crate) bad: Value,
}

const REMOTE: &str = "claude_code_remote";
const REVIEWER: Option<(&str, &str)> = Some(("claude_code_reviewer", "operation_not_allowed"));

fn sample(entry: &'static str, input: Value, bad: Value) -> Sample {
    Sample { entry, fit: REMOTE, unfit: REVIEWER, caller: true, input, bad }
}

/// What everyone with trust may read.
fn reading(entry: &'static str, input: Value, bad: Value) -> Sample {
    Sample { unfit: None, ..sample(entry, input, bad) }
}

/// What only an operator may.
fn owning(entry: &'static str, input: Value, bad: Value) -> Sample {
    let unfit = Some(("claude_code_local", "trust_below_owner"));
    Sample { fit: "admin", unfit, caller: false, ..sample(entry, input, bad) }
}

/// The table. One line per entry of the catalogue.
pub(crate) fn samples() -> Vec<Sample> {
    let bad_key = json!({"file_path": "../up"});
    let bad_task = json!({"task_id": "7"});
    let anyone = |sample| Sample { caller: false, ..sample };
    vec![
        sample("lock_acquire", json!({"file_path": "src/new.rs"}), bad_key.clone()),
        sample("lock_renew", json!({"file_path": "src/held.rs", "fencing_token": 1}), json!({"file_path": "a"})),
        sample("lock_release", json!({"file_path": "src/held.rs"}), bad_key.clone()),
        reading("lock_verify", json!({"file_path": "src/held.rs", "fencing_token": 1}), json!({"file_path": "a"})),
        reading("lock_status", json!({"file_path": "src/held.rs"}), json!({"file_path": "a//b"})),
        anyone(reading("lock_list", json!({"prefix": "src/"}), json!({"limit": "0"}))),
        Sample {
            fit: "claude_code_local",
            unfit: Some((REMOTE, "trust_below_admin")),
            ..sample("lock_force_release", json!({"file_path": "src/held.rs"}), json!({"file_path": "a//b"}))
        },
        sample(
            "task_submit",
            json!({"task_type": "build", "task_description": "build it"}),
            json!({"task_type": "build", "task_description": "build it", "priority": 11}),
        ),
        sample("task_claim", json!({"task_types": ["test"]}), json!({"wait_seconds": 61})),
        sample("task_heartbeat", json!({"task_id": "{task}", "claim_token": "{token}"}), bad_task.clone()),
        sample("task_complete", json!({"task_id": "{task}", "success": true}), bad_task.clone()),
        sample("task_cancel", json!({"task_id": "{own_task}"}), bad_task.clone()),
        reading("task_get", json!({"task_id": "{task}"}), bad_task),
        anyone(reading("task_list", json!({"status": "pending"}), json!({"status": "lost"}))),
        sample("handoff_write", json!({"summary": "half done", "next_steps": ["the rest"]}), json!({"summary": " "})),
        reading("handoff_read", json!({"agent_name": "actor"}), json!({"limit": 101})),
        sample(
            "memory_store",
            json!({"event_type": "discovery", "summary": "the parser is slow", "tags": ["parser"]}),
            json!({"event_type": "rumour", "summary": "the parser is slow"}),
        ),
        reading("memory_query", json!({"text": "parser"}), json!({"text": "--"})),
        sample("session_register", json!({"session_id": "new", "capabilities": ["rust"]}), json!({"session_id": 7})),
        reading("session_list", json!({"capability": "rust"}), json!({"status": "asleep"})),
        sample("session_heartbeat", json!({"session_id": "of-actor"}), json!({"session_id": ["of-actor"]})),
        Sample {
            fit: "claude_code_local",
            unfit: Some((REMOTE, "trust_below_admin")),
            ..sample("session_cleanup", json!({"dry_run": false}), json!({"stale_threshold_minutes": 0}))
        },
        sample("status_report", json!({"phase": "testing", "message": "all green"}), json!({"needs_human": "maybe"})),
        sample("network_check", json!({"domain": "github.com"}), json!({"domain": ""})),
        Sample {
            unfit: Some(("evaluator", "operation_not_allowed")),
            ..sample("guardrails_check", json!({"operation_text": "git push -f"}), json!({"operation_text": " "}))
        },
        Sample {
            unfit: Some(("evaluator", "operation_not_allowed")),
            ..sample("guardrails_list", json!({}), Value::Null)
        },
        sample("policy_check", json!({"operation": "acquire_lock", "resource": "a"}), json!({"operation": 1})),
        sample("policy_validate", json!({"policy_text": "permit(principal, action, resource);"}), json!({})),
        reading("profile_me", json!({}), Value::Null),
        anyone(reading("audit_query", json!({"limit": "5"}), json!({"since": "yesterday"}))),
        owning(
            "agent_create",
            json!({"agent_id": "newcomer", "agent_type": "codex", "profile": "codex_remote"}),
            json!({"agent_id": "newcomer", "agent_type": "codex", "profile": "no_such_profile"}),
        ),
        owning("agent_list", json!({"limit": "5"}), json!({"limit": "many"})),
        owning("agent_key_create", json!({"id": "target", "label": "second"}), json!({"id": "target", "label": 5})),
        owning("agent_key_revoke", json!({"id": "target", "key_id": "{key}"}), json!({"id": "target", "key_id": "1"})),
        owning("agent_profile", json!({"id": "target", "profile": "codex_local"}), json!({"id": "target"})),
        owning("agent_suspend", json!({"id": "target", "suspended": true}), json!({"id": "target"})),
        Sample {
            fit: "claude_code_local",
            unfit: Some((REMOTE, "trust_below_admin")),
            ..sample("component_upload", json!({"component": "{component}"}), json!({"component": "AGFzbQ=="}))
        },
        sample("component_list", json!({"limit": "5"}), json!({"limit": "0"})),
        sample("component_get", json!({"digest": "{active}"}), json!({"digest": "sha256:00"})),
        Sample {
            caller: true,
            ..owning(
                "component_activate",
                json!({"digest": "{active}", "expected_epoch": 1}),
                json!({"digest": "{active}", "expected_epoch": -1}),
            )
        },
        Sample {
            caller: true,
            ..owning(
                "component_shadow",
                json!({"digest": "{active}"}),
                json!({"digest": "{active}", "enabled": "perhaps"}),
            )
        },
        sample("component_report", json!({"digest": "{active}"}), json!({"digest": "sha256:00"})),
    ]
}

/// The sample of an entry.
pub(crate) fn sample_of(entry: &Entry) -> Sample {
    let found = samples().into_iter().find(|sample| sample.entry == entry.name);
    found.unwrap_or_else(|| panic!("{entry:?} has no sample: add one here, so that it is covered"))
}

/// The entries that change state.
pub(crate) fn mutations() -> impl Iterator<Item = &'static Entry> {
    CATALOGUE.iter().filter(|entry| entry.kind == Kind::Mutation)
}

/// A store in which every sample has something to act on, held by the actor.
pub(crate) struct Scene {
    pub(crate) server: Server,
    pub(crate) actor: Client,
    names: [(&'static str, String); 6],
}

impl Scene {
    /// An agent that has a session, holds a lock and a claim and has submitted a task; then given a profile.
    pub(crate) async fn with_actor(profile: &str) -> Self {
        let server = Server::start().await;
        Self::set(server, profile).await
    }

    pub(crate) async fn set(server: Server, profile: &str) -> Self {
        let agent_type = crate::harness::type_of(profile);
        let working = match agent_type {
            "operator" => "admin".to_owned(),
            "codex" => "codex_local".to_owned(),
            _ => "claude_code_local".to_owned(),
        };
        let agent_type = if agent_type == "evaluator" { "claude_code" } else { agent_type };
        let body = json!({"agent_id": "actor", "agent_type": agent_type, "profile": working});
        let actor = server.agent_of(body).await;
        let target =
            server.agent_of(json!({"agent_id": "target", "agent_type": "codex", "profile": "codex_remote"})).await;
        actor.acquire("src/held.rs").await.done();
        actor.post("/discovery/register", json!({"session_id": "of-actor"})).await.done();
        let task = server.admin.submit("refactor", json!({})).await;
        let own_task = actor.submit("test", json!({})).await;
        let claimed = actor.claim("refactor").await;
        assert_eq!(claimed["task_id"], json!(task));
        let token = claimed["claim_token"].as_str().unwrap().to_owned();
        let component = Arc::clone(&server.app().gate().policy().active().component);
        let names = [
            ("{task}", task),
            ("{own_task}", own_task),
            ("{token}", token),
            ("{key}", target.key_id),
            ("{active}", component.digest().to_owned()),
            ("{component}", STANDARD.encode(component.bytes())),
        ];
        let scene = Self { server, actor, names };
        scene.give(profile).await
    }

    async fn give(mut self, profile: &str) -> Self {
        if profile == "evaluator" {
            // A type cannot change, so an evaluator is another agent than the one that prepared the scene.
            self.actor = self.server.agent("assessor", "evaluator").await;
        } else if profile != "admin" {
            let path = "/agents/actor/profile";
            self.server.admin.post(path, json!({"profile": profile})).await.done();
        }
        self
    }

    /// An input with the things of this scene in it.
    pub(crate) fn filled(&self, input: &Value) -> Value {
        let fill = |text: String, (name, value): &(&str, String)| text.replace(name, value);
        serde_json::from_str(&self.names.iter().fold(input.to_string(), fill)).unwrap()
    }

    /// The request of a sample with some input.
    pub(crate) fn request(&self, entry: &Entry, input: &Value) -> Request {
        request(entry, &self.filled(input))
    }

    /// Sends a sample.
    pub(crate) fn sample(&self, sample: &Sample) -> Request {
        self.request(entry(sample.entry), &sample.input)
    }
}

pub(crate) fn entry(name: &str) -> &'static Entry {
    portreeve::command::catalogue::entry(name).unwrap()
}

/// Puts an input where the entry's method and path want it.
pub(crate) fn request(entry: &Entry, input: &Value) -> Request {
    let mut fields = input.as_object().cloned().unwrap_or_default();
    let mut path = entry.path.replace("{*", "{");
    for name in ["file_path", "id", "key_id", "digest"] {
        let slot = format!("{{{name}}}");
        if path.contains(&slot) {
            let value = fields.remove(name).and_then(|value| value.as_str().map(str::to_owned));
            path = path.replace(&slot, &value.unwrap_or_else(|| "x".to_owned()));
        }
    }
    let request = Request::new(entry.method.as_str(), &path);
    if entry.method == Method::Post {
        return request.json(&Value::Object(fields));
    }
    let query: Vec<String> =
        fields.iter().map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default())).collect();
    if query.is_empty() { request } else { Request { target: format!("{path}?{}", query.join("&")), ..request } }
}
