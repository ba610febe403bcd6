//! TRUST: what decides is the caller's registered profile, never what a request says;
//! and guardrails read all of a text.

use portreeve::command::catalogue::CATALOGUE;
use serde_json::{Value, json};

use crate::harness::state::{RECORD_TABLES, rows};
use crate::harness::{Client, Server};
use crate::samples::{Scene, sample_of, samples};

const FORCE_PUSH: &str = "git push --force origin main";

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_of_trust_1_changes_no_row_but_by_audit() {
    let scene = Scene::with_actor("claude_code_reviewer").await;
    let mut db = scene.server.db().await;
    let before = scene.server.state().await;
    let log = rows(&mut db, "audit_log").await;
    let mut tried = 0;
    for entry in CATALOGUE {
        let sample = sample_of(entry);
        for input in
            [&sample.input, &sample.bad, &json!({}), &json!({"id": "actor", "profile": "admin", "suspended": false})]
        {
            let reply = scene.actor.send(scene.request(entry, input)).await;
            assert!(matches!(reply.status, 200 | 403 | 422), "{entry:?}: {} {}", reply.status, reply.body);
            tried += 1;
        }
    }
    assert_eq!(scene.server.state().await, before);
    let grown = rows(&mut db, "audit_log").await;
    assert!(log.iter().all(|row| grown.contains(row)) && grown.len() <= log.len() + tried);
    assert!(RECORD_TABLES.contains(&"audit_log"));
}

