//! With a hundred thousand rows, what is asked all the time looks into no table from end to end. A search of memories for
//! words does: `0002_sessions_and_memories.sql` says why.

use std::collections::BTreeMap;

use serde_json::json;

use crate::harness::postgres::{Kind, clone, superuser};
use crate::harness::state::{connect, drop_guards, execute};
use crate::harness::{Server, Setup};

const ROWS: u32 = 100_000;

/// Rows as they would have come about, past the functions: what is tested is the looking.
async fn fill(data: &std::path::Path) {
    let mut db = connect(data).await;
    let tables = [
        "agents",
        "api_keys",
        "file_locks",
        "lock_fences",
        "work_queue",
        "handoffs",
        "memories",
        "agent_sessions",
        "audit_log",
        "audit_seq",
        "idempotency_keys",
    ];
    for table in tables {
        drop_guards(&mut db, table).await;
    }
    let fills = [
        "INSERT INTO agents (agent_id, agent_type, profile, created_by)
         SELECT 'agent-' || n, 'codex', 'codex_local', 'admin' FROM generate_series(1, 5000) n",
        "INSERT INTO api_keys (key_id, agent_id, lookup, key_hash, created_by)
         SELECT gen_random_uuid(), 'agent-' || n, substr(sha256(n::text::bytea), 1, 8), sha256(n::text::bytea), 'admin'
         FROM generate_series(1, 5000) n",
        "INSERT INTO file_locks (lock_key, agent_id, agent_type, fencing_token, locked_at, expires_at, refreshed_at)
         SELECT 'src/' || n, 'agent-' || (n % 5000 + 1), 'codex', 1, now(), now() + interval '1 hour', now()
         FROM generate_series(1, {n}) n",
        "INSERT INTO lock_fences (lock_key, last_token) SELECT 'src/' || n, 1 FROM generate_series(1, {n}) n",
        "INSERT INTO work_queue (task_id, task_type, description, priority, status, submitted_by, max_attempts, completed_at)
         SELECT gen_random_uuid(), 't' || n % 50, 'd', n % 10 + 1, CASE WHEN n % 4 = 0 THEN 'pending' ELSE 'completed' END,
             'agent-' || (n % 5000 + 1), 3, CASE WHEN n % 4 > 0 THEN now() END FROM generate_series(1, {n}) n",
        "INSERT INTO handoffs (handoff_id, agent_id, summary, completed_work, in_progress, decisions, next_steps, relevant_files)
         SELECT gen_random_uuid(), 'agent-' || (n % 5000 + 1), 's', '{}', '{}', '{}', '{}', '{}' FROM generate_series(1, {n}) n",
        "INSERT INTO memories (memory_id, agent_id, event_type, summary, summary_hash, lessons, tags, ranks_at, hour_slot,
             word_lists, words)
         SELECT gen_random_uuid(), 'agent-' || (n % 5000 + 1), 'decision', 's' || n, sha256(n::text::bytea), '{}', '{}',
             now() - n * interval '1 second', n, '{}', '' FROM generate_series(1, {n}) n",
        "INSERT INTO agent_sessions (session_id, agent_id, agent_type, ended_at)
         SELECT 's' || n, 'agent-' || (n % 5000 + 1), 'codex', CASE WHEN n % 20 > 0 THEN now() END
         FROM generate_series(1, {n}) n",
        "INSERT INTO audit_log (xact, id, created_at, request_id, agent_id, agent_type, profile, trust_level, command,
             operation, resource, parameters, request, decision, reason, detail, engine, deciding, violations, obligations,
             component, epoch, facts_version, fuel, outcome, result, changes, duration_us)
         SELECT n % 1000, gen_random_uuid(), now() - interval '1 day', 'r', 'agent-' || (n % 5000 + 1),
             'codex', 'codex_local', 3, 'lock_acquire', 'op' || n % 30, 'x', '{}', '{}', 'allow', 'allowed', '', 'both',
             '[]', '[]', '{}', 'c', 1, 1, 1, 'ok', 'null', '[]', 1 FROM generate_series(1, {n}) n",
        "INSERT INTO audit_seq (seq, xact, id, leaf_hash)
         SELECT (SELECT coalesce(max(seq), 0) FROM audit_seq) + row_number() OVER (ORDER BY xact, id), xact, id, sha256('')
         FROM audit_log l WHERE NOT EXISTS (SELECT 1 FROM audit_seq s WHERE s.id = l.id)",
        "INSERT INTO idempotency_keys (agent_id, key, request_hash, status, body, audit_id, created_at)
         SELECT l.agent_id, l.id::text, sha256(''), 200, '{}', l.id, now() FROM audit_log l",
    ];
    for sql in fills {
        execute(&mut db, &sql.replace("{n}", &ROWS.to_string())).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
    for table in tables {
        execute(&mut db, &format!("ALTER TABLE {table} ENABLE TRIGGER USER")).await.unwrap();
    }
    execute(&mut db, "ANALYZE").await.unwrap();
}

