//! A data folder with something in every table, and one with a long log.

use std::path::Path;

use portreeve::store::audit::AuditRow;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use tempfile::TempDir;

use crate::harness::state::{Db, connect};
use crate::harness::{Client, Server, Setup, open_app};

/// Whoever asks the service for something, and what they hold.
pub(super) struct Fleet {
    pub(super) a: Client,
    pub(super) b: Client,
    pub(super) suspended: Client,
    pub(super) revoked: Client,
    pub(super) token: i64,
    pub(super) claim: Value,
    pub(super) first: Value,
    pub(super) waiting: String,
}

/// A text that a careless copy would change.
pub(super) const ODD: &str = "naïve 数据库 🚀 \u{1}\u{7f} \\u0000 \"{}\" 'x'\n\ttab";

/// A store with something in every table, made by asking the service.
pub(super) async fn filled() -> (Server, Fleet) {
    let server = Server::start_with(Setup::default()).await;
    let a = server.agent("a", "claude_code_local").await;
    let b = server.agent("b", "codex_local").await;
    let suspended = server.agent("c", "claude_code_local").await;
    server.admin.post("/agents/c/suspend", json!({"suspended": true, "reason": ODD})).await.done();
    let key = server.admin.post("/agents/a/keys", json!({"label": ODD})).await.done();
    let revoked = Client { key: Some(key["key"].as_str().unwrap().to_owned()), ..a.clone() };
    server.admin.delete(&format!("/agents/a/keys/{}", key["key_id"].as_str().unwrap())).await.done();
    for _ in 0..3 {
        a.acquire("src/a.rs").await.done();
        a.release("src/a.rs").await.done();
    }
    b.acquire("src/free.rs").await.done();
    b.release("src/free.rs").await.done();
    let body = json!({"file_path": "src/a.rs", "reason": ODD, "ttl_minutes": 60, "session_id": "s-1"});
    let token = a.post("/locks/acquire", body).await.done()["fencing_token"].as_i64().unwrap();
    b.acquire("src/a.rs").await.refused("locked_by_other");
    let (claim, waiting) = tasks(&server, &a, &b).await;
    words(&a, &b).await;
    a.post("/guardrails/check", json!({"operation_text": "git push --force"})).await.ok();
    let forced = json!({"task_type": "t", "task_description": "git push --force origin main && rm -rf /"});
    assert_eq!(a.post("/work/submit", forced).await.status, 403);
    suspended.acquire("src/x.rs").await.denied("suspended");
    let once = json!({"task_type": "once", "task_description": ODD});
    let first = a.post_once("/work/submit", "key-1", once.clone()).await.done();
    a.post_once("/work/submit", "key-1", once).await.done();
    let active = server.app().gate().policy().active().component.digest().to_owned();
    server.admin.post(&format!("/components/{active}/shadow"), json!({})).await.done();
    (server, Fleet { a, b, suspended, revoked, token, claim, first, waiting })
}

/// Tasks of every status, with documents that a careless copy would change.
async fn tasks(server: &Server, a: &Client, b: &Client) -> (Value, String) {
    let odd = json!({
        "whole": 12_345_678_901_234_567_890_u64, "below": -9_223_372_036_854_775_808_i64, "large": 1e17, "tiny": 5e-324,
        "third": 0.1, "one": 1.0, "text": ODD, "z": null, "a": {"deep": [[[{}]], true]}, "": [],
    });
    let first = a.submit("build", json!({"input_data": odd, "priority": 1})).await;
    let waiting = a.submit("later", json!({"depends_on": [first], "deadline": "2199-12-31T23:59:59.999999Z"})).await;
    let failing = a.submit("fail", json!({"max_attempts": 1})).await;
    let withdrawn = a.submit("withdrawn", json!({})).await;
    server.admin.post("/work/cancel", json!({"task_id": withdrawn, "reason": ODD})).await.done();
    let claim = a.claim("fail").await;
    assert_eq!(claim["task_id"], json!(failing));
    let body = json!({"task_id": failing, "claim_token": claim["claim_token"], "success": false, "error_message": ODD});
    a.post("/work/complete", body).await.done();
    let done = a.submit("done", json!({})).await;
    let claim = b.claim("done").await;
    let body = json!({"task_id": done, "claim_token": claim["claim_token"], "success": true, "result": odd});
    b.post("/work/complete", body).await.done();
    let claim = a.claim("build").await;
    assert_eq!(claim["task_id"], json!(first));
    (claim, waiting)
}

