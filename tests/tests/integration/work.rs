//! The work queue: what may be submitted, in which order tasks are claimed, how they end.
//!
//! CLAIM: final statuses stay, and only who holds a claim reports.

use serde_json::{Value, json};

use crate::harness::{Client, Server};

const CLAIM_KEYS: [&str; 11] = [
    "attempt",
    "claim_token",
    "deadline",
    "description",
    "input_data",
    "lease_expires_at",
    "priority",
    "reason",
    "success",
    "task_id",
    "task_type",
];

const TASK_KEYS: [&str; 18] = [
    "attempt_count",
    "claimed_at",
    "claimed_by",
    "completed_at",
    "created_at",
    "deadline",
    "depends_on",
    "description",
    "error_message",
    "id",
    "input_data",
    "lease_expires_at",
    "max_attempts",
    "priority",
    "result",
    "status",
    "submitted_by",
    "task_type",
];

fn keys(body: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = body.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

/// A submitter and a worker.
async fn pair(server: &Server) -> (Client, Client) {
    (server.agent("boss", "claude_code_local").await, server.agent("worker", "codex_remote").await)
}

async fn complete(client: &Client, claim: &Value, more: Value) -> crate::harness::Reply {
    let mut body = json!({"task_id": claim["task_id"], "claim_token": claim["claim_token"], "success": true});
    body.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
    client.post("/work/complete", body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_goes_from_submission_over_a_claim_to_completion() {
    let server = Server::start().await;
    let (boss, worker) = pair(&server).await;
    let more = json!({"input_data": {"file": "src/a.rs", "n": [1, {"x": null}]}, "priority": 2, "deadline": "2031-05-02T00:00:00Z"});
    let id = boss.submit("refactor", more.clone()).await;
    let pending = boss.task(&id).await;
    assert_eq!(keys(&pending), TASK_KEYS);
    assert_eq!(
        (&pending["status"], &pending["submitted_by"], &pending["attempt_count"]),
        (&json!("pending"), &json!("boss"), &json!(0))
    );
    let claim = worker.claim("refactor").await;
    assert_eq!(keys(&claim), CLAIM_KEYS);
    assert_eq!((&claim["success"], &claim["task_id"], &claim["attempt"]), (&json!(true), &json!(id), &json!(1)));
    assert_eq!((&claim["input_data"], &claim["priority"]), (&more["input_data"], &json!(2)));
    assert_eq!(claim["lease_expires_at"], json!(server.now().plus_seconds(900).to_string()));
    let claimed = boss.task(&id).await;
    assert_eq!((&claimed["status"], &claimed["claimed_by"]), (&json!("claimed"), &json!("worker")));
    assert!(!claimed.to_string().contains(claim["claim_token"].as_str().unwrap()), "a token is its holder's");
    let done = complete(&worker, &claim, json!({"result": {"lines": 12}})).await.done();
    assert_eq!(done, json!({"success": true, "status": "completed", "task_id": id, "reason": null}));
    let task = boss.task(&id).await;
    assert_eq!(
        (&task["status"], &task["result"], &task["claimed_by"]),
        (&json!("completed"), &json!({"lines": 12}), &json!("worker"))
    );
    assert_eq!((&task["attempt_count"], &task["completed_at"]), (&json!(1), &json!(server.now().to_string())));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_said_so() {
    let server = Server::start().await;
    let (boss, worker) = pair(&server).await;
    let nil = uuid::Uuid::nil().to_string();
    boss.post("/work/get", json!({"task_id": nil})).await.refused("task_not_found");
    boss.post("/work/cancel", json!({"task_id": nil})).await.refused("task_not_found");
    let gone = "task_not_found_or_not_claimed_by_agent";
    boss.post("/work/complete", json!({"task_id": nil, "success": true})).await.refused(gone);
    boss.post("/work/heartbeat", json!({"task_id": nil, "claim_token": "x"})).await.refused(gone);
    let nothing = worker.claim("refactor").await;
    assert_eq!(keys(&nothing), CLAIM_KEYS);
    assert_eq!((&nothing["success"], &nothing["reason"]), (&json!(false), &json!("no_tasks_available")));
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_go_by_priority_then_age_and_only_to_wanted_types() {
    let server = Server::start().await;
    let (boss, worker) = pair(&server).await;
    let mut expected = Vec::new();
    for (priority, name) in [(5, "c"), (1, "a"), (10, "e"), (5, "d"), (1, "b")] {
        let id = boss.submit("t", json!({"priority": priority})).await;
        expected.push((name, id));
    }
    boss.submit("other", json!({"priority": 1})).await;
    expected.sort();
    for (name, id) in expected {
        assert_eq!(worker.claim("t").await["task_id"], json!(id), "{name}");
    }
    assert_eq!(worker.claim("t").await["success"], false);
    assert_eq!(worker.claim("T").await["success"], false);
    let any = worker.post("/work/claim", json!({})).await.done();
    assert_eq!(any["task_type"], "other");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_waits_until_all_it_depends_on_are_completed() {
    let server = Server::start().await;
    let (boss, worker) = pair(&server).await;
    let first = boss.submit("a", json!({})).await;
    let second = boss.submit("b", json!({})).await;
    let last = boss.submit("c", json!({"depends_on": [first, second, first], "priority": 1})).await;
    let mut listed = vec![first.clone(), second.clone()];
    listed.sort();
    assert_eq!(boss.task(&last).await["depends_on"], json!(listed));
    assert_eq!(worker.claim("c").await["reason"], "no_tasks_available");
    complete(&worker, &worker.claim("a").await, json!({})).await.done();
    assert_eq!(worker.claim("c").await["success"], false);
    complete(&worker, &worker.claim("b").await, json!({})).await.done();
    assert_eq!(worker.claim("c").await["task_id"], json!(last));
    // One that is completed already holds nothing up.
    let after = boss.submit("d", json!({"depends_on": [first]})).await;
    assert_eq!(worker.claim("d").await["task_id"], json!(after));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_dependency_is_refused_at_submission() {
    let server = Server::start().await;
    let (boss, _) = pair(&server).await;
    let known = boss.submit("a", json!({})).await;
    let body = json!({"task_type": "b", "task_description": "d", "depends_on": [known, uuid::Uuid::nil()]});
    boss.post("/work/submit", body).await.invalid("unknown_dependency");
    let body = json!({"task_type": "b", "task_description": "d", "depends_on": ["x"]});
    assert_eq!(boss.post("/work/submit", body).await.status, 422);
    assert_eq!(boss.get("/work").await.ok()["count"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_or_cancelled_dependency_fails_what_waits_for_it_all_the_way() {
    let server = Server::start().await;
    let (boss, worker) = pair(&server).await;
    for ending in ["fails", "is cancelled"] {
        let root = boss.submit(ending, json!({"max_attempts": 1})).await;
        let child = boss.submit("x", json!({"depends_on": [root]})).await;
        let grandchild = boss.submit("x", json!({"depends_on": [child]})).await;
        let other = boss.submit("free", json!({})).await;
        if ending == "fails" {
            let claim = worker.claim(ending).await;
            let ended = complete(&worker, &claim, json!({"success": false, "error_message": "no"})).await.done();
            assert_eq!(ended["status"], "failed");
        } else {
            let cancelled = boss.post("/work/cancel", json!({"task_id": root, "reason": "no need"})).await.done();
            assert_eq!(cancelled["status"], "cancelled");
        }
        for id in [&child, &grandchild] {
            let task = boss.task(id).await;
            assert_eq!(
                (&task["status"], &task["error_message"]),
                (&json!("failed"), &json!("dependency_failed")),
                "{ending}"
            );
        }
        assert_eq!(boss.task(&other).await["status"], "pending");
        let late = json!({"task_type": "x", "task_description": "d", "depends_on": [root]});
        boss.post("/work/submit", late).await.refused("dependency_failed");
    }
}

/// The log tells what fails with a task in one order, whichever store it is: of those that failed, the one that was found
/// last comes next, with those that wait for it as they were submitted.
#[tokio::test(flavor = "multi_thread")]
async fn what_fails_with_a_task_is_told_in_one_order() {
    let server = Server::start().await;
    let (boss, worker) = pair(&server).await;
    // Which of those before each waits for: mixed, and always the same.
    let waits = |n: usize| (0..n).filter(move |before| (n * 31 + before * 17) % 7 < 2).collect::<Vec<_>>();
    let mut ids = vec![boss.submit("root", json!({"max_attempts": 1})).await];
    for n in 1..40 {
        let depends_on: Vec<&String> = waits(n).into_iter().map(|before| &ids[before]).collect();
        let id = boss.submit("t", json!({"depends_on": depends_on})).await;
        ids.push(id);
    }
    let (mut fails, mut ended) = (vec![0], vec![0]);
    while let Some(last) = ended.pop() {
        for n in (1..ids.len()).filter(|n| waits(*n).contains(&last)) {
            if !fails.contains(&n) {
                fails.push(n);
                ended.push(n);
            }
        }
    }
    assert!(fails.len() > 20 && fails.len() < ids.len() && !fails.is_sorted(), "{fails:?}");
    let claim = worker.claim("root").await;
    let seq = server.last_seq().await;
    complete(&worker, &claim, json!({"success": false, "error_message": "no"})).await.done();
    let changes: Vec<Value> = serde_json::from_str(&server.only_line_after(seq).await.changes).unwrap();
    let told: Vec<&str> = changes.iter().map(|change| change["key"].as_str().unwrap()).collect();
    assert_eq!(told, fails.iter().map(|n| ids[*n].as_str()).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_attempt_is_retried_until_none_is_left() {
    let server = Server::start().await;
    let (boss, worker) = pair(&server).await;
    let id = boss.submit("t", json!({"max_attempts": 3})).await;
    for attempt in 1..=3 {
        let claim = worker.claim("t").await;
        assert_eq!(claim["attempt"], json!(attempt));
        let ended = complete(&worker, &claim, json!({"success": false, "error_message": "broken"})).await.done();
        assert_eq!(ended["status"], json!(if attempt < 3 { "pending" } else { "failed" }));
        let task = boss.task(&id).await;
        assert_eq!((&task["attempt_count"], &task["error_message"]), (&json!(attempt), &json!("broken")));
    }
    assert_eq!(worker.claim("t").await["success"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_holder_ends_a_claim_and_a_final_status_stays() {
    let server = Server::start().await;
    let (boss, worker) = pair(&server).await;
    let gone = "task_not_found_or_not_claimed_by_agent";
    let id = boss.submit("t", json!({})).await;
    let unclaimed = json!({"task_id": id, "claim_token": "x"});
    complete(&worker, &unclaimed, json!({})).await.refused(gone);
    let claim = worker.claim("t").await;
    complete(&boss, &claim, json!({})).await.refused(gone);
    boss.post("/work/complete", json!({"task_id": id, "success": true})).await.refused(gone);
    complete(&worker, &claim, json!({"claim_token": "another"})).await.refused(gone);
    // Without a token, being the holder is enough.
    worker.post("/work/complete", json!({"task_id": id, "success": true})).await.done();
    let before = boss.task(&id).await;
    complete(&worker, &claim, json!({"success": false})).await.refused(gone);
    worker.post("/work/heartbeat", json!({"task_id": id, "claim_token": claim["claim_token"]})).await.refused(gone);
    for canceller in [&boss, &server.admin] {
        assert_eq!(canceller.post("/work/cancel", json!({"task_id": id})).await.ok()["success"], false);
    }
    assert_eq!(boss.task(&id).await, before);
    let mut db = server.db().await;
    for change in ["status = 'pending', completed_at = NULL", "result = '{}'", "status = 'failed'"] {
        let sql = format!("UPDATE work_queue SET {change} WHERE task_id = '{id}'");
        assert!(crate::harness::state::execute(&mut db, &sql).await.is_err(), "{change}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_submitter_and_an_admin_cancel_and_nobody_else() {
    let server = Server::start().await;
    let (boss, worker) = pair(&server).await;
    let mine = worker.submit("t", json!({})).await;
    let theirs = boss.submit("t", json!({})).await;
    let refused = worker.post("/work/cancel", json!({"task_id": theirs})).await.ok();
    assert_eq!((&refused["success"], refused["reason"].is_string()), (&json!(false), true));
    worker.post("/work/cancel", json!({"task_id": mine, "reason": "moot"})).await.done();
    server.admin.post("/work/cancel", json!({"task_id": theirs})).await.done();
    // A claimed task, too; its holder then finds its claim gone.
    let id = boss.submit("u", json!({})).await;
    let claim = worker.claim("u").await;
    boss.post("/work/cancel", json!({"task_id": id})).await.done();
    complete(&worker, &claim, json!({})).await.refused("task_not_found_or_not_claimed_by_agent");
    assert_eq!(boss.task(&id).await["status"], "cancelled");
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_are_listed_newest_first_by_status_and_type() {
    let server = Server::start().await;
    let (boss, worker) = pair(&server).await;
    let a = boss.submit("a", json!({})).await;
    let b = boss.submit("b", json!({})).await;
    worker.claim("a").await;
    let ids = |list: Value| -> Vec<String> {
        list["tasks"].as_array().unwrap().iter().map(|task| task["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(boss.get("/work").await.ok()), [b.clone(), a.clone()]);
    assert_eq!(ids(boss.get("/work?status=claimed").await.ok()), [a]);
    assert_eq!(ids(boss.get("/work?task_type=b").await.ok()), std::slice::from_ref(&b));
    assert_eq!(ids(boss.get("/work?status=claimed&task_type=b").await.ok()), Vec::<String>::new());
    assert_eq!(boss.get("/work?status=gone").await.status, 422);
    assert_eq!(keys(&boss.get("/work?limit=1").await.ok()["tasks"][0]), TASK_KEYS);
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_and_leases_have_bounds() {
    let server = Server::start().await;
    let (boss, worker) = pair(&server).await;
    for attempts in [0, -1, 101] {
        let body = json!({"task_type": "t", "task_description": "d", "max_attempts": attempts});
        assert_eq!(boss.post("/work/submit", body).await.status, 422, "{attempts}");
    }
    boss.submit("t", json!({})).await;
    for lease in [0, -5, 86_401] {
        worker.post("/work/claim", json!({"lease_seconds": lease})).await.invalid("lease_out_of_range");
    }
    for wait in [-1, 61] {
        assert_eq!(worker.post("/work/claim", json!({"wait_seconds": wait})).await.status, 422, "{wait}");
    }
    assert_eq!(boss.get("/work?status=claimed").await.ok()["count"], 0);
}