/// How often each large table was read from end to end, and how many rows that came to.
async fn scans(database: &str) -> BTreeMap<String, i64> {
    let mut conn = superuser(database).await;
    let sql = "SELECT relname::text, seq_scan FROM pg_stat_user_tables WHERE schemaname = 'portreeve'
               AND relname NOT IN ('activations', 'component_shadows', 'components', 'schema_migrations', 'agent_status',
                                   'work_dependencies', 'guardrail_violations')";
    sqlx::query_as(sql).fetch_all(&mut conn).await.unwrap().into_iter().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_is_asked_all_the_time_reads_a_table_from_end_to_end() {
    let dir = tempfile::tempdir().unwrap();
    let database = clone(dir.path(), Kind::Served).await;
    fill(dir.path()).await;
    let server = Server::start_on(dir, Setup::default()).await;
    let a = server.agent("a", "claude_code_local").await;
    let before = scans(&database).await;
    // Often enough that the server settles on its general plans.
    for n in 0..12 {
        let path = format!("lib/{n}.rs");
        let token = a.acquire(&path).await.done()["fencing_token"].clone();
        a.acquire("src/77").await.refused("locked_by_other");
        a.post("/locks/renew", json!({"file_path": path, "fencing_token": token})).await.done();
        a.post("/locks/verify", json!({"file_path": path, "fencing_token": token})).await.ok();
        a.get(&format!("/locks/status/{path}")).await.ok();
        a.release(&path).await.done();
        let first = a.submit("build", json!({})).await;
        a.submit("build", json!({"depends_on": [first]})).await;
        let claim = a.post("/work/claim", json!({"lease_seconds": 60})).await.done();
        let (id, token) = (&claim["task_id"], &claim["claim_token"]);
        a.post("/work/heartbeat", json!({"task_id": id, "claim_token": token})).await.done();
        a.post("/work/complete", json!({"task_id": id, "success": true, "claim_token": token})).await.done();
        a.post("/work/cancel", json!({"task_id": first})).await.done();
        a.task(&first).await;
        a.get("/work?limit=20").await.ok();
        a.post("/discovery/register", json!({"session_id": format!("mine-{n}")})).await.done();
        a.post("/discovery/heartbeat", json!({})).await.done();
        a.post("/status/report", json!({"message": "m"})).await.done();
        a.get("/discovery/agents?status=active&limit=20").await.ok();
        a.post("/handoffs/write", json!({"summary": "s"})).await.done();
        a.post("/handoffs/read", json!({})).await.ok();
        a.post("/handoffs/read", json!({"agent_name": "agent-7"})).await.ok();
        a.post("/memory/store", json!({"event_type": "decision", "summary": format!("new {n}")})).await.done();
        a.post("/memory/query", json!({})).await.ok();
        a.post("/memory/query", json!({"scope": "all"})).await.ok();
        a.post_once("/locks/acquire", &format!("k{n}"), json!({"file_path": format!("once/{n}")})).await.done();
        server.admin.get("/audit").await.ok();
        server.admin.get("/audit?agent_id=agent-7").await.ok();
        server.admin.get("/audit?operation=op3").await.ok();
        server.admin.get("/agents?agent_id=agent-7").await.ok();
    }
    server.app().expire_tasks().await.unwrap();
    // Connections tell what they did at the latest when they end.
    let _dir = server.stop().await;
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    let after = scans(&database).await;
    let grown: Vec<_> = after.iter().filter(|(table, count)| before.get(*table) != Some(count)).collect();
    assert!(after.len() >= 11, "{after:?}");
    assert!(grown.is_empty(), "read from end to end: {grown:?}, before {before:?}");
}

/// Rows past all triggers and without a change of any table's definition, which would make the server plan anew.
async fn grow(database: &str) {
    let mut db = superuser(database).await;
    let fills = [
        "SET session_replication_role = replica",
        "INSERT INTO file_locks (lock_key, agent_id, agent_type, fencing_token, locked_at, expires_at, refreshed_at)
         SELECT 'src/' || n, 'agent-' || n % 500, 'codex', 1, now(), now() + interval '1 hour', now()
         FROM generate_series(1, 20000) n",
        "INSERT INTO lock_fences (lock_key, last_token) SELECT 'src/' || n, 1 FROM generate_series(1, 20000) n",
        "INSERT INTO work_queue (task_id, task_type, description, priority, status, submitted_by, max_attempts, completed_at)
         SELECT gen_random_uuid(), 't', 'd', 5, 'completed', 'agent-' || n % 500, 3, now() FROM generate_series(1, 20000) n",
        "INSERT INTO audit_log (xact, id, created_at, request_id, agent_id, agent_type, profile, trust_level, command,
             operation, resource, parameters, request, decision, reason, detail, engine, deciding, violations, obligations,
             component, epoch, facts_version, fuel, outcome, result, changes, duration_us)
         SELECT 5, gen_random_uuid(), now() - interval '1 day', 'r', 'agent-' || n % 500, 'codex', 'codex_local', 3,
             'lock_acquire', 'op' || n % 30, 'x', '{}', '{}', 'allow', 'allowed', '', 'both', '[]', '[]', '{}', 'c', 1, 1, 1,
             'ok', 'null', '[]', 1 FROM generate_series(1, 20000) n",
    ];
    for sql in fills {
        sqlx::raw_sql(sql).execute(&mut db).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
}

/// How many rows and entries of indexes were read so far, in tables that grow.
async fn read_so_far(database: &str) -> BTreeMap<String, i64> {
    // Connections tell what they did when they were idle for a second.
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    let mut conn = superuser(database).await;
    let sql = "SELECT t.relname::text, (t.seq_tup_read + coalesce(sum(i.idx_tup_read), 0))::bigint
               FROM pg_stat_user_tables t LEFT JOIN pg_stat_user_indexes i ON i.relid = t.relid
               WHERE t.relname IN ('file_locks', 'lock_fences', 'work_queue', 'audit_log')
               GROUP BY t.relname, t.seq_tup_read";
    sqlx::query_as(sql).fetch_all(&mut conn).await.unwrap().into_iter().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_made_for_empty_tables_is_good_when_they_are_full() {
    let dir = tempfile::tempdir().unwrap();
    let database = clone(dir.path(), Kind::Served).await;
    let by_itself = sqlx::raw_sql("ALTER TABLE audit_log SET (autovacuum_enabled = off)");
    by_itself.execute(&mut superuser(&database).await).await.unwrap();
    let server = Server::start_on(dir, Setup::default()).await;
    let a = server.agent("a", "claude_code_local").await;
    let round = async |prefix: &str, n: usize| {
        let path = format!("{prefix}/{n}.rs");
        a.acquire(&path).await.done();
        a.release(&path).await.done();
        let id = a.submit("build", json!({})).await;
        let claim = a.post("/work/claim", json!({})).await.done();
        let token = &claim["claim_token"];
        a.post("/work/complete", json!({"task_id": id, "success": true, "claim_token": token})).await.done();
    };
    // Often enough on each connection of the pool that the server settles on its general plans.
    for n in 0..100 {
        round("small", n).await;
    }
    grow(&database).await;
    let before = read_so_far(&database).await;
    const ROUNDS: usize = 20;
    for n in 0..ROUNDS {
        round("full", n).await;
    }
    let after = read_so_far(&database).await;
    for (table, count) in &after {
        let each = (count - before[table]) / i64::try_from(ROUNDS).unwrap();
        // Entries of rows that are gone by now count as well; a look through the whole table reads all of them.
        assert!(each < 2_000, "{table}: {each} rows are read for one round of changes");
    }
    assert_eq!(after.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_index_begins_with_what_all_rows_share() {
    let mut conn = superuser(&crate::harness::postgres::bare().await).await;
    let sql = "SELECT c.relname::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
               JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
               WHERE c.relnamespace = 'portreeve'::regnamespace AND a.attname = 'workspace' AND i.indnatts > 1";
    let wrong: Vec<String> = sqlx::query_scalar(sql).fetch_all(&mut conn).await.unwrap();
    assert!(wrong.is_empty(), "the planner takes any of these for anything while the table is small: {wrong:?}");
}
