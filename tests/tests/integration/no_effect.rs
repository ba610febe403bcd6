//! DENY: whatever is denied, mismatched, unavailable or failed leaves every state table
//! as it was, and exactly one row in the log.

use portreeve::engine::Cage;
use serde_json::{Value, json};

use crate::catalogue::named;
use crate::harness::{Reply, Request, Server, Setup};
use crate::samples::{Scene, mutations, sample_of};

/// Sends a request, shows that it changed nothing, and gives what was answered and recorded.
async fn without_effect(scene: &Scene, what: &str, request: Request) -> (Reply, crate::harness::state::AuditLine) {
    let (before, seq) = (scene.server.state().await, scene.server.last_seq().await);
    let reply = scene.actor.send(request).await;
    let after = scene.server.state().await;
    for (table, digest) in &before {
        assert_eq!(&after[table], digest, "{what} changed {table}: {}", reply.body);
    }
    let line = scene.server.only_line_after(seq).await;
    assert_eq!(line.changes, "[]", "{what}");
    (reply, line)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_agents_mutations_change_nothing() {
    let scene = Scene::with_actor("claude_code_local").await;
    scene.server.suspend("actor", true).await;
    for entry in mutations() {
        let (reply, line) = without_effect(&scene, entry.name, scene.sample(&sample_of(entry))).await;
        reply.denied("suspended");
        assert_eq!((line.decision.as_str(), line.reason.as_str()), ("deny", "suspended"), "{entry:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reviewers_mutations_change_nothing() {
    let scene = Scene::with_actor("claude_code_reviewer").await;
    for entry in mutations() {
        let (reply, line) = without_effect(&scene, entry.name, scene.sample(&sample_of(entry))).await;
        reply.denied("operation_not_allowed");
        assert_eq!((line.decision.as_str(), line.trust_level), ("deny", 1), "{entry:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mutation_in_anothers_name_changes_nothing() {
    let scene = Scene::with_actor("claude_code_local").await;
    for entry in mutations() {
        let sample = sample_of(entry);
        if sample.caller {
            let request = named(&scene, &sample, "agent_id", "target");
            let (reply, line) = without_effect(&scene, entry.name, request).await;
            reply.denied("identity_mismatch");
            assert_eq!((line.decision.as_str(), line.reason.as_str()), ("deny", "identity_mismatch"), "{entry:?}");
        }
    }
}

/// Fields that guardrails read, with the entry that takes them.
fn with_texts() -> Vec<(&'static str, Value)> {
    let text = "then git push --force origin main";
    vec![
        ("lock_acquire", json!({"file_path": "src/new.rs", "reason": text})),
        ("task_submit", json!({"task_type": "build", "task_description": text})),
        ("task_submit", json!({"task_type": text, "task_description": "build"})),
        ("task_submit", json!({"task_type": "build", "task_description": "x", "input_data": {"a": [{"b": text}]}})),
        ("task_complete", json!({"task_id": "{task}", "success": true, "result": {"did": text}})),
        ("task_complete", json!({"task_id": "{task}", "success": false, "error_message": text})),
        ("task_cancel", json!({"task_id": "{own_task}", "reason": text})),
        ("handoff_write", json!({"summary": text})),
        ("handoff_write", json!({"summary": "half done", "completed_work": [text]})),
        ("handoff_write", json!({"summary": "half done", "in_progress": [text]})),
        ("handoff_write", json!({"summary": "half done", "decisions": ["no", text]})),
        ("handoff_write", json!({"summary": "half done", "next_steps": ["test", text]})),
        ("handoff_write", json!({"summary": "half done", "relevant_files": [text]})),
        ("session_register", json!({"session_id": "new", "current_task": text})),
        ("session_register", json!({"session_id": "new", "capabilities": [text]})),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_guardrails_block_changes_nothing() {
    let scene = Scene::with_actor("claude_code_remote").await;
    for (name, input) in with_texts() {
        let request = scene.request(crate::samples::entry(name), &input);
        let (reply, line) = without_effect(&scene, name, request).await;
        let body = reply.denied("destructive_operation_blocked");
        assert!(body["reason"].as_str().unwrap().contains("git_force_push"), "{body}");
        assert_eq!((line.decision.as_str(), line.outcome.as_str()), ("deny", "denied"), "{name}");
        let violations = "SELECT count(*) FROM guardrail_violations WHERE audit_id = ";
        let count =
            crate::harness::state::scalar(&mut scene.server.db().await, &format!("{violations}'{}'", line.id)).await;
        assert!(count > 0, "{name} recorded no violation");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_state_stands_against_changes_nothing() {
    let scene = Scene::with_actor("claude_code_remote").await;
    scene.server.admin.post("/discovery/register", json!({"session_id": "of-admin"})).await.done();
    let tags: Vec<String> = (0..100).map(|n| n.to_string()).collect();
    let full = json!({"event_type": "error", "summary": "full", "tags": tags});
    scene.actor.post("/memory/store", full).await.done();
    let missing = uuid::Uuid::nil().to_string();
    let task = json!({"task_type": "build", "task_description": "x", "depends_on": [missing]});
    let cases = [
        ("task_submit", task, "failed", "unknown_dependency"),
        ("lock_acquire", json!({"file_path": "src/held.rs", "ttl_minutes": 121}), "failed", "ttl_out_of_range"),
        (
            "lock_renew",
            json!({"file_path": "src/held.rs", "fencing_token": 9}),
            "refused",
            "lock_not_found_or_not_owner",
        ),
        ("lock_release", json!({"file_path": "src/free.rs"}), "refused", "lock_not_found_or_not_owner"),
        (
            "task_complete",
            json!({"task_id": "{own_task}", "success": true}),
            "refused",
            "task_not_found_or_not_claimed_by_agent",
        ),
        (
            "task_heartbeat",
            json!({"task_id": "{task}", "claim_token": "old"}),
            "refused",
            "task_not_found_or_not_claimed_by_agent",
        ),
        ("task_cancel", json!({"task_id": "{task}"}), "refused", "not_task_submitter"),
        ("session_register", json!({"session_id": "of-admin"}), "refused", "session_owned_by_other"),
        ("session_heartbeat", json!({"session_id": "of-admin"}), "refused", "session_not_found"),
        (
            "memory_store",
            json!({"event_type": "error", "summary": "full", "tags": ["one more"]}),
            "failed",
            "memory_full",
        ),
    ];
    for (name, input, outcome, reason) in cases {
        let request = scene.request(crate::samples::entry(name), &input);
        let (reply, line) = without_effect(&scene, name, request).await;
        assert_eq!(reply.status, if outcome == "failed" { 422 } else { 200 }, "{name}: {}", reply.body);
        assert!(reply.body.to_string().contains(reason), "{name}: {}", reply.body);
        assert_eq!((line.decision.as_str(), line.outcome.as_str()), ("allow", outcome), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_answer_from_the_component_nothing_happens() {
    let scene = Scene::with_actor("claude_code_local").await;
    let actor = scene.actor.clone();
    let dir = scene.server.stop().await;
    // No request is small enough for this cage, so every decision fails before it is made.
    let cage = Cage { request_bytes_max: 0, ..Cage::default() };
    let server = Server::start_on(dir, Setup { cage, ..Setup::default() }).await;
    let actor = server.again(&actor);
    let before = server.state().await;
    for entry in mutations() {
        let seq = server.last_seq().await;
        let input = sample_of(entry).input.to_string().replace("{key}", "0196a5a0-0000-7000-8000-000000000000");
        let input = input.replace("{task}", "0196a5a0-0000-7000-8000-000000000000");
        let input = input.replace("{own_task}", "0196a5a0-0000-7000-8000-000000000000");
        let input = input.replace("{component}", "AGFzbQ==").replace("{active}", &format!("sha256:{}", "0".repeat(64)));
        let reply = actor.send(crate::samples::request(entry, &serde_json::from_str(&input).unwrap())).await;
        assert_eq!(
            (reply.status, &reply.body["error"]),
            (503, &json!("policy_unavailable")),
            "{entry:?}: {}",
            reply.body
        );
        assert_eq!(reply.header("retry-after"), Some("1"));
        let line = server.only_line_after(seq).await;
        assert_eq!((line.decision.as_str(), line.outcome.as_str()), ("unavailable", "denied"), "{entry:?}");
    }
    assert_eq!(server.state().await, before);
    assert_eq!(server.nobody().get("/ready").await.status, 503);
    assert_eq!(server.nobody().get("/live").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_that_runs_out_of_fuel_denies_and_the_next_one_is_not_concerned() {
    let cage = Cage { fuel_decide: 40_000_000, ..Cage::default() };
    let server = Server::start_with(Setup { cage, ..Setup::default() }).await;
    let agent = server.agent("a", "claude_code_remote").await;
    let before = server.state().await;
    let long = "rm the old parser and git the new one; ".repeat(20_000);
    let reply = agent.post("/work/submit", json!({"task_type": "t", "task_description": long})).await;
    assert_eq!((reply.status, &reply.body["error"]), (503, &json!("policy_unavailable")), "{}", reply.body);
    assert_eq!(server.state().await, before);
    agent.submit("t", json!({})).await;
}
