//! The process dies in the midst of a burst: what it acknowledged is there when it
//! comes back, and no invariant is broken. And a stop that is asked for loses nothing.
//!
//! EXCL, CLAIM, AUDIT: over a process that dies at any moment.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::harness::process::Process;
use crate::harness::state::{connect, scalar};
use crate::harness::{Client, Request, copy_template, postgres};

const CLIENTS: usize = 8;
const ROUNDS: u64 = 4;

/// What a client was told before the connection broke.
#[derive(Default)]
pub(crate) struct Told {
    /// The last token that it was granted for a key that only it uses.
    tokens: BTreeMap<String, i64>,
    /// Keys that it gave back, with the token they had.
    released: BTreeMap<String, i64>,
    submitted: Vec<String>,
    completed: Vec<String>,
}

async fn call(client: &Client, path: &str, body: Value) -> Option<Value> {
    let reply = client.try_send(Request::new("POST", path).json(&body)).await?;
    // A server that is being killed may still say that its store is closed; it acknowledged nothing then.
    (reply.status == 200 && reply.body["success"] == true).then_some(reply.body)
}

/// Works until the server is gone.
pub(crate) async fn work(client: Client, round: u64) -> Told {
    let mut told = Told::default();
    let mut misses = 0;
    for n in 0_u32.. {
        // So few that all rounds together stay below what the profile may hold, however late the end comes.
        let path = format!("src/{round}/{}/{}.rs", client.agent_id, n % 20);
        // Without an answer nothing is known of it any more.
        told.released.remove(&path);
        told.tokens.remove(&path);
        let Some(held) = call(&client, "/locks/acquire", json!({"file_path": path})).await else {
            misses += 1;
            if misses > 3 {
                break;
            }
            continue;
        };
        told.tokens.insert(path.clone(), held["fencing_token"].as_i64().unwrap());
        if n % 3 == 0 {
            // Whether it was released is not known unless it is said.
            let token = told.tokens.remove(&path).unwrap();
            if call(&client, "/locks/release", json!({"file_path": path})).await.is_some() {
                told.released.insert(path, token);
            }
        }
        let task = json!({"task_type": client.agent_id, "task_description": "d"});
        let Some(submitted) = call(&client, "/work/submit", task).await else { continue };
        told.submitted.push(submitted["task_id"].as_str().unwrap().to_owned());
        let Some(claim) = call(&client, "/work/claim", json!({"task_types": [client.agent_id]})).await else {
            continue;
        };
        let done = json!({"task_id": claim["task_id"], "claim_token": claim["claim_token"], "success": true});
        if call(&client, "/work/complete", done).await.is_some() {
            told.completed.push(claim["task_id"].as_str().unwrap().to_owned());
        }
    }
    told
}

pub(crate) async fn assert_kept(told: &Told, server: &Process, client: &Client) -> usize {
    let client = server.again(client);
    for (path, token) in &told.tokens {
        let lock = &client.get(&format!("/locks/status/{path}")).await.ok()["lock"];
        assert_eq!((&lock["locked_by"], &lock["fencing_token"]), (&json!(client.agent_id), &json!(token)), "{path}");
    }
    for (path, token) in &told.released {
        assert_eq!(client.get(&format!("/locks/status/{path}")).await.ok()["locked"], false, "{path}");
        let next = client.acquire(path).await.done()["fencing_token"].as_i64().unwrap();
        assert!(next > *token, "{path}: {next} after {token}");
        client.release(path).await.done();
    }
    for id in &told.submitted {
        client.post("/work/get", json!({"task_id": id})).await.done();
    }
    for id in &told.completed {
        assert_eq!(client.task(id).await["status"], "completed");
    }
    told.tokens.len() + told.released.len() + told.submitted.len() + told.completed.len()
}

