//! Attacks that worked once, each kept from working again.

use std::time::{Duration, Instant};

use portreeve::engine::Cage;
use serde_json::json;

use crate::harness::{Server, Setup};

const FORBIDDEN: &str = "git push --force origin main";

#[tokio::test(flavor = "multi_thread")]
async fn nobody_starves_behind_tasks_that_policy_keeps_from_them() {
    let server = Server::start().await;
    let elevated = server.agent("elevated", "claude_code_local").await;
    let standard = server.agent("standard", "codex_remote").await;
    for _ in 0..70 {
        let task = json!({"task_type": "t", "task_description": FORBIDDEN, "priority": 1});
        elevated.post("/work/submit", task).await.done();
    }
    let task = json!({"task_type": "t", "task_description": "read the manual", "priority": 2});
    let wanted = elevated.post("/work/submit", task).await.done()["task_id"].clone();
    let mut claims = 0;
    let claimed = loop {
        let claimed = standard.claim("t").await;
        claims += 1;
        if claimed["success"] == true || claims == 5 {
            break claimed;
        }
        assert!(claimed["reason"].as_str().unwrap().starts_with("destructive_operation_blocked"), "{claimed}");
    };
    assert_eq!(claimed["task_id"], wanted, "after {claims} claims");
    // What was decided is not decided again: the next claim asks about the queue alone, and still says what is in the way.
    let seq = server.last_seq().await;
    let again = standard.claim("t").await;
    assert!(again["reason"].as_str().unwrap().contains("git_force_push"), "{again}");
    server.only_line_after(seq).await;
    assert_eq!(elevated.claim("t").await["success"], true, "the tasks are still there for others");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_refused_learns_nothing_on_the_way() {
    let server = Server::start().await;
    server.agent("other", "claude_code_local").await;
    let suspended = server.agent("suspended", "codex_remote").await;
    server.suspend("suspended", true).await;
    let new = json!({"agent_id": "z", "agent_type": "codex", "profile": "no-such-profile"});
    suspended.post("/agents", new.clone()).await.denied("suspended");
    suspended.post("/agents/other/profile", json!({"profile": "codex_remote"})).await.denied("suspended");
    let seq = server.last_seq().await;
    server.admin.post("/agents", new).await.invalid("unknown_profile");
    let line = server.only_line_after(seq).await;
    assert_eq!((line.decision.as_str(), line.outcome.as_str()), ("allow", "failed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_claim_does_not_wait_and_a_stop_does_not_wait_for_claims() {
    let server = Server::start().await;
    let agent = server.agent("waits", "codex_remote").await;
    let suspended = server.agent("suspended", "codex_remote").await;
    server.suspend("suspended", true).await;
    let began = Instant::now();
    suspended.post("/work/claim", json!({"wait_seconds": 60})).await.denied("suspended");
    let waiting = tokio::spawn(async move { agent.post("/work/claim", json!({"wait_seconds": 60})).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!waiting.is_finished());
    server.stop().await;
    assert_eq!(waiting.await.unwrap().refused("no_tasks_available")["task_id"], json!(null));
    assert!(began.elapsed() < Duration::from_secs(30));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_large_tasks_is_cut_by_its_size() {
    // Bytes count, and not letters.
    for (letter, bytes) in [("y", 1), ("語", 3)] {
        let server = Server::start().await;
        let agent = server.agent("a", "codex_remote").await;
        for _ in 0..8 {
            agent.submit("t", json!({"input_data": {"x": letter.repeat(900_000 / bytes)}})).await;
        }
        let listed = agent.get("/work?limit=100").await.ok();
        assert_eq!((listed["count"].as_u64(), &listed["truncated"]), (Some(4), &json!(true)), "{letter}");
        assert!(listed["hint"].is_string());
        for n in 0..18 {
            let lesson = letter.repeat(1_800 / bytes);
            let details = json!({"x": letter.repeat(249_000 / bytes)});
            let summary = format!("the {n}th");
            let body = json!({"event_type": "decision", "summary": summary, "details": details, "lessons": [lesson]});
            agent.post("/memory/store", body).await.done();
        }
        // 4 MiB hold 16 of 250,8xx bytes.
        let found = agent.post("/memory/query", json!({"limit": 50})).await.ok();
        assert_eq!((found["count"].as_u64(), &found["truncated"]), (Some(16), &json!(true)), "{letter}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_admin_locks_itself_out() {
    let server = Server::start().await;
    let reply = server.admin.post("/agents/admin/suspend", json!({"suspended": true})).await;
    reply.refused("own_account");
    server.admin.post("/agents/admin/profile", json!({"profile": "suspended"})).await.refused("own_account");
    server.admin.get("/agents").await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_beyond_a_doubles_reach_are_told_apart() {
    let server = Server::start().await;
    let agent = server.agent("a", "codex_remote").await;
    let task = |n: u64| json!({"task_type": "t", "task_description": "count", "input_data": {"n": n}});
    agent.post_once("/work/submit", "one", task(9_007_199_254_740_992)).await.done();
    agent.post_once("/work/submit", "one", task(9_007_199_254_740_993)).await.invalid("idempotency_key_reused");
    agent.post("/work/submit", task(9_007_199_254_740_993)).await.done();
    let entries = server.admin.get("/audit?operation=submit_work&limit=1").await.ok();
    assert!(entries["entries"][0]["parameters"].to_string().contains("9007199254740993"), "{entries}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_document_does_not_fill_the_log() {
    let server = Server::start().await;
    let suspended = server.agent("suspended", "codex_remote").await;
    server.suspend("suspended", true).await;
    let many: Vec<String> = (0..60).map(|_| "x".repeat(15_000)).collect();
    let task = json!({"task_type": "t", "task_description": "much", "input_data": {"x": many}});
    suspended.post("/work/submit", task).await.denied("suspended");
    let entries = server.admin.get("/audit?agent_id=suspended&limit=1").await.ok();
    let kept = entries["entries"][0]["parameters"].to_string();
    assert!(kept.len() < 200 && kept.contains("sha256"), "{} bytes", kept.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_got_no_answer_is_not_audited_as_answered() {
    let cage = Cage { fuel_decide: 40_000_000, ..Cage::default() };
    let server = Server::start_with(Setup { cage, ..Setup::default() }).await;
    let agent = server.agent("a", "codex_remote").await;
    let policies = "@id(\"x\") @reason(\"y\") permit (principal is Agent, action, resource);\n".repeat(2_000);
    let seq = server.last_seq().await;
    let reply = agent.post("/policy/validate", json!({"policy_text": policies})).await;
    assert_eq!((reply.status, &reply.body["error"]), (503, &json!("policy_unavailable")), "{}", reply.body);
    let line = server.only_line_after(seq).await;
    assert_eq!((line.decision.as_str(), line.outcome.as_str()), ("allow", "failed"));
}