#[tokio::test(flavor = "multi_thread")]
async fn trust_and_profile_in_body_or_context_change_nothing() {
    for profile in ["claude_code_reviewer", "claude_code_remote"] {
        let scene = Scene::with_actor(profile).await;
        let before = scene.server.state().await;
        let denied = samples().into_iter().filter_map(|sample| match sample.unfit {
            Some((unfit, reason)) if unfit == profile => Some((sample, reason)),
            _ => None,
        });
        for (sample, reason) in denied {
            let mut input = sample.input.clone();
            let lies = json!({
                "trust_level": 4, "trust": 4, "suspended": false,
                "context": {"trust_level": 4, "profile": "admin", "principal": {"trust_level": 4}},
                "agent_profile": "admin", "principal": {"profile": "admin", "trust_level": 4}, "grants": ["acquire_lock"],
            });
            input.as_object_mut().unwrap().extend(lies.as_object().cloned().unwrap());
            let entry = crate::samples::entry(sample.entry);
            let input = if entry.method == portreeve::command::catalogue::Method::Post { input } else { sample.input };
            scene.actor.send(scene.request(entry, &input)).await.denied(reason);
        }
        assert_eq!(scene.server.state().await, before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_about_policy_is_answered_for_the_caller_as_it_is() {
    let server = Server::start().await;
    let agent = server.agent("a", "claude_code_remote").await;
    let ask = |context: Value| {
        agent.post(
            "/policy/check",
            json!({"operation": "force_release_lock", "resource": "src/a.rs", "context": context}),
        )
    };
    for context in
        [json!({}), json!({"trust_level": 4, "profile": "admin", "agent_type": "operator", "suspended": false})]
    {
        let said = ask(context).await.ok();
        assert_eq!(said["allowed"], false);
        assert!(said["reason"].as_str().unwrap().starts_with("trust_below_admin: "), "{said}");
        assert!(uuid::Uuid::parse_str(said["decision_id"].as_str().unwrap()).is_ok());
    }
    let allowed = agent.post("/policy/check", json!({"operation": "acquire_lock", "resource": "src/a.rs"})).await.ok();
    assert_eq!(allowed["allowed"], true);
    let unknown = agent.post("/policy/check", json!({"operation": "rule_the_world"})).await.ok();
    assert_eq!(unknown["allowed"], false);
    // A question changes nothing: the lock is still free.
    assert_eq!(agent.get("/locks").await.ok()["count"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guardrail_check_tells_the_callers_own_trust() {
    let server = Server::start().await;
    for (profile, trust, safe) in
        [("claude_code_reviewer", 1, false), ("codex_remote", 2, false), ("codex_local", 3, true)]
    {
        let agent = server.agent(profile, profile).await;
        let body = json!({"operation_text": FORCE_PUSH, "trust_level": 4, "context": {"trust_level": 4}});
        let said = agent.post("/guardrails/check", body).await.ok();
        assert_eq!((&said["trust_level"], &said["safe"]), (&json!(trust), &json!(safe)), "{profile}");
        let found = &said["violations"][0];
        assert_eq!((&found["pattern_name"], &found["blocked"]), (&json!("git_force_push"), &json!(!safe)));
        assert!(found["remedy"].as_str().is_some_and(|text| !text.is_empty()) && found["category"] == "git");
    }
    let agent = server.agent("b", "codex_remote").await;
    let fine = agent.post("/guardrails/check", json!({"operation_text": "git push --force-with-lease"})).await.ok();
    assert_eq!(fine, json!({"safe": true, "violations": [], "trust_level": 2}));
    let paths = json!({"operation_text": "edit", "file_paths": ["src/a.rs", "home/x/.ssh/authorized_keys"]});
    let found = agent.post("/guardrails/check", paths).await.ok();
    assert_eq!((&found["safe"], &found["violations"][0]["pattern_name"]), (&json!(false), &json!("ssh_key_modify")));
}

async fn submit(agent: &Client, description: &str, input_data: Value) -> crate::harness::Reply {
    agent
        .post("/work/submit", json!({"task_type": "t", "task_description": description, "input_data": input_data}))
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn guardrails_read_past_two_thousand_characters() {
    let server = Server::start().await;
    let agent = server.agent("a", "codex_remote").await;
    for length in [1_990, 2_000, 2_001, 16_384, 100_000, 500_000] {
        let padding = "look at it. ".repeat(length / 12 + 1);
        submit(&agent, &format!("{padding}\n{FORCE_PUSH}"), json!({})).await.denied("destructive_operation_blocked");
        submit(&agent, "d", json!({"notes": format!("{padding}\n{FORCE_PUSH}")}))
            .await
            .denied("destructive_operation_blocked");
        let text = format!("{padding}\n{FORCE_PUSH}");
        let said = agent.post("/guardrails/check", json!({"operation_text": text})).await.ok();
        assert_eq!(said["safe"], false, "{length}");
    }
    assert_eq!(agent.get("/work").await.ok()["count"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn guardrails_read_inside_nested_json() {
    let server = Server::start().await;
    let agent = server.agent("a", "codex_remote").await;
    let mut deep = json!({"run": FORCE_PUSH});
    for _ in 0..30 {
        deep = json!({"inner": [deep]});
    }
    let dangerous = [
        json!({"argv": ["git", "push", "-f", "origin", "main"]}),
        json!({"steps": [{"do": ["rm", "-rf", "/"]}]}),
        json!({"a": {"b": {"c": [[["git", "reset", "--hard"]]]}}}),
        json!({"script": "set -e\ngit push --force\n"}),
        json!({"nested_json": "{\"cmd\": \"git push --force origin main\"}"}),
        json!({"sql": "DELETE FROM users WHERE 1=1;"}),
        json!({FORCE_PUSH: 1}),
        deep,
    ];
    for input in dangerous {
        submit(&agent, "d", input.clone()).await.denied("destructive_operation_blocked");
    }
    // Escapes of JSON itself do not hide anything.
    let escaped = r#"{"task_type":"t","task_description":"\u0067it push \u002d\u002dforce origin main"}"#;
    let request = crate::harness::Request::new("POST", "/work/submit").raw(escaped);
    agent.send(request).await.denied("destructive_operation_blocked");
    submit(&agent, "d", json!({"argv": ["git", "push", "--force-with-lease"], "note": "do not truncate the log"}))
        .await
        .done();
}

#[tokio::test(flavor = "multi_thread")]
async fn json_that_is_nested_too_deeply_is_refused_and_not_half_read() {
    let server = Server::start().await;
    let agent = server.agent("a", "codex_remote").await;
    for depth in [65, 100, 127, 1_000, 50_000] {
        let input = format!("{}\"{FORCE_PUSH}\"{}", "{\"x\":".repeat(depth), "}".repeat(depth));
        let body = format!(r#"{{"task_type":"t","task_description":"d","input_data":{input}}}"#);
        let reply = agent.send(crate::harness::Request::new("POST", "/work/submit").raw(body)).await;
        assert!(matches!(reply.status, 403 | 422), "{depth}: {} {}", reply.status, reply.body);
    }
    assert_eq!(agent.get("/work").await.ok()["count"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_profile_one_sees_is_ones_own() {
    let server = Server::start().await;
    for (profile, trust) in
        [("claude_code_reviewer", 1), ("codex_remote", 2), ("evaluator", 2), ("claude_code_local", 3), ("admin", 4)]
    {
        let agent = server.agent(&format!("a-{profile}"), profile).await;
        let body = agent.get("/profiles/me?profile=admin&trust_level=4").await.done();
        assert_eq!((&body["profile"]["name"], &body["profile"]["trust_level"]), (&json!(profile), &json!(trust)));
        assert!(body["profile"]["limits"].is_object() && body["profile"]["allowed_operations"].is_array());
        assert!(body["profile"]["blocked_operations"].is_array() && body["source"].is_string());
    }
}
