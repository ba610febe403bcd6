//! AUDIT: one row per decision, without gaps, never changed, and nothing secret in it.

use portreeve::store::audit::AuditRow;
use serde_json::{Value, json};

use crate::harness::state::{Db, drop_guards, execute, micros, scalar};
use crate::harness::{Server, postgres};

/// Work of several agents: allowed, denied, refused, failed, replayed.
async fn busy(server: &Server) {
    let a = server.agent("a", "claude_code_local").await;
    let b = server.agent("b", "codex_remote").await;
    let work = (0..10).map(|n| {
        let (a, b) = (a.clone(), b.clone());
        async move {
            a.acquire(&format!("src/{}.rs", n % 3)).await.ok();
            b.acquire(&format!("src/{}.rs", n % 3)).await.ok();
            b.delete("/locks/src/1.rs").await.denied("trust_below_admin");
            b.post("/work/submit", json!({"task_type": "t", "task_description": "rm -rf /"})).await;
            a.post_once("/work/submit", "k", json!({"task_type": "t", "task_description": "d"})).await.done();
            b.post("/locks/acquire", json!({"file_path": "x", "ttl_minutes": 400})).await.invalid("ttl_out_of_range");
            b.post("/work/claim", json!({"agent_id": "a"})).await.denied("identity_mismatch");
            b.get("/locks").await.ok();
        }
    });
    futures::future::join_all(work).await;
}

/// A row in each of the tables that agents write their words into.
async fn outspoken(server: &Server) {
    let c = server.agent("c", "codex_remote").await;
    c.post("/discovery/register", json!({"session_id": "s"})).await.done();
    c.post("/handoffs/write", json!({"summary": "half done"})).await.done();
    c.post("/memory/store", json!({"event_type": "error", "summary": "it broke"})).await.done();
}

