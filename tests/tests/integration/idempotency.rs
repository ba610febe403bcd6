//! `Idempotency-Key`: a repeat gets the first answer and changes nothing.
//!
//! DENY, REVOKE: a first answer is not repeated to who may no longer ask.

use serde_json::json;

use crate::harness::state::scalar;
use crate::harness::{Request, Server};

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_gets_the_first_answer_and_changes_nothing() {
    let server = Server::start().await;
    let agent = server.agent("a", "codex_local").await;
    let body = json!({"task_type": "t", "task_description": "once"});
    let first = agent.post_once("/work/submit", "k-1", body.clone()).await;
    let before = server.state().await;
    for _ in 0..3 {
        let seq = server.last_seq().await;
        let again = agent.post_once("/work/submit", "k-1", body.clone()).await;
        assert_eq!((again.status, &again.body), (first.status, &first.body));
        assert_eq!(again.header("idempotency-replayed"), Some("true"));
        assert_eq!(server.only_line_after(seq).await.outcome, "replayed");
    }
    assert_eq!(first.header("idempotency-replayed"), None);
    assert_eq!(server.state().await, before);
    assert_eq!(scalar(&mut server.db().await, "SELECT count(*) FROM work_queue").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_gets_the_first_answer_though_the_world_moved_on() {
    let server = Server::start().await;
    let [a, b] = [server.agent("a", "codex_local").await, server.agent("b", "codex_local").await];
    let body = json!({"file_path": "src/a.rs"});
    let first = a.post_once("/locks/acquire", "k", body.clone()).await.done();
    a.release("src/a.rs").await.done();
    b.acquire("src/a.rs").await.done();
    let again = a.post_once("/locks/acquire", "k", body).await.done();
    assert_eq!(again, first);
    assert_eq!(b.get("/locks/status/src/a.rs").await.ok()["lock"]["locked_by"], "b");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_for_another_request_is_refused() {
    let server = Server::start().await;
    let agent = server.agent("a", "codex_local").await;
    agent.post_once("/locks/acquire", "k", json!({"file_path": "src/a.rs"})).await.done();
    let before = server.state().await;
    let other_body = agent.post_once("/locks/acquire", "k", json!({"file_path": "src/b.rs"})).await;
    assert_eq!(other_body.status, 422, "{}", other_body.body);
    let other_path = agent.post_once("/locks/release", "k", json!({"file_path": "src/a.rs"})).await;
    assert_eq!(other_path.status, 422, "{}", other_path.body);
    assert_eq!(server.state().await, before);
    // The same request, written otherwise.
    let same =
        agent.post_once("/locks/acquire", "k", json!({"ttl_minutes": 30, "file_path": "src/a.rs", "x": 1})).await;
    same.done();
}

#[tokio::test(flavor = "multi_thread")]
async fn duplicates_at_once_mutate_once() {
    let server = Server::start().await;
    let agent = server.agent("a", "codex_local").await;
    let body = json!({"task_type": "t", "task_description": "once"});
    let sent = (0..24).map(|_| agent.post_once("/work/submit", "k", body.clone()));
    let answers = futures::future::join_all(sent).await;
    let first = answers[0].body["task_id"].clone();
    assert!(answers.iter().all(|reply| reply.status == 200 && reply.body["task_id"] == first));
    let replayed = answers.iter().filter(|reply| reply.header("idempotency-replayed").is_some()).count();
    assert_eq!(replayed, 23);
    assert_eq!(scalar(&mut server.db().await, "SELECT count(*) FROM work_queue").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn duplicates_of_a_claim_at_once_claim_one_task() {
    let server = Server::start().await;
    let agent = server.agent("a", "codex_local").await;
    for _ in 0..8 {
        agent.submit("t", json!({})).await;
    }
    let sent = (0..16).map(|_| agent.post_once("/work/claim", "k", json!({"task_types": ["t"]})));
    let answers = futures::future::join_all(sent).await;
    let first = answers[0].body.clone();
    for reply in answers {
        assert_eq!(reply.done(), first);
    }
    assert_eq!(scalar(&mut server.db().await, "SELECT count(*) FROM work_queue WHERE status = 'claimed'").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_do_not_share_keys_and_a_key_lasts_a_day() {
    let server = Server::start().await;
    let [a, b] = [server.agent("a", "codex_local").await, server.agent("b", "codex_local").await];
    let body = json!({"task_type": "t", "task_description": "d"});
    let of_a = a.post_once("/work/submit", "k", body.clone()).await.done();
    let of_b = b.post_once("/work/submit", "k", body.clone()).await.done();
    assert_ne!(of_a["task_id"], of_b["task_id"]);
    server.advance(24 * 3600 - 1).await;
    assert_eq!(a.post_once("/work/submit", "k", body.clone()).await.done(), of_a);
    server.advance(2).await;
    assert_ne!(a.post_once("/work/submit", "k", body).await.done(), of_a);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_by_policy_is_no_first_answer() {
    let server = Server::start().await;
    let agent = server.agent("a", "codex_local").await;
    let body = json!({"file_path": "src/a.rs"});
    agent.post_once("/locks/acquire", "k", body.clone()).await.done();
    server.suspend("a", true).await;
    // The first answer is not given to somebody who may no longer ask.
    agent.post_once("/locks/acquire", "k", body.clone()).await.denied("suspended");
    agent.post_once("/locks/acquire", "new", body.clone()).await.denied("suspended");
    server.suspend("a", false).await;
    agent.post_once("/locks/acquire", "new", body).await.done();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_registration_shows_no_key_twice() {
    let server = Server::start().await;
    let body = json!({"agent_id": "a", "agent_type": "codex", "profile": "codex_local"});
    let first = server.admin.post_once("/agents", "k", body.clone()).await.done();
    let secret = first["key"].as_str().unwrap().to_owned();
    let again = server.admin.post_once("/agents", "k", body).await.done();
    assert_eq!((&again["key_id"], &again["key"]), (&first["key_id"], &json!(null)));
    let stored = crate::harness::state::rows(&mut server.db().await, "idempotency_keys").await;
    assert!(!stored.is_empty() && stored.iter().all(|row| !row.contains(&secret)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_none_is_422() {
    let server = Server::start().await;
    let agent = server.agent("a", "codex_local").await;
    for key in ["", "x".repeat(256).as_str()] {
        let request = Request::new("POST", "/locks/acquire").header("idempotency-key", key);
        let reply = agent.send(request.json(&json!({"file_path": "src/a.rs"}))).await;
        assert_eq!(reply.status, 422, "{}", reply.body);
    }
    assert_eq!(agent.get("/locks").await.ok()["count"], 0);
}
