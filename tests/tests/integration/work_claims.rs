//! Who may claim what, and that many claimants get each task once.
//!
//! CLAIM: of many claimants one gets a task.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::Server;

#[tokio::test(flavor = "multi_thread")]
async fn archetype_and_trust_are_those_that_were_registered() {
    let server = Server::start().await;
    let expert = json!({"agent_id": "e", "agent_type": "codex", "profile": "codex_remote", "archetype": "dba"});
    let expert = server.agent_of(expert).await;
    let plain = server.agent("p", "codex_remote").await;
    let trusted = server.agent("t", "codex_local").await;
    let for_expert = server.admin.submit("x", json!({"agent_requirements": {"archetype": "dba"}})).await;
    let for_trusted = server.admin.submit("y", json!({"agent_requirements": {"min_trust_level": 3}})).await;
    let claim = |archetype: &str| {
        json!({
            "archetype": archetype, "trust_level": 4, "agent_requirements": {"archetype": archetype},
            "context": {"archetype": archetype, "trust_level": 4, "profile": "admin"},
        })
    };
    plain.post("/work/claim", claim("dba")).await.refused("no_tasks_available");
    let got = expert.post("/work/claim", claim("other")).await.done();
    assert_eq!(got["task_id"], json!(for_expert));
    expert.post("/work/claim", json!({})).await.refused("no_tasks_available");
    assert_eq!(trusted.post("/work/claim", json!({})).await.done()["task_id"], json!(for_trusted));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_evaluates_or_reviews_what_they_submitted() {
    let server = Server::start().await;
    let author = server.agent("author", "claude_code_local").await;
    let assessor = server.agent("assessor", "evaluator").await;
    for task_type in ["evaluate", "review"] {
        // The server stamps the submitter; a body cannot.
        let id = author.submit(task_type, json!({"submitted_by": "assessor"})).await;
        assert_eq!(author.task(&id).await["submitted_by"], "author");
        assert_eq!(author.claim(task_type).await["reason"], "no_tasks_available");
        assert_eq!(assessor.claim(task_type).await["task_id"], json!(id));
    }
    let own = author.submit("build", json!({})).await;
    assert_eq!(author.claim("build").await["task_id"], json!(own));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_evaluator_gets_its_own_types_of_task_only() {
    let server = Server::start().await;
    let assessor = server.agent("assessor", "evaluator").await;
    server.admin.submit("build", json!({"priority": 1})).await;
    let review = server.admin.submit("review", json!({"priority": 9})).await;
    assert_eq!(assessor.claim("build").await["success"], false);
    let both = assessor.post("/work/claim", json!({"task_types": ["build", "review"]})).await.done();
    assert_eq!(both["task_id"], json!(review));
    assert_eq!(assessor.post("/work/claim", json!({})).await.ok()["success"], false);
    assessor
        .post("/work/submit", json!({"task_type": "review", "task_description": "d"}))
        .await
        .denied("operation_not_allowed");
    let done = json!({"task_id": review, "success": true, "claim_token": both["claim_token"]});
    assessor.post("/work/complete", done).await.done();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_guardrails_keep_from_one_stays_for_others() {
    let server = Server::start().await;
    let low = server.agent("low", "codex_remote").await;
    let high = server.agent("high", "codex_local").await;
    let text = json!({"task_description": "run git push --force origin main", "priority": 1});
    let dangerous = high.submit("t", text).await;
    let seq = server.last_seq().await;
    let blocked = low.claim("t").await;
    assert_eq!(blocked["success"], false);
    let reason = blocked["reason"].as_str().unwrap();
    assert!(reason.starts_with("destructive_operation_blocked: ") && reason.contains("git_force_push"), "{reason}");
    let denials = server.audit_after(seq).await.into_iter().filter(|line| line.decision == "deny").count();
    assert_eq!(denials, 1);
    assert_eq!(high.task(&dangerous).await["status"], "pending");
    // What comes after it in the queue is still claimed.
    let harmless = high.submit("t", json!({"priority": 9})).await;
    assert_eq!(low.claim("t").await["task_id"], json!(harmless));
    assert_eq!(high.claim("t").await["task_id"], json!(dangerous));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_whose_input_is_dangerous_is_kept_from_one_too() {
    let server = Server::start().await;
    let low = server.agent("low", "codex_remote").await;
    let input = json!({"input_data": {"steps": [{"argv": ["git", "push", "-f"]}]}});
    let id = server.admin.submit("t", input).await;
    assert!(low.claim("t").await["reason"].as_str().unwrap().contains("git_force_push"));
    assert_eq!(server.admin.task(&id).await["status"], "pending");
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_two_claimants_get_twenty_tasks_once_each() {
    let server = Server::start().await;
    let mut agents = Vec::new();
    for n in 0..32 {
        agents.push(server.agent(&format!("a{n}"), "codex_remote").await);
    }
    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.push(server.admin.submit("t", json!({})).await);
    }
    let claims = futures::future::join_all(agents.iter().map(|agent| agent.claim("t"))).await;
    let mut holders: BTreeMap<String, usize> = BTreeMap::new();
    for claim in claims.iter().filter(|claim| claim["success"] == true) {
        *holders.entry(claim["task_id"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    ids.sort();
    assert_eq!(holders.keys().cloned().collect::<Vec<_>>(), ids);
    assert!(holders.values().all(|times| *times == 1), "{holders:?}");
    let refused: Vec<&Value> = claims.iter().filter(|claim| claim["success"] == false).collect();
    assert_eq!(refused.len(), 12);
    assert!(refused.iter().all(|claim| claim["reason"] == "no_tasks_available"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_claim_wakes_when_a_task_comes_and_not_before() {
    let server = Server::start().await;
    let worker = server.agent("w", "codex_remote").await;
    let waiting = tokio::spawn(async move {
        let start = Instant::now();
        let claim = worker.post("/work/claim", json!({"task_types": ["t"], "wait_seconds": 30})).await.ok();
        (claim, start.elapsed(), Instant::now())
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    server.admin.submit("other", json!({})).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!waiting.is_finished());
    let id = server.admin.submit("t", json!({})).await;
    let submitted = Instant::now();
    let (claim, waited, woken) = waiting.await.unwrap();
    assert_eq!(claim["task_id"], json!(id));
    assert!(waited >= Duration::from_millis(800), "{waited:?}");
    assert!(woken.saturating_duration_since(submitted) < Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_claim_wakes_for_what_a_completion_frees() {
    let server = Server::start().await;
    let worker = server.agent("w", "codex_remote").await;
    let first = server.admin.submit("first", json!({})).await;
    server.admin.submit("second", json!({"depends_on": [first]})).await;
    let claim = server.admin.claim("first").await;
    let waiter = worker.clone();
    let waiting = tokio::spawn(async move {
        waiter.post("/work/claim", json!({"task_types": ["second"], "wait_seconds": 30})).await.ok()
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    let start = Instant::now();
    let done = json!({"task_id": first, "success": true, "claim_token": claim["claim_token"]});
    server.admin.post("/work/complete", done).await.done();
    assert_eq!(waiting.await.unwrap()["task_type"], "second");
    assert!(start.elapsed() < Duration::from_secs(5));
    let start = Instant::now();
    let nothing = worker.post("/work/claim", json!({"task_types": ["third"], "wait_seconds": 1})).await.ok();
    assert_eq!(nothing["reason"], "no_tasks_available");
    assert!((Duration::from_millis(900)..Duration::from_secs(8)).contains(&start.elapsed()));
}