async fn all_rows(server: &Server) -> Vec<(AuditRow, Vec<u8>)> {
    server.app().gate().store().view().audit_rows(0, 100_000).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn positions_have_no_gap_and_every_row_has_its_leaf_hash() {
    let server = Server::start().await;
    busy(&server).await;
    let rows = all_rows(&server).await;
    let positions: Vec<i64> = rows.iter().map(|(row, _)| row.seq).collect();
    assert_eq!(positions, (1..=i64::try_from(rows.len()).unwrap()).collect::<Vec<_>>());
    for (row, leaf) in &rows {
        assert_eq!(&row.leaf_hash(), leaf, "{row:?}");
    }
    let distinct: std::collections::BTreeSet<_> = rows.iter().map(|(row, _)| &row.id).collect();
    assert_eq!(distinct.len(), rows.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_decision_has_exactly_one_row_that_says_what_became_of_it() {
    let server = Server::start().await;
    let seq = server.last_seq().await;
    busy(&server).await;
    let rows: Vec<AuditRow> =
        all_rows(&server).await.into_iter().map(|(row, _)| row).filter(|row| row.seq > seq).collect();
    // Two registrations, and eight requests in each of ten rounds.
    assert_eq!(rows.len(), 2 + 80);
    let count = |outcome: &str| rows.iter().filter(|row| row.outcome == outcome).count();
    assert_eq!((count("denied"), count("failed"), count("replayed")), (30, 10, 9));
    for row in &rows {
        assert_eq!(row.decision == "deny", row.outcome == "denied", "{row:?}");
        assert_eq!(row.changes != "[]", row.outcome == "ok" && !row.command.ends_with("_list"), "{row:?}");
        let asked: Value = serde_json::from_str(&row.request).unwrap();
        if row.reason != "identity_mismatch" {
            assert_eq!(asked["principal"]["agent_id"], json!(row.agent_id));
            assert_eq!(asked["operation"], json!(row.operation));
        }
        assert!(row.component.starts_with("sha256:") && row.epoch == 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_itself_keeps_the_records() {
    let server = Server::start().await;
    busy(&server).await;
    outspoken(&server).await;
    let mut db = server.db().await;
    let before = crate::harness::state::rows(&mut db, "audit_log").await;
    let own: &[&str] = if postgres::is_chosen() {
        &[
            "UPDATE audit_seq SET seq = seq + 1000",
            "UPDATE audit_seq SET leaf_hash = sha256('') WHERE seq = 3",
            "DELETE FROM audit_seq WHERE seq = (SELECT max(seq) FROM audit_seq)",
            "INSERT INTO audit_log SELECT * FROM audit_log LIMIT 1",
            "UPDATE audit_log SET xact = '1'",
            "TRUNCATE audit_log CASCADE",
            "TRUNCATE audit_seq",
            "TRUNCATE guardrail_violations",
            "TRUNCATE activations",
            "TRUNCATE handoffs",
            "TRUNCATE memories",
            "TRUNCATE file_locks",
            "UPDATE guardrail_violations SET blocked = false",
            "UPDATE memories SET tags = '{}'",
        ]
    } else {
        &[
            "UPDATE audit_log SET seq = seq + 1000",
            "UPDATE audit_log SET leaf_hash = zeroblob(32) WHERE seq = 3",
            "DELETE FROM audit_log WHERE seq = (SELECT max(seq) FROM audit_log)",
            "INSERT INTO audit_log SELECT * FROM audit_log WHERE seq = 1",
            "INSERT OR REPLACE INTO audit_log SELECT * FROM audit_log WHERE seq = 1",
            "INSERT OR REPLACE INTO audit_log SELECT * FROM audit_log ORDER BY seq DESC LIMIT 1",
            "UPDATE guardrail_violations SET blocked = 0",
            "UPDATE memories SET tags = '[]'",
        ]
    };
    let attempts = [
        "UPDATE audit_log SET decision = 'allow'",
        "DELETE FROM audit_log",
        "DELETE FROM guardrail_violations",
        "UPDATE activations SET digest = digest",
        "DELETE FROM activations",
        "DELETE FROM lock_fences",
        "UPDATE lock_fences SET last_token = last_token - 1",
        "UPDATE lock_fences SET last_token = last_token",
        "DELETE FROM work_queue",
        "DELETE FROM handoffs",
        "UPDATE handoffs SET summary = 'another'",
        "DELETE FROM memories",
        "UPDATE memories SET summary = 'another', merge_count = merge_count + 1",
        "UPDATE memories SET agent_id = 'b', merge_count = merge_count + 1",
        "DELETE FROM agent_sessions",
        "UPDATE agent_sessions SET agent_id = 'b'",
    ];
    all_rows(&server).await;
    for sql in own.iter().copied().chain(attempts) {
        assert!(execute(&mut db, sql).await.is_err(), "the database let this through: {sql}");
    }
    assert_eq!(crate::harness::state::rows(&mut db, "audit_log").await, before);
}

/// `REPLACE` deletes what it conflicts with, and SQLite runs no DELETE trigger for that
/// unless the connection asks for it, which nobody can rely on. PostgreSQL has `ON CONFLICT`.
#[tokio::test(flavor = "multi_thread")]
async fn the_database_itself_lets_nothing_be_replaced() {
    let server = Server::start().await;
    busy(&server).await;
    outspoken(&server).await;
    let mut db = server.db().await;
    let attempts = if postgres::is_chosen() { upserts() } else { replacements(&mut db).await };
    let mut let_through = Vec::new();
    for sql in attempts {
        let replaced = execute(&mut db, &sql).await.is_ok();
        let_through.extend(replaced.then_some(sql));
    }
    assert!(let_through.is_empty(), "the database let these through: {let_through:#?}");
}

async fn replacements(db: &mut Db) -> Vec<String> {
    // A new position, the identifier of an old row: the old row would go.
    let columns = db.texts("SELECT name FROM pragma_table_info('audit_log')").await;
    let at_end = columns.iter().map(|name| if name == "seq" { "(SELECT max(seq) + 1 FROM audit_log)" } else { name });
    let same_id = format!("audit_log SELECT {} FROM audit_log WHERE seq = 3", at_end.collect::<Vec<_>>().join(", "));
    let attempts = [
        same_id.as_str(),
        "guardrail_violations SELECT * FROM guardrail_violations LIMIT 1",
        "activations SELECT * FROM activations LIMIT 1",
        "lock_fences SELECT lock_key, 1 FROM lock_fences",
        "work_queue SELECT * FROM work_queue",
        "agent_sessions SELECT * FROM agent_sessions",
        "handoffs SELECT * FROM handoffs",
        "memories SELECT * FROM memories",
    ];
    attempts.into_iter().map(|what| format!("INSERT OR REPLACE INTO {what}")).collect()
}

fn upserts() -> Vec<String> {
    let attempts = [
        ("audit_log SELECT * FROM audit_log", "workspace, id", "outcome = 'ok'"),
        ("guardrail_violations SELECT * FROM guardrail_violations", "workspace, audit_id, position", "blocked = false"),
        ("activations SELECT * FROM activations", "workspace, epoch", "activated_by = 'a'"),
        ("lock_fences SELECT workspace, lock_key, 1 FROM lock_fences", "workspace, lock_key", "last_token = 99"),
        ("agent_sessions SELECT * FROM agent_sessions", "workspace, session_id", "current_task = 'x'"),
        ("idempotency_keys SELECT * FROM idempotency_keys", "workspace, agent_id, key", "body = '{}'"),
    ];
    let upsert =
        |(what, key, set): (&str, &str, &str)| format!("INSERT INTO {what} ON CONFLICT ({key}) DO UPDATE SET {set}");
    attempts.into_iter().map(upsert).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_was_tampered_with_no_longer_has_its_hash() {
    let is_postgres = postgres::is_chosen();
    let columns = [
        ("created_at", if is_postgres { "created_at + interval '1 microsecond'" } else { "created_at + 1" }),
        ("agent_id", "'admin'"),
        ("operation", "'submit_work'"),
        ("reason", "reason || ' '"),
        ("parameters", "'{}'"),
        ("request", "'{}'"),
        ("result", "'{}'"),
        ("changes", "'[1]'"),
        ("trust_level", "4"),
        ("epoch", "9"),
        ("fuel", "fuel + 1"),
        ("duration_us", "duration_us + 1"),
        ("leaf_hash", if is_postgres { "sha256('')" } else { "zeroblob(32)" }),
    ];
    let server = Server::start().await;
    let agent = server.agent("a", "codex_remote").await;
    for n in 0..columns.len() {
        agent.acquire(&format!("src/{n}.rs")).await.done();
    }
    let last = server.last_seq().await;
    let mut db = server.db().await;
    // Whoever has the database can drop a trigger; the hash still tells.
    all_rows(&server).await;
    drop_guards(&mut db, "audit_log").await;
    if is_postgres {
        drop_guards(&mut db, "audit_seq").await;
    }
    for (seq, (column, value)) in (1..=last).rev().zip(columns) {
        let sql = match (is_postgres, column) {
            (false, _) => format!("UPDATE audit_log SET {column} = {value} WHERE seq = {seq}"),
            (true, "leaf_hash") => format!("UPDATE audit_seq SET {column} = {value} WHERE seq = {seq}"),
            (true, _) => format!(
                "UPDATE audit_log l SET {column} = {value} FROM audit_seq s WHERE s.id = l.id AND s.seq = {seq}"
            ),
        };
        assert_eq!(execute(&mut db, &sql).await.unwrap(), 1, "{sql}");
        let rows = all_rows(&server).await;
        let (row, leaf) = rows.iter().find(|(row, _)| row.seq == seq).unwrap();
        assert_ne!(&row.leaf_hash(), leaf, "{column}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_nowhere_in_the_files() {
    let server = Server::start().await;
    let agent = server.agent("a", "codex_local").await;
    let more = server.admin.post_once("/agents/a/keys", "k", json!({"label": "x"})).await.done();
    let admin = std::fs::read_to_string(server.data().join("admin.key")).unwrap();
    let secrets = [agent.key.clone().unwrap(), more["key"].as_str().unwrap().to_owned(), admin.trim().to_owned()];
    for secret in &secrets {
        assert!(secret.len() > 40);
        // Also as something that an agent says about itself by mistake.
        agent.get("/audit").await.ok();
    }
    let dir = server.stop().await;
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.ends_with("admin.key") || path.is_dir() {
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        for secret in &secrets {
            let body = secret.trim_start_matches("prv_").as_bytes();
            assert!(!contains(&bytes, body), "a key stands in {}", path.display());
        }
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[tokio::test(flavor = "multi_thread")]
async fn below_trust_3_one_sees_ones_own_rows_only() {
    let server = Server::start().await;
    busy(&server).await;
    for (name, profile) in [("r", "claude_code_reviewer"), ("e", "evaluator"), ("c", "codex_remote")] {
        let agent = server.agent(name, profile).await;
        agent.get("/locks").await.ok();
        for query in ["", "&agent_id=a", "&agent_id=admin", "&decision=deny"] {
            let list = agent.get(&format!("/audit?limit=1000{query}")).await.ok();
            let entries = list["entries"].as_array().unwrap();
            assert!(entries.iter().all(|entry| entry["agent_id"] == name), "{profile} {query}");
            assert_eq!(entries.is_empty(), !query.is_empty(), "{profile} {query}");
        }
    }
    let elevated = server.agent("l", "claude_code_local").await;
    let others = elevated.get("/audit?limit=1000&agent_id=b&decision=deny").await.ok();
    assert_eq!(others["count"], 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_are_complete_newest_first_and_filtered() {
    let server = Server::start().await;
    let since = server.now();
    server.advance(10).await;
    busy(&server).await;
    let list = server.admin.get("/audit?limit=5").await.ok();
    let entries = list["entries"].as_array().unwrap();
    let promised = [
        "id",
        "seq",
        "agent_id",
        "agent_type",
        "operation",
        "resource",
        "parameters",
        "decision",
        "reason",
        "engine",
        "component",
        "epoch",
        "trust_level",
        "result",
        "success",
        "duration_ms",
        "created_at",
    ];
    for key in promised {
        assert!(entries[0].get(key).is_some(), "{key} is missing");
    }
    let positions: Vec<i64> = entries.iter().map(|entry| entry["seq"].as_i64().unwrap()).collect();
    assert!(positions.windows(2).all(|pair| pair[0] == pair[1] + 1), "{positions:?}");
    let count = |query: String| {
        let admin = server.admin.clone();
        async move { admin.get(&format!("/audit?limit=1000&{query}")).await.ok()["count"].clone() }
    };
    assert_eq!(count("operation=force_release_lock".to_owned()).await, 10);
    assert_eq!(count("operation=acquire_lock&agent_id=a".to_owned()).await, 10);
    assert_eq!(count("decision=deny".to_owned()).await, 30);
    assert_eq!(count(format!("until={}", since.plus_seconds(10))).await, json!(positions_at_start(&server).await));
    assert_eq!(count(format!("since={}", since.plus_seconds(11))).await, 0);
    assert_eq!(server.admin.get("/audit?decision=maybe").await.status, 422);
}

/// Rows that the making of the store left, before any test did anything.
async fn positions_at_start(server: &Server) -> i64 {
    let at = server.now().plus_seconds(-10).as_micros();
    scalar(&mut server.db().await, &format!("SELECT count(*) FROM audit_log WHERE {} <= {at}", micros("created_at")))
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn long_texts_are_kept_as_digest_and_length() {
    let server = Server::start().await;
    let agent = server.agent("a", "codex_remote").await;
    let seq = server.last_seq().await;
    agent.submit("t", json!({"task_description": "look at it. ".repeat(20_000)})).await;
    let rows = all_rows(&server).await;
    let (row, leaf) = rows.iter().find(|(row, _)| row.seq == seq + 1).unwrap();
    assert!(row.parameters.len() < 4096 && row.request.len() < 4096);
    let parameters: Value = serde_json::from_str(&row.parameters).unwrap();
    assert_eq!(parameters["task_description"]["bytes"], 240_000);
    assert_eq!(&row.leaf_hash(), leaf);
}
