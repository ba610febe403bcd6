//! What time does to the work queue. The clock only moves when a test moves it.
//!
//! CLAIM: a claim that is over is nobody's, and every attempt counts.

use serde_json::{Value, json};

use crate::harness::{Client, Reply, Server};

const GONE: &str = "task_not_found_or_not_claimed_by_agent";

async fn pair(server: &Server) -> (Client, Client) {
    (server.agent("a", "codex_remote").await, server.agent("b", "codex_remote").await)
}

async fn claim(client: &Client, lease_seconds: i64) -> Value {
    client.post("/work/claim", json!({"lease_seconds": lease_seconds})).await.ok()
}

async fn end(client: &Client, claim: &Value, success: bool) -> Reply {
    let body = json!({"task_id": claim["task_id"], "claim_token": claim["claim_token"], "success": success});
    client.post("/work/complete", body).await
}

async fn beat(client: &Client, claim: &Value, lease_seconds: i64) -> Reply {
    let body =
        json!({"task_id": claim["task_id"], "claim_token": claim["claim_token"], "lease_seconds": lease_seconds});
    client.post("/work/heartbeat", body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_runs_out_gives_the_task_to_another_and_refuses_the_late_holder() {
    let server = Server::start().await;
    let (a, b) = pair(&server).await;
    let id = server.admin.submit("t", json!({})).await;
    let first = claim(&a, 60).await;
    server.advance(59).await;
    assert_eq!(claim(&b, 60).await["success"], false);
    server.advance(1).await;
    let second = claim(&b, 60).await;
    assert_eq!((&second["task_id"], &second["attempt"]), (&json!(id), &json!(2)));
    assert_ne!(second["claim_token"], first["claim_token"]);
    end(&a, &first, true).await.refused(GONE);
    beat(&a, &first, 60).await.refused(GONE);
    // The new holder's name with the old token.
    let old = json!({"task_id": id, "claim_token": first["claim_token"]});
    end(&b, &old, true).await.refused(GONE);
    end(&b, &second, true).await.done();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_holder_is_refused_though_nobody_else_came() {
    let server = Server::start().await;
    let (a, _) = pair(&server).await;
    let id = server.admin.submit("t", json!({})).await;
    let late = claim(&a, 60).await;
    server.advance(60).await;
    beat(&a, &late, 60).await.refused(GONE);
    end(&a, &late, true).await.refused(GONE);
    a.post("/work/complete", json!({"task_id": id, "success": true})).await.refused(GONE);
    let task = server.admin.task(&id).await;
    assert_eq!((&task["status"], &task["attempt_count"]), (&json!("pending"), &json!(1)));
    assert_eq!((&task["claimed_by"], &task["lease_expires_at"]), (&Value::Null, &Value::Null));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_extends_the_lease() {
    let server = Server::start().await;
    let (a, b) = pair(&server).await;
    server.admin.submit("t", json!({})).await;
    let held = claim(&a, 60).await;
    for _ in 0..5 {
        server.advance(59).await;
        let extended = beat(&a, &held, 60).await.done();
        assert_eq!(extended["lease_expires_at"], json!(server.now().plus_seconds(60).to_string()));
    }
    beat(&b, &held, 60).await.refused(GONE);
    assert_eq!(claim(&b, 60).await["success"], false);
    end(&a, &held, true).await.done();
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_that_run_out_use_up_the_attempts() {
    let server = Server::start().await;
    let (a, _) = pair(&server).await;
    let id = server.admin.submit("t", json!({"max_attempts": 2})).await;
    let waiting = server.admin.submit("t2", json!({"depends_on": [id]})).await;
    for attempt in 1..=2 {
        assert_eq!(claim(&a, 60).await["attempt"], json!(attempt));
        server.advance(60).await;
    }
    let task = server.admin.task(&id).await;
    assert_eq!((&task["status"], &task["error_message"]), (&json!("failed"), &json!("attempts_exhausted")));
    assert_eq!(task["attempt_count"], 2);
    assert_eq!(server.admin.task(&waiting).await["error_message"], "dependency_failed");
    assert_eq!(claim(&a, 60).await["success"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_fails_pending_and_claimed_alike() {
    let server = Server::start().await;
    let (a, b) = pair(&server).await;
    let deadline = json!({"deadline": server.now().plus_seconds(100).to_string()});
    let claimed = server.admin.submit("t", deadline.clone()).await;
    let pending = server.admin.submit("t", deadline).await;
    let held = claim(&a, 1000).await;
    assert_eq!(held["task_id"], json!(claimed));
    server.advance(100).await;
    assert_eq!(claim(&b, 60).await["success"], false);
    end(&a, &held, true).await.refused(GONE);
    for id in [&claimed, &pending] {
        let task = server.admin.task(id).await;
        assert_eq!((&task["status"], &task["error_message"]), (&json!("failed"), &json!("deadline_exceeded")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn time_works_in_the_background_under_the_services_own_name() {
    let server = Server::start().await;
    let (a, _) = pair(&server).await;
    server.admin.submit("t", json!({})).await;
    claim(&a, 60).await;
    let seq = server.last_seq().await;
    server.advance(60).await;
    for _ in 0..200 {
        if server.last_seq().await > seq {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let line = server.only_line_after(seq).await;
    assert_eq!((line.agent_id.as_str(), line.command.as_str(), line.outcome.as_str()), ("system", "task_expire", "ok"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_outlives_a_restart_and_its_lease_runs_out_after_it() {
    let server = Server::start().await;
    let (a, b) = pair(&server).await;
    server.admin.submit("t", json!({})).await;
    let held = claim(&a, 60).await;
    let server = server.restart().await;
    let (a, b) = (server.again(&a), server.again(&b));
    beat(&a, &held, 60).await.done();
    server.advance(60).await;
    assert_eq!(claim(&b, 60).await["attempt"], 2);
    end(&a, &held, true).await.refused(GONE);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_back_revives_nothing() {
    let server = Server::start().await;
    let (a, b) = pair(&server).await;
    server.admin.submit("t", json!({})).await;
    let held = claim(&a, 60).await;
    server.advance(61).await;
    let second = claim(&b, 60).await;
    assert_eq!(second["success"], true);
    server.advance(-30).await;
    end(&a, &held, true).await.refused(GONE);
    end(&b, &second, true).await.done();
}
