//! Changes by the thousand: a task that thousands wait for ends in one statement's time, on the server's default table of locks.

use std::time::{Duration, Instant};

use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::harness::state::Db;
use crate::harness::{Client, Server};

/// What a host's connection allows a mutation is 15 s; other work of the machine is granted here.
const LONG: Duration = Duration::from_secs(8);
/// What the server's default has room for, with 100 connections, is 64 for each of them.
const LOCKS_MAX: i64 = 64;

/// Submits so many tasks through the database's function, as an agent would: all of them wait for one, or each for the one
/// before it.
async fn submit(conn: &mut PgConnection, root: &str, count: u32, in_chain: bool) {
    let next = if in_chain { "last := id;" } else { "" };
    let sql = format!(
        "DO $$
        DECLARE
            last uuid := '{root}';
            id   uuid;
        BEGIN
            FOR n IN 1 .. {count} LOOP
                id := gen_random_uuid();
                PERFORM portreeve.task_submit(ROW(gen_random_uuid(), 'r', 'a', 'claude_code', 'claude_code_local', 3,
                    'task_submit', 'submit_work', 'x', '{{}}', '{{}}', 'allow', 'allowed', '', 'both', '[]', '[]', '{{}}',
                    'sha256:x', 1, 1, 0, 0, NULL, false, NULL, NULL, NULL, NULL, NULL, NULL)::portreeve.decision,
                    id, 't', 'd', NULL, 5, ARRAY[last], NULL, 1, NULL, NULL);
                {next}
                COMMIT;
            END LOOP;
        END $$"
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(conn).await.unwrap();
}

/// How many tasks there are of a status, waiting for so many others, for a reason.
async fn count(conn: &mut PgConnection, status: &str, open: i64, why: &str) -> i64 {
    let sql = "SELECT count(*) FROM work_queue
               WHERE status = $1 AND open_dependencies = $2 AND coalesce(error_message, '') = $3";
    sqlx::query_scalar(sql).bind(status).bind(open).bind(why).fetch_one(conn).await.unwrap()
}

/// Runs one function in a transaction, and tells how many advisory locks it held.
async fn locks_of(conn: &mut PgConnection, call: &str) -> i64 {
    let mut tx = conn.begin().await.unwrap();
    let decision =
        "ROW(gen_random_uuid(), 'r', 'system', 'system', 'system', 4, 'task_expire', 'expire_leases', 'x', '{}',
        '{}', 'allow', 'allowed', '', 'both', '[]', '[]', '{}', 'sha256:x', 1, (SELECT facts_version FROM agents
        WHERE agent_id = 'system'), 0, 0, NULL, false, NULL, NULL, NULL, NULL, NULL, NULL)::decision";
    let sql = format!("SELECT verdict FROM {}", call.replace("$decision", decision));
    let verdict: String = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut *tx).await.unwrap();
    assert_eq!(verdict, "done");
    let held = "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'";
    let held = sqlx::query_scalar(held).fetch_one(&mut *tx).await.unwrap();
    tx.rollback().await.unwrap();
    held
}

