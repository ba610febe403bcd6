//! The database file: what is refused and left as it is, and that one bad mutation does not take others with it.
//!
//! AUDIT: what cannot be recorded does not happen.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};

use crate::harness::state::{connect, execute, scalar};
use crate::harness::{Server, Setup, copy_template, open_app};

/// Files of a folder with their contents, without what SQLite keeps beside a database: a connection that was closed a moment
/// ago may take those away while they are looked at.
fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let names = files.map(|path| path.file_name().unwrap().to_string_lossy().into_owned());
    let read = |name: String| {
        let path = dir.join(&name);
        match std::fs::read(&path) {
            Ok(bytes) => Some((name, bytes)),
            Err(_) if name.ends_with("-wal") || path.is_dir() => None,
            Err(error) => panic!("{name}: {error}"),
        }
    };
    let kept = names.filter(|name| !name.ends_with("-shm")).filter_map(read);
    kept.filter(|(name, bytes)| !(name.ends_with("-wal") && bytes.is_empty())).collect()
}

/// Opening must fail, say this, and leave the files as they are.
async fn refused_and_untouched(dir: &Path, says: &str) {
    let before = contents(dir);
    let error = open_app(dir, &Setup::default()).await.map(drop).unwrap_err().to_string();
    assert!(error.contains(says), "{error}");
    let after = contents(dir);
    assert_eq!(after.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>(), "files came or went");
    for (name, bytes) in &before {
        assert!(after[name] == *bytes, "{name} was changed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_a_newer_program_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    copy_template(dir.path()).await;
    let mut db = connect(dir.path()).await;
    execute(&mut db, "INSERT INTO schema_migrations VALUES (9999, 'from_the_future', x'00', 0)").await.unwrap();
    db.close().await;
    refused_and_untouched(dir.path(), "9999").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_an_edited_migration_made_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    copy_template(dir.path()).await;
    let mut db = connect(dir.path()).await;
    execute(&mut db, "UPDATE schema_migrations SET checksum = zeroblob(32) WHERE version = 1").await.unwrap();
    db.close().await;
    refused_and_untouched(dir.path(), "other contents").await;
}

/// As the first release left it: its schema, a held lock, a claim, a final task.
async fn old_store(dir: &Path) {
    let first = include_str!("../../../migrations/sqlite/0001_coordination.sql");
    let options = SqliteConnectOptions::new().filename(dir.join("portreeve.db")).create_if_missing(true);
    let mut db = options.connect().await.unwrap();
    let table = "CREATE TABLE schema_migrations (version INTEGER NOT NULL PRIMARY KEY, name TEXT NOT NULL,
                 checksum BLOB NOT NULL, applied_at INTEGER NOT NULL) STRICT";
    sqlx::raw_sql(table).execute(&mut db).await.unwrap();
    sqlx::raw_sql(first).execute(&mut db).await.unwrap();
    sqlx::query("INSERT INTO schema_migrations VALUES (1, 'coordination', ?1, 0)")
        .bind(Sha256::digest(first.as_bytes()).to_vec())
        .execute(&mut db)
        .await
        .unwrap();
    let state = "INSERT INTO file_locks VALUES ('src/a.rs', 'system', 'system', NULL, NULL, 7, 1000, 9000000000000000);
        INSERT INTO lock_fences VALUES ('src/a.rs', 7);
        INSERT INTO work_queue (task_id, submit_order, task_type, description, priority, status, submitted_by,
            max_attempts, claimed_by, claimed_at, claim_token, lease_expires_at, created_at, completed_at)
        VALUES ('1', 1, 't', 'd', 5, 'claimed', 'system', 3, 'system', 2000, 'token', 9000000000000000, 0, NULL),
               ('2', 2, 't', 'd', 5, 'completed', 'system', 3, 'system', 2000, NULL, NULL, 0, 3000);";
    sqlx::raw_sql(state).execute(&mut db).await.unwrap();
    db.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_an_older_program_is_migrated_and_keeps_what_it_held() {
    let dir = tempfile::tempdir().unwrap();
    old_store(dir.path()).await;
    let server = Server::start_on(dir, Setup::default()).await;
    let mut db = server.db().await;
    assert_eq!(scalar(&mut db, "SELECT max(version) FROM schema_migrations").await, 4);
    assert_eq!(scalar(&mut db, "SELECT refreshed_at FROM file_locks WHERE fencing_token = 7").await, 1000);
    assert_eq!(scalar(&mut db, "SELECT heartbeat_at FROM work_queue WHERE status = 'claimed'").await, 2000);
    assert_eq!(scalar(&mut db, "SELECT heartbeat_at IS NULL FROM work_queue WHERE status = 'completed'").await, 1);
    server.admin.post("/memory/store", json!({"event_type": "success", "summary": "it moved"})).await.done();
    server.admin.acquire("src/a.rs").await.refused("locked_by_other");
    server.restart().await.admin.get("/locks").await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_programs_database_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let options = SqliteConnectOptions::new().filename(dir.path().join("portreeve.db")).create_if_missing(true);
    let mut db = options.connect().await.unwrap();
    sqlx::raw_sql("CREATE TABLE recipes (name TEXT)").execute(&mut db).await.unwrap();
    sqlx::raw_sql("INSERT INTO recipes VALUES ('soup')").execute(&mut db).await.unwrap();
    db.close().await.unwrap();
    refused_and_untouched(dir.path(), "another program").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_database_is_refused_and_left_alone() {
    for garbage in [b"not a database at all, but long enough to look at".repeat(100), vec![0xff; 5000]] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("portreeve.db"), &garbage).unwrap();
        refused_and_untouched(dir.path(), "cannot open the store").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_store_is_refused_and_not_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    copy_template(dir.path()).await;
    // Everything into the main file, so that the damage is not mended from the write-ahead log.
    let mut db = connect(dir.path()).await;
    execute(&mut db, "PRAGMA wal_checkpoint(TRUNCATE)").await.unwrap();
    db.close().await;
    let path = dir.path().join("portreeve.db");
    let mut bytes = std::fs::read(&path).unwrap();
    let page = bytes.len() / 4096 / 2 * 4096;
    for byte in &mut bytes[4096..page] {
        *byte ^= 0x5a;
    }
    std::fs::write(&path, &bytes).unwrap();
    let error = open_app(dir.path(), &Setup::default()).await.map(drop).unwrap_err().to_string();
    assert!(!error.is_empty());
    assert!(std::fs::read(&path).unwrap()[4096..page] == bytes[4096..page], "the damaged file was written to");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_folder_becomes_a_store_with_a_private_key_file() {
    use std::os::unix::fs::PermissionsExt;
    let server = Server::start_with(Setup { template: false, ..Setup::default() }).await;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&server.data().join("admin.key")), 0o600);
    assert_eq!(server.admin.get("/profiles/me").await.done()["profile"]["name"], "admin");
    // A lost key file gets a new key, and the old one still counts until it is revoked.
    std::fs::remove_file(server.data().join("admin.key")).unwrap();
    let old = server.admin.clone();
    let server = server.restart().await;
    assert_ne!(server.admin.key, old.key);
    server.admin.get("/agents").await.ok();
    server.again(&old).get("/agents").await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_made_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let outer = tempfile::tempdir().unwrap();
    let data = outer.path().join("new").join("data");
    open_app(&data, &Setup::default()).await.unwrap().close().await;
    assert_eq!(std::fs::metadata(&data).unwrap().permissions().mode() & 0o777, 0o700);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_bad_mutation_leaves_the_others_of_its_batch_alone() {
    let server = Server::start_with(Setup::default()).await;
    let agent = server.agent("a", "codex_local").await;
    let mut db = server.db().await;
    // The database fails for one key: an error of SQL in the midst of a batch.
    let poison = "CREATE TRIGGER poison BEFORE INSERT ON file_locks WHEN NEW.lock_key LIKE 'poison/%'
                  BEGIN SELECT RAISE(ABORT, 'poisoned'); END";
    execute(&mut db, poison).await.unwrap();
    let seq = server.last_seq().await;
    let requests = (0..90).map(|n| {
        let agent = agent.clone();
        async move {
            let body = json!({"task_type": "t", "task_description": "d", "depends_on": [uuid::Uuid::nil()]});
            match n % 3 {
                0 => (agent.acquire(&format!("fine/{n}")).await, 200),
                1 => (agent.acquire(&format!("poison/{n}")).await, 503),
                _ => (agent.post("/work/submit", body).await, 422),
            }
        }
    });
    for (reply, expected) in futures::future::join_all(requests).await {
        assert_eq!(reply.status, expected, "{}", reply.body);
        if expected == 503 {
            let (error, text) = (&reply.body["error"], reply.body.to_string());
            assert_eq!(error, "storage_unavailable");
            assert!(!text.contains("poison") && !text.to_lowercase().contains("trigger"), "{text}");
        }
    }
    for (table, count) in [("file_locks", 30), ("lock_fences", 30), ("work_queue", 0)] {
        assert_eq!(scalar(&mut db, &format!("SELECT count(*) FROM {table}")).await, count, "{table}");
    }
    assert_mixed_batch(&server, seq).await;
}

/// Rows of one batch share their time: good and bad ones were in one transaction, each with its row.
async fn assert_mixed_batch(server: &Server, seq: i64) {
    let lines = server.audit_after(seq).await;
    assert_eq!(lines.len(), 90);
    let mut batches: BTreeMap<i64, Vec<&str>> = BTreeMap::new();
    for line in &lines {
        batches.entry(line.created_at).or_default().push(&line.outcome);
    }
    let mixed = batches.values().filter(|batch| batch.contains(&"ok") && batch.contains(&"failed")).count();
    assert!(mixed > 0, "no batch was mixed: {batches:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_batch_that_is_lost_whole_acknowledges_nothing() {
    let rollback = "CREATE TRIGGER lost BEFORE INSERT ON file_locks WHEN NEW.lock_key LIKE 'lost/%'
                    BEGIN SELECT RAISE(ROLLBACK, 'all of it'); END";
    assert_lost_whole(&[rollback]).await;
}

/// A row without its parent is allowed until the end of the transaction, so that the commit itself fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_commit_that_fails_acknowledges_nothing() {
    let orphan = [
        "CREATE TABLE parents (id INTEGER PRIMARY KEY)",
        "CREATE TABLE orphans (id INTEGER REFERENCES parents (id) DEFERRABLE INITIALLY DEFERRED)",
        "CREATE TRIGGER lost AFTER INSERT ON file_locks WHEN NEW.lock_key LIKE 'lost/%'
         BEGIN INSERT INTO orphans (id) VALUES (1); END",
    ];
    assert_lost_whole(&orphan).await;
}

/// Requests of which every sixth takes its whole batch with it.
async fn assert_lost_whole(traps: &[&str]) {
    let server = Server::start_with(Setup::default()).await;
    let agent = server.agent("a", "codex_local").await;
    let mut db = server.db().await;
    for sql in traps {
        execute(&mut db, sql).await.unwrap();
    }
    let requests = (0..60).map(|n| {
        let agent = agent.clone();
        async move {
            let path = if n % 6 == 0 { format!("lost/{n}") } else { format!("fine/{n}") };
            let reply = agent.acquire(&path).await;
            (path, reply.status, reply.body["fencing_token"].clone())
        }
    });
    let answers = futures::future::join_all(requests).await;
    let held = agent.get("/locks?limit=1000").await.ok();
    let held: BTreeMap<&str, &Value> = held["locks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|lock| (lock["file_path"].as_str().unwrap(), &lock["fencing_token"]))
        .collect();
    for (path, status, token) in &answers {
        match status {
            200 => assert_eq!(held.get(path.as_str()), Some(&token), "{path} was acknowledged and is lost"),
            503 => assert!(!held.contains_key(path.as_str()), "{path} was refused and is there"),
            other => panic!("{path}: {other}"),
        }
    }
    assert!(answers.iter().all(|(path, status, _)| *status == 503 || path.starts_with("fine/")));
    execute(&mut db, "DROP TRIGGER lost").await.unwrap();
    agent.acquire("lost/0").await.done();
    let gaps = "SELECT max(seq) - count(*) FROM audit_log";
    assert_eq!(scalar(&mut db, gaps).await, 0);
}

/// As on PostgreSQL, where `postgres/families.rs` shows how time takes such a family in parts.
#[tokio::test(flavor = "multi_thread")]
async fn a_family_that_is_too_large_does_not_fail_at_once() {
    let server = Server::start().await;
    let a = server.agent("a", "claude_code_local").await;
    let root = a.submit("root", json!({})).await;
    let mut db = server.db().await;
    let family = "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 50001)
        INSERT INTO work_queue (task_id, submit_order, task_type, description, priority, status, submitted_by, max_attempts,
            open_dependencies, created_at)
        SELECT 'waiting-' || n, 1000 + n, 't', 'd', 5, 'pending', 'a', 3, 1, 0 FROM n";
    execute(&mut db, family).await.unwrap();
    let waits = format!(
        "INSERT INTO work_dependencies (task_id, depends_on) SELECT task_id, '{root}' FROM work_queue WHERE task_type = 't'"
    );
    execute(&mut db, &waits).await.unwrap();
    a.claim("root").await;
    a.post("/work/complete", json!({"task_id": root, "success": false})).await.invalid("too_many_dependants");
    a.post("/work/cancel", json!({"task_id": root})).await.invalid("too_many_dependants");
    execute(&mut db, "UPDATE work_queue SET status = 'cancelled', completed_at = 1 WHERE task_id = 'waiting-1'")
        .await
        .unwrap();
    a.post("/work/cancel", json!({"task_id": root})).await.done();
}

/// As on PostgreSQL (`postgres/families.rs`), with as much as one cleanup takes.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_much_is_cleaned_up_in_parts() {
    let server = Server::start().await;
    let a = server.agent("a", "claude_code_local").await;
    a.post("/discovery/register", json!({"session_id": "s"})).await.done();
    let root = a.submit("root", json!({"max_attempts": 1})).await;
    a.post("/work/claim", json!({"task_types": ["root"], "lease_seconds": 86_400})).await.done();
    let (now, mut db) = (server.now().as_micros(), server.db().await);
    let later = server.now().plus_minutes(240).as_micros();
    let numbers = "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 25001)";
    let fill = [
        format!(
            "{numbers} INSERT INTO file_locks (lock_key, agent_id, agent_type, fencing_token, locked_at, expires_at,
                refreshed_at) SELECT 'src/' || n, 'a', 'claude_code', 1, {now}, {later}, {now} FROM n"
        ),
        format!(
            "{numbers} INSERT INTO work_queue (task_id, submit_order, task_type, description, priority, status, submitted_by,
                max_attempts, created_at, claimed_by, claimed_at, claim_token, lease_expires_at, heartbeat_at)
             SELECT 'claimed-' || n, 1000 + n, 't', 'd', 5, 'claimed', 'a', 3, 0, 'a', {now}, 't', {later}, {now} FROM n"
        ),
    ];
    for sql in fill {
        execute(&mut db, &sql).await.unwrap();
    }
    server.advance(3600).await;
    let cleanup =
        async |dry_run: bool| server.admin.post("/discovery/cleanup", json!({"dry_run": dry_run})).await.done();
    let counts = |agents: i64, locks: i64, tasks: i64| json!({"success": true, "agents_cleaned": agents, "locks_released": locks, "tasks_requeued": tasks});
    let mut first = counts(0, 25_000, 24_999);
    first["remaining"] = json!(1);
    assert_eq!(cleanup(true).await, first);
    assert_eq!(cleanup(false).await, first);
    assert_eq!(server.admin.task(&root).await["error_message"], "attempts_exhausted");
    assert_eq!(cleanup(false).await, counts(1, 1, 2));
    assert_eq!(cleanup(false).await, counts(0, 0, 0));
    // A claim whose failure would take too much along is left to its lease, and nobody waits for it.
    let root = a.submit("root", json!({"max_attempts": 1})).await;
    a.post("/discovery/register", json!({"session_id": "last"})).await.done();
    a.post("/work/claim", json!({"task_types": ["root"], "lease_seconds": 86_400})).await.done();
    let family = format!(
        "{numbers} INSERT INTO work_dependencies (task_id, depends_on) SELECT 'claimed-' || n, '{root}' FROM n"
    );
    execute(&mut db, &family).await.unwrap();
    server.advance(3600).await;
    assert_eq!(cleanup(false).await, counts(1, 0, 0));
    assert_eq!(a.task(&root).await["status"], "claimed");
}