/// What has to hold of a store at any time.
pub(crate) async fn assert_invariants(data: &Path) {
    let mut db = connect(data).await;
    let (action, status, own): (&str, &str, [&str; 2]) = if postgres::is_chosen() {
        (
            "result::json->>'action'",
            "result::json->>'status'",
            [
                "SELECT coalesce(max(seq), 0) - count(*) FROM audit_seq",
                "SELECT count(*) FROM audit_log l LEFT JOIN agents a USING (agent_id) WHERE a.agent_id IS NULL",
            ],
        )
    } else {
        (
            "json_extract(result, '$.action')",
            "json_extract(result, '$.status')",
            ["SELECT max(seq) - count(*) FROM audit_log", "SELECT count(*) FROM pragma_foreign_key_check"],
        )
    };
    let granted = format!(
        "SELECT (SELECT coalesce(sum(last_token), 0)::bigint FROM lock_fences)
              - (SELECT count(*) FROM audit_log WHERE command = 'lock_acquire' AND outcome = 'ok'
                 AND {action} = 'acquired')"
    );
    let granted = if postgres::is_chosen() { granted } else { granted.replace("::bigint", "") };
    let completed = format!(
        "SELECT (SELECT count(*) FROM work_queue WHERE status = 'completed')
              - (SELECT count(*) FROM audit_log WHERE command = 'task_complete' AND outcome = 'ok' AND {status} = 'completed')"
    );
    let none = [
        own[0],
        own[1],
        granted.as_str(),
        "SELECT count(*) FROM file_locks l LEFT JOIN lock_fences f USING (lock_key)
         WHERE f.last_token IS NULL OR f.last_token < l.fencing_token",
        // Every change has its row: a task, its submission.
        "SELECT (SELECT count(*) FROM work_queue)
              - (SELECT count(*) FROM audit_log WHERE command = 'task_submit' AND outcome = 'ok')",
        completed.as_str(),
    ];
    for sql in none {
        assert_eq!(scalar(&mut db, sql).await, 0, "{sql}");
    }
    if !postgres::is_chosen() {
        assert_eq!(db.texts("PRAGMA integrity_check").await, ["ok"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_when_the_process_is_killed_in_a_burst() {
    let dir = tempfile::tempdir().unwrap();
    copy_template(dir.path()).await;
    let mut server = Process::start(dir.path()).await;
    let mut clients = Vec::new();
    for n in 0..CLIENTS {
        clients.push(server.agent(&format!("worker-{n}"), "claude_code_local").await);
    }
    let mut kept = 0;
    for round in 0..ROUNDS {
        let at = server.address;
        let burst: Vec<JoinHandle<Told>> =
            clients.iter().map(|client| tokio::spawn(work(Client { address: at, ..client.clone() }, round))).collect();
        // Some moment: not one that the test chose to be kind.
        let noise = uuid::Uuid::now_v7().as_u128() % 700;
        tokio::time::sleep(Duration::from_millis(150 + u64::try_from(noise).unwrap())).await;
        server.kill();
        let told: Vec<Told> = futures::future::join_all(burst).await.into_iter().map(Result::unwrap).collect();
        assert_invariants(dir.path()).await;
        server = Process::start(dir.path()).await;
        for (told, client) in told.iter().zip(&clients) {
            kept += assert_kept(told, &server, client).await;
        }
        assert_invariants(dir.path()).await;
    }
    assert!(kept > 40, "{kept} acknowledged changes are too few to mean something");
    assert_no_key_in_the_log(dir.path(), &clients);
}

fn assert_no_key_in_the_log(data: &Path, clients: &[Client]) {
    let log = std::fs::read_to_string(data.join("stderr.log")).unwrap();
    for client in clients {
        assert!(!log.contains(client.key.as_deref().unwrap().trim_start_matches("prv_")), "a key is in the log");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_that_is_asked_for_finishes_what_is_in_flight() {
    let dir = tempfile::tempdir().unwrap();
    copy_template(dir.path()).await;
    let server = Process::start(dir.path()).await;
    let agent = server.agent("a", "claude_code_local").await;
    let waiter = agent.clone();
    let waiting = tokio::spawn(async move {
        waiter
            .try_send(Request::new("POST", "/work/claim").json(&json!({"task_types": ["never"], "wait_seconds": 2})))
            .await
    });
    let burst: Vec<_> = (0..20)
        .map(|n| {
            let agent = agent.clone();
            tokio::spawn(
                async move { call(&agent, "/locks/acquire", json!({"file_path": format!("src/{n}.rs")})).await },
            )
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.terminate();
    let granted =
        futures::future::join_all(burst).await.into_iter().filter(|told| told.as_ref().unwrap().is_some()).count();
    let (well, took) = server.ended().await;
    assert!(well && took < Duration::from_secs(15), "ended well: {well}, after {took:?}");
    // The claim that waited was in flight: it got its answer.
    let answer = waiting.await.unwrap().expect("an answer to what was in flight");
    assert_eq!((answer.status, &answer.body["reason"]), (200, &json!("no_tasks_available")), "{}", answer.body);
    let mut db = connect(dir.path()).await;
    let held = scalar(&mut db, "SELECT count(*) FROM file_locks").await;
    assert!(held >= i64::try_from(granted).unwrap(), "{granted} were granted, {held} are held");
    assert_invariants(dir.path()).await;
}