/// What a memory holds: keys in an order that is not the database's.
pub(super) fn details() -> Value {
    json!({"zebra": {"b": 1, "a": [0.1, 1e17, ODD]}, "apple": "Größe"})
}

/// What agents say of themselves and to each other.
async fn words(a: &Client, b: &Client) {
    for (client, session) in [(a, "s-1"), (b, "s-2")] {
        let body = json!({"session_id": session, "capabilities": ["rust", ODD.trim()], "current_task": ODD});
        let registered = client.post("/discovery/register", body).await;
        if registered.status != 200 {
            let body = json!({"session_id": session, "capabilities": ["rust", "sql"], "current_task": ODD});
            client.post("/discovery/register", body).await.done();
        }
    }
    let report = json!({"message": ODD, "needs_human": true, "phase": "p", "metadata": {"b": 1.50, "a": [1e300, ODD]}});
    a.post("/status/report", report).await.done();
    for n in 0..3 {
        let body = json!({"summary": format!("{n} {ODD}"), "completed_work": [ODD, "", "x"], "decisions": [],
            "next_steps": ["b", "a"]});
        a.post("/handoffs/write", body).await.done();
    }
    let body = json!({"event_type": "error", "summary": "deadlock in the pool", "details": details(),
        "outcome": "negative", "lessons": ["take locks in order", "naïve retries"], "tags": ["db", "locks"]});
    a.post("/memory/store", body).await.done();
    // Merges into the first.
    let more =
        json!({"event_type": "error", "summary": "deadlock in the pool", "tags": ["pool"], "lessons": ["time out"]});
    assert_eq!(a.post("/memory/store", more).await.done()["action"], "deduplicated");
    b.post("/memory/store", json!({"event_type": "success", "summary": ODD})).await.done();
}

/// Adds rows to the log of a service that was stopped, as it would have written them.
pub(super) async fn grow(data: &Path, rows: i64) {
    let Db::Sqlite(mut conn) = connect(data).await else { panic!("this is about a file") };
    let names: Vec<String> =
        sqlx::query_scalar("SELECT name FROM pragma_table_info('audit_log')").fetch_all(&mut conn).await.unwrap();
    let columns: Vec<&str> = names
        .iter()
        .map(|name| match name.as_str() {
            "seq" => "?1",
            "id" => "?2",
            "leaf_hash" => "?3",
            other => other,
        })
        .collect();
    let add = format!("INSERT INTO audit_log SELECT {} FROM audit_log WHERE seq = ?4", columns.join(", "));
    let app = open_app(data, &Setup::default()).await.unwrap();
    let kept = app.gate().store().view().audit_rows(0, 1_000_000).await.unwrap();
    app.close().await;
    let kept: Vec<AuditRow> = kept.into_iter().map(|(row, _)| row).collect();
    let first = i64::try_from(kept.len()).unwrap() + 1;
    sqlx::raw_sql("BEGIN").execute(&mut conn).await.unwrap();
    for (seq, like) in (first..first + rows).zip(kept.iter().cycle()) {
        let row = AuditRow { seq, id: uuid::Uuid::now_v7().to_string(), ..like.clone() };
        let insert = sqlx::query(AssertSqlSafe(add.clone())).bind(seq).bind(&row.id).bind(row.leaf_hash());
        insert.bind(like.seq).execute(&mut conn).await.unwrap();
    }
    sqlx::raw_sql("COMMIT").execute(&mut conn).await.unwrap();
    sqlx::Connection::close(conn).await.unwrap();
}

/// A folder whose service was stopped, with a log that is longer than one step of a move.
pub(super) async fn long(rows: i64) -> TempDir {
    let (server, _) = filled().await;
    let dir = server.stop().await;
    grow(dir.path(), rows).await;
    dir
}
