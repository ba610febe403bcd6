//! Every entry of the catalogue: without a key, with a wrong method, allowed, denied, with bad input, as another.
//!
//! GATE: no entry changes anything for who may not.

use std::collections::BTreeSet;

use portreeve::command::catalogue::{CATALOGUE, Entry, Method};
use portreeve::command::input::Field;
use serde_json::{Value, json};

use crate::harness::{Request, Server};
use crate::samples::{Sample, Scene, sample_of, samples};

#[test]
fn every_entry_has_one_sample_and_every_sample_an_entry() {
    let entries: Vec<&str> = CATALOGUE.iter().map(|entry| entry.name).collect();
    let sampled: Vec<&str> = samples().iter().map(|sample| sample.entry).collect();
    let as_set = |names: &[&'static str]| names.iter().copied().collect::<BTreeSet<_>>();
    assert_eq!(as_set(&entries), as_set(&sampled));
    assert_eq!((entries.len(), sampled.len()), (as_set(&entries).len(), as_set(&sampled).len()));
}

/// A request of the entry's path whose body, if it takes one, is no JSON at all.
fn malformed(entry: &Entry, scene: &Scene) -> Request {
    let request = scene.request(entry, &sample_of(entry).input);
    if entry.method == Method::Post { request.raw("{\"file_path\": ") } else { request }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_live_key_every_entry_answers_401_before_it_looks_at_the_body() {
    let scene = Scene::with_actor("claude_code_local").await;
    let revoked = scene.server.agent("revoked", "claude_code_local").await;
    let path = format!("/agents/revoked/keys/{}", revoked.key_id);
    scene.server.admin.delete(&path).await.done();
    let before = (scene.server.state().await, scene.server.last_seq().await);
    let nobody = scene.server.nobody();
    let revoked = format!("Bearer {}", revoked.key.unwrap());
    let unknown = format!("Bearer prv_{}", "0".repeat(64));
    let headers: [Option<(&str, &str)>; 7] = [
        None,
        Some(("authorization", "Bearer ")),
        Some(("x-api-key", "  ")),
        Some(("x-coordinator-api-key", "nonsense")),
        Some(("authorization", "Basic YTpi")),
        Some(("authorization", &unknown)),
        Some(("authorization", &revoked)),
    ];
    for entry in CATALOGUE {
        for header in headers {
            let mut request = malformed(entry, &scene);
            request.headers.extend(header.map(|(name, value)| (name.to_owned(), value.to_owned())));
            let reply = nobody.send(request).await;
            assert_eq!(reply.status, 401, "{entry:?} with {header:?}: {}", reply.body);
            let body = json!({"success": false, "error": "unauthenticated", "detail": "Invalid API key"});
            assert_eq!(reply.body, body, "{entry:?} with {header:?}");
            assert!(reply.header("x-request-id").is_some());
        }
    }
    assert_eq!((scene.server.state().await, scene.server.last_seq().await), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_method_is_405_and_an_unknown_path_404_both_json() {
    let scene = Scene::with_actor("claude_code_local").await;
    for entry in CATALOGUE {
        let right = scene.request(entry, &sample_of(entry).input);
        for method in ["PUT", "PATCH", "OPTIONS"] {
            let reply = scene.actor.send(Request { method: method.to_owned(), ..right.clone() }).await;
            assert_eq!((reply.status, &reply.body["error"]), (405, &json!("method_not_allowed")), "{method} {entry:?}");
            assert_eq!(reply.header("content-type"), Some("application/json"));
        }
    }
    let only_post = scene.actor.get("/work/submit").await;
    assert_eq!(only_post.status, 405);
    for path in ["/", "/lock", "/locks/acquire/x", "/work/", "/agents/a/keys/b/c", "/audit/1"] {
        let reply = scene.actor.post(path, json!({})).await;
        let expected = if path == "/locks/acquire/x" { 405 } else { 404 };
        assert_eq!(reply.status, expected, "{path}: {}", reply.body);
        assert_eq!(reply.body["success"], false);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suitable_agent_is_allowed_on_every_entry() {
    for entry in CATALOGUE {
        let sample = sample_of(entry);
        let scene = Scene::with_actor(sample.fit).await;
        let seq = scene.server.last_seq().await;
        let body = scene.actor.send(scene.sample(&sample)).await.ok();
        assert!(body.get("success").is_none_or(|success| *success == json!(true)), "{entry:?}: {body}");
        let line = scene.server.only_line_after(seq).await;
        let seen = (line.agent_id.as_str(), line.command.as_str(), line.decision.as_str(), line.outcome.as_str());
        assert_eq!(seen, ("actor", entry.name, "allow", "ok"), "{line:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unsuitable_agent_is_denied_on_every_entry() {
    for profile in ["claude_code_reviewer", "claude_code_remote", "claude_code_local", "evaluator"] {
        let scene = Scene::with_actor(profile).await;
        for sample in samples() {
            let Some((_, reason)) = sample.unfit.filter(|(unfit, _)| *unfit == profile) else { continue };
            let seq = scene.server.last_seq().await;
            let body = scene.actor.send(scene.sample(&sample)).await.denied(reason);
            assert_denial_is_complete(&body);
            let line = scene.server.only_line_after(seq).await;
            assert_eq!((line.decision.as_str(), line.reason.as_str()), ("deny", reason), "{line:#?}");
            assert_eq!((line.outcome.as_str(), body["decision_id"].as_str()), ("denied", Some(line.id.as_str())));
        }
    }
}

/// Everything that section 1 of the contract promises of a 403.
pub(crate) fn assert_denial_is_complete(body: &Value) {
    assert_eq!(body["success"], false);
    assert_eq!(body["reason"], body["detail"]);
    assert!(body["remedy"].as_str().is_some_and(|text| text.len() > 10), "{body}");
    assert!(body["policy"]["component"].as_str().is_some_and(|text| text.starts_with("sha256:")), "{body}");
    assert!(body["policy"]["epoch"].as_i64().is_some_and(|epoch| epoch > 0), "{body}");
    assert!(uuid::Uuid::parse_str(body["decision_id"].as_str().unwrap()).is_ok(), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_agent_is_denied_on_every_entry_first_and_thousandth_time() {
    let scene = Scene::with_actor("claude_code_local").await;
    scene.server.suspend("actor", true).await;
    let before = (scene.server.state().await, scene.server.last_seq().await);
    let requests: Vec<Request> = samples().iter().map(|sample| scene.sample(sample)).collect();
    let mut sent = 0_usize;
    while sent <= 1000 {
        let round = futures::future::join_all(requests.iter().map(|request| scene.actor.send(request.clone()))).await;
        for reply in round {
            assert_denial_is_complete(&reply.denied("suspended"));
            sent += 1;
        }
    }
    let lines = scene.server.audit_after(before.1).await;
    assert_eq!(lines.len(), sent);
    assert!(lines.iter().all(|line| line.decision == "deny" && line.reason == "suspended" && line.trust_level == 0));
    assert_eq!(scene.server.state().await, before.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_operator_is_denied_too() {
    let scene = Scene::with_actor("admin").await;
    scene.server.suspend("actor", true).await;
    for sample in samples() {
        scene.actor.send(scene.sample(&sample)).await.denied("suspended");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_422_with_places() {
    for sample in samples().into_iter().filter(|sample| !sample.bad.is_null()) {
        let scene = Scene::with_actor(sample.fit).await;
        let before = scene.server.state().await;
        let entry = crate::samples::entry(sample.entry);
        let reply = scene.actor.send(scene.request(entry, &sample.bad)).await;
        assert_eq!(reply.status, 422, "{entry:?}: {}", reply.body);
        assert_problems(&reply.body);
        assert_eq!(scene.server.state().await, before, "{entry:?}");
    }
}

/// The shape of a 422.
pub(crate) fn assert_problems(body: &Value) {
    assert_eq!((&body["success"], &body["error"]), (&json!(false), &json!("invalid_request")));
    let problems = body["detail"].as_array().unwrap();
    assert!(!problems.is_empty());
    for problem in problems {
        assert!(
            problem["loc"].as_array().is_some_and(|loc| loc.iter().all(Value::is_string) && !loc.is_empty()),
            "{body}"
        );
        assert!(problem["msg"].is_string() && problem["type"].is_string(), "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_object_is_422_or_200_whoever_sends_it() {
    let scene = Scene::with_actor("claude_code_local").await;
    let reviewer = scene.server.agent("reviewer", "claude_code_reviewer").await;
    for entry in CATALOGUE.iter().filter(|entry| entry.method == Method::Post) {
        for caller in [&scene.server.admin, &scene.actor, &reviewer] {
            let reply = caller.send(scene.request(entry, &json!({"id": "target"})).raw("{}")).await;
            // Where the path says all that is needed, `{}` is a whole request, and policy decides about it.
            let is_whole = |field: &Field| !field.required || entry.path.contains(&format!("{{{}}}", field.name));
            let denied_without_need_of_input = reply.status == 403 && entry.input.iter().all(is_whole);
            assert!(
                matches!(reply.status, 200 | 422) || denied_without_need_of_input,
                "{entry:?} as {}: {} {}",
                caller.agent_id,
                reply.status,
                reply.body
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_agents_name_is_refused_and_recorded_on_every_entry() {
    for sample in samples().into_iter().filter(|sample| sample.caller) {
        let scene = Scene::with_actor(sample.fit).await;
        let before = scene.server.state().await;
        for (field, value) in [("agent_id", "target"), ("agent_type", "codex"), ("agent_id", "no such agent")] {
            let seq = scene.server.last_seq().await;
            let reply = scene.actor.send(named(&scene, &sample, field, value)).await;
            let body = reply.denied("identity_mismatch");
            assert_eq!(body["error"], "identity_mismatch", "{}: {body}", sample.entry);
            assert_denial_is_complete(&body);
            let line = scene.server.only_line_after(seq).await;
            assert_eq!((line.decision.as_str(), line.reason.as_str()), ("deny", "identity_mismatch"));
            assert_eq!((line.agent_id.as_str(), line.command.as_str()), ("actor", sample.entry));
        }
        assert_eq!(scene.server.state().await, before, "{}", sample.entry);
        let own = scene.actor.send(named(&scene, &sample, "agent_type", &scene.actor.agent_type)).await;
        assert_eq!(own.status, 200, "{}: {}", sample.entry, own.body);
    }
}

/// A sample that says who it comes from.
pub(crate) fn named(scene: &Scene, sample: &Sample, field: &str, value: &str) -> Request {
    let mut input = sample.input.clone();
    input.as_object_mut().unwrap().insert(field.to_owned(), json!(value.replace(' ', "%20")));
    scene.request(crate::samples::entry(sample.entry), &input)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_no_key_answers_without_one() {
    let server = Server::start().await;
    let nobody = server.nobody();
    for path in ["/live", "/ready", "/health"] {
        let body = nobody.get(path).await.ok();
        assert_eq!(body["status"], "ok");
        assert!(body["version"].is_string());
        assert_eq!(nobody.post(path, json!({})).await.status, 405);
    }
    let health = nobody.get("/health").await.ok();
    assert_eq!((&health["db"], &health["policy"]), (&json!("ok"), &json!("ok")));
    assert_eq!(nobody.get("/metrics").await.status, 200);
}