async fn started() -> (Server, Client, PgConnection) {
    let server = Server::on_postgres().await;
    let a = server.agent("a", "claude_code_local").await;
    let Db::Postgres(conn) = server.db().await else { panic!("this is about PostgreSQL") };
    (server, a, conn)
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_fail_with_the_task_that_they_wait_for() {
    let (server, a, mut conn) = started().await;
    for in_chain in [false, true] {
        let root = a.submit("root", json!({"max_attempts": 1})).await;
        submit(&mut conn, &root, 2500, in_chain).await;
        assert_eq!(a.claim("root").await["task_id"], json!(root));
        let (start, seq) = (Instant::now(), server.last_seq().await);
        a.post("/work/complete", json!({"task_id": root, "success": false, "error_message": "no"})).await.done();
        assert!(start.elapsed() < LONG, "{:?}", start.elapsed());
        let changes = server.only_line_after(seq).await.changes;
        assert_eq!(serde_json::from_str::<Vec<serde_json::Value>>(&changes).unwrap().len(), 2501);
    }
    assert_eq!(count(&mut conn, "failed", 1, "dependency_failed").await, 5000);
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_expire_are_cancelled_and_are_released() {
    let (server, a, mut conn) = started().await;
    let deadline = server.now().plus_minutes(1).to_string();
    let root = a.submit("late", json!({"deadline": deadline})).await;
    submit(&mut conn, &root, 2500, false).await;
    let unwanted = a.submit("unwanted", json!({})).await;
    submit(&mut conn, &unwanted, 1000, true).await;
    let done = a.submit("done", json!({})).await;
    submit(&mut conn, &done, 1000, false).await;
    server.advance(61).await;
    let held = locks_of(&mut conn, "task_expire($decision)").await;
    assert!(held < LOCKS_MAX, "{held}");
    let start = Instant::now();
    server.app().expire_tasks().await.unwrap();
    assert!(start.elapsed() < LONG, "{:?}", start.elapsed());
    assert_eq!(count(&mut conn, "failed", 1, "dependency_failed").await, 2500);
    assert_eq!(count(&mut conn, "failed", 0, "deadline_exceeded").await, 1);
    let start = Instant::now();
    a.post("/work/cancel", json!({"task_id": unwanted})).await.done();
    assert_eq!(count(&mut conn, "failed", 1, "dependency_failed").await, 3500);
    a.claim("done").await;
    a.post("/work/complete", json!({"task_id": done, "success": true})).await.done();
    assert_eq!(count(&mut conn, "pending", 0, "").await, 1000);
    assert!(start.elapsed() < LONG, "{:?}", start.elapsed());
}

/// A family that is too large for one transaction fails in parts, the youngest first, and nothing is left of it; who asks for
/// the whole at once is told what to do.
#[tokio::test(flavor = "multi_thread")]
async fn a_family_that_is_too_large_fails_in_parts() {
    let (server, a, mut conn) = started().await;
    let few = "SET ROLE portreeve_owner;
               CREATE OR REPLACE FUNCTION family_max() RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN 100;
               RESET ROLE";
    sqlx::raw_sql(few).execute(&mut conn).await.unwrap();
    let deadline = server.now().plus_minutes(1).to_string();
    let root = a.submit("root", json!({"deadline": deadline})).await;
    submit(&mut conn, &root, 70, true).await;
    submit(&mut conn, &root, 50, false).await;
    let before = server.state().await;
    a.post("/work/cancel", json!({"task_id": root})).await.invalid("too_many_dependants");
    assert_eq!(server.state().await, before);
    server.advance(61).await;
    let seq = server.last_seq().await;
    server.app().expire_tasks().await.unwrap();
    let lines = server.audit_after(seq).await;
    let expired: Vec<_> = lines.iter().filter(|line| line.command == "task_expire").map(|line| &line.result).collect();
    // 120 tasks and the one they wait for, fifty at a time.
    assert_eq!(expired.len(), 3, "{expired:?}");
    assert_eq!(count(&mut conn, "failed", 1, "dependency_failed").await, 120);
    assert_eq!(count(&mut conn, "failed", 0, "deadline_exceeded").await, 1);
}

/// An agent's locks, claims and sessions, so many of each.
async fn fill(conn: &mut PgConnection, n: u32) {
    let fill = format!(
        "SET session_replication_role = replica;
        INSERT INTO file_locks (lock_key, agent_id, agent_type, fencing_token, locked_at, expires_at, refreshed_at)
        SELECT 'src/' || n, 'a', 'claude_code', 1, clock_now(), clock_now() + interval '2 hours', clock_now()
        FROM generate_series(1, {n}) n;
        INSERT INTO work_queue (task_id, task_type, description, priority, status, submitted_by, max_attempts, claimed_by,
            claimed_at, claim_token, lease_expires_at, heartbeat_at)
        SELECT gen_random_uuid(), 't', 'd', 5, 'claimed', 'a', 2, 'a', clock_now(), 't', clock_now() + interval '2 hours',
            clock_now() FROM generate_series(1, {n}) n;
        INSERT INTO agent_sessions (session_id, agent_id, agent_type, started_at, last_heartbeat)
        SELECT 's' || n, 'a', 'claude_code', clock_now(), clock_now() FROM generate_series(1, {n}) n;
        RESET session_replication_role"
    );
    sqlx::raw_sql(AssertSqlSafe(fill)).execute(conn).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_locks_and_claims_are_freed_with_their_agent() {
    let (server, a, mut conn) = started().await;
    a.post("/discovery/register", json!({"session_id": "s"})).await.done();
    fill(&mut conn, 3000).await;
    server.advance(3600).await;
    let start = Instant::now();
    let cleaned = server.admin.post("/discovery/cleanup", json!({"stale_threshold_minutes": 30})).await.done();
    assert_eq!((&cleaned["locks_released"], &cleaned["tasks_requeued"]), (&json!(3000), &json!(3000)), "{cleaned}");
    assert!(start.elapsed() < LONG, "{:?}", start.elapsed());
}

/// Calls cleanup until nothing remains; what each call answered.
async fn clean_up(server: &Server) -> Vec<[i64; 4]> {
    let mut answers = Vec::new();
    loop {
        let dry = json!({"stale_threshold_minutes": 30, "dry_run": true});
        let dry = server.admin.post("/discovery/cleanup", dry).await.done();
        let cleaned = server.admin.post("/discovery/cleanup", json!({"stale_threshold_minutes": 30})).await.done();
        assert_eq!(dry, cleaned);
        let count = |field: &str| cleaned.get(field).map_or(0, |count| count.as_i64().unwrap());
        let counts = ["agents_cleaned", "locks_released", "tasks_requeued", "remaining"].map(count);
        answers.push(counts);
        assert!(answers.len() < 20, "{answers:?}");
        if counts[3] == 0 {
            assert!(cleaned.get("remaining").is_none(), "{cleaned}");
            return answers;
        }
    }
}

/// What is left by agents that are gone is freed in parts where it is too much at once, and none of it is forgotten. The same
/// for the embedded store, with as much as it takes there: `store.rs`.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_much_is_cleaned_up_in_parts() {
    let (server, a, mut conn) = started().await;
    let b = server.agent("b", "claude_code_local").await;
    for (agent, session) in [(&a, "s"), (&b, "of b")] {
        agent.post("/discovery/register", json!({"session_id": session})).await.done();
    }
    b.post("/locks/acquire", json!({"file_path": "src/b.rs", "ttl_minutes": 120})).await.done();
    fill(&mut conn, 120).await;
    let few = "SET ROLE portreeve_owner;
               CREATE OR REPLACE FUNCTION family_max() RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN 100;
               RESET ROLE";
    sqlx::raw_sql(few).execute(&mut conn).await.unwrap();
    server.advance(3600).await;
    // Fifty at a time: the sessions of an agent end only once nothing else is left of it.
    let answers = clean_up(&server).await;
    assert_eq!(answers[..3], [[0, 50, 50, 2], [0, 50, 50, 2], [1, 21, 20, 1]], "{answers:?}");
    assert_eq!(answers.iter().map(|counts| counts[0]).sum::<i64>(), 2, "{answers:?}");
    let left = "SELECT (SELECT count(*) FROM agent_sessions WHERE ended_at IS NULL) + (SELECT count(*) FROM file_locks)
        + (SELECT count(*) FROM work_queue WHERE status = 'claimed')";
    assert_eq!(sqlx::query_scalar::<_, i64>(left).fetch_one(&mut conn).await.unwrap(), 0);
    // A claim whose failure would take too much along is left to its lease, and nobody waits for it.
    let root = a.submit("root", json!({"max_attempts": 1})).await;
    submit(&mut conn, &root, 70, true).await;
    a.post("/work/claim", json!({"task_types": ["root"], "lease_seconds": 86_400})).await.done();
    a.post("/discovery/register", json!({"session_id": "last"})).await.done();
    server.advance(3600).await;
    assert_eq!(clean_up(&server).await, [[1, 0, 0, 0]]);
    assert_eq!(count(&mut conn, "claimed", 0, "").await, 1);
    server.advance(86_400).await;
    server.app().expire_tasks().await.unwrap();
    assert_eq!(count(&mut conn, "failed", 0, "attempts_exhausted").await, 1);
    assert_eq!(count(&mut conn, "failed", 1, "dependency_failed").await, 70);
}
