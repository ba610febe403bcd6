//! Who changes an agent while it is at work: what it has under way comes first, and two who change each other do not wait for
//! the server to find a deadlock.

use std::time::{Duration, Instant};

use serde_json::json;
use sqlx::{AssertSqlSafe, PgConnection};

use crate::harness::Server;
use crate::harness::state::Db;

/// After so long a server looks whether those who wait wait for each other.
const DEADLOCK_TIMEOUT: Duration = Duration::from_secs(1);

/// A change that an agent makes of another or of itself. The first answer under its idempotency key is asked for after the locks
/// of the agents, or was between them: there the test holds both.
fn call(who: &str, call: &str) -> String {
    let (command, rest) = call.split_once('(').unwrap();
    format!(
        "SELECT verdict FROM portreeve.{command}(ROW(gen_random_uuid(), 'r', '{who}', 'operator', 'admin', 4, '{command}',
             'manage_agents', 'x', '{{}}', '{{}}', 'allow', 'allowed', '', 'both', '[]', '[]', '{{}}', 'sha256:x', 1, 1, 0, 0,
             NULL, false, 'once', sha256(''), NULL, NULL, NULL, NULL)::portreeve.decision, {rest}"
    )
}

/// The lock of the first answer of one of them.
const HELD: &str = "lock_id('idempotency', E'x\\x1fonce')";

async fn superuser(server: &Server) -> PgConnection {
    match server.db().await {
        Db::Postgres(conn) => conn,
        Db::Sqlite(_) => panic!("this is about PostgreSQL"),
    }
}

async fn run(conn: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(conn).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

async fn verdict(mut conn: PgConnection, sql: String) -> Result<String, sqlx::Error> {
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut conn).await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_who_change_each_other_do_not_wait_for_each_other() {
    let key = "gen_random_uuid(), '\\x0000000000000000', sha256(gen_random_uuid()::text::bytea), NULL)";
    let suspend = |whom| format!("agent_suspend('{whom}', true, NULL)");
    let profile = |whom| format!("agent_profile('{whom}', 'claude_code_local')");
    let create = |whom| format!("agent_create('{whom}', 'operator', 'admin', NULL, NULL, NULL, NULL, NULL)");
    let give = |whom| format!("agent_key_create('{whom}', {key}");
    let revoke = |whom| format!("agent_key_revoke('{whom}', gen_random_uuid())");
    // Both are done, or the one that came second is decided again.
    let both = ["done", "done"];
    let first = ["done", "stale"];
    for (a, b, expected) in [
        (call("x", &suspend("y")), call("y", &suspend("x")), first),
        (call("x", &profile("y")), call("y", &suspend("x")), first),
        (call("x", &create("y")), call("y", &create("x")), both),
        (call("x", &give("y")), call("y", &revoke("x")), both),
        // Who changes itself holds its lock already.
        (call("x", &revoke("x")), call("x", &give("x")).replace("'once'", "'twice'"), both),
    ] {
        let server = Server::on_postgres().await;
        for name in ["x", "y"] {
            server.agent(name, "admin").await;
        }
        let mut holder = superuser(&server).await;
        for lock in [HELD.to_owned(), HELD.replace("'x", "'y"), HELD.replace("once", "twice")] {
            run(&mut holder, &format!("SELECT pg_advisory_lock({lock})")).await;
        }
        let (one, two) = (superuser(&server).await, superuser(&server).await);
        let (one, two) = (tokio::spawn(verdict(one, a.clone())), tokio::spawn(verdict(two, b.clone())));
        let waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
                       AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        while sqlx::query_scalar::<_, i64>(waiting).fetch_one(&mut holder).await.unwrap() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let start = Instant::now();
        run(&mut holder, "SELECT pg_advisory_unlock_all()").await;
        let mut said =
            [one.await.unwrap(), two.await.unwrap()].map(|said| said.unwrap_or_else(|e| panic!("{a}; {b}: {e}")));
        assert!(start.elapsed() < DEADLOCK_TIMEOUT, "{a}; {b}: {:?}", start.elapsed());
        said.sort();
        assert_eq!(said, expected, "{a}; {b}");
    }
}

/// REVOKE: what was decided before a suspension is committed before it, or not at all. Nobody is told of a suspension while the
/// agent's own transaction is open.
#[tokio::test(flavor = "multi_thread")]
async fn a_suspension_waits_for_what_the_agent_has_under_way() {
    let server = Server::on_postgres().await;
    server.agent("x", "claude_code_local").await;
    let mut conn = superuser(&server).await;
    let acquire = "SELECT verdict FROM portreeve.lock_acquire(ROW(gen_random_uuid(), 'r', 'x', 'claude_code',
        'claude_code_local', 3, 'lock_acquire', 'acquire_lock', 'x', '{}', '{}', 'allow', 'allowed', '', 'both', '[]', '[]',
        '{}', 'sha256:x', 1, 1, 0, 0, NULL, false, NULL, NULL, NULL, NULL, NULL, NULL)::portreeve.decision,
        'src/a.rs', NULL, NULL, 30, true)";
    run(&mut conn, "BEGIN").await;
    let said: String = sqlx::query_scalar(acquire).fetch_one(&mut conn).await.unwrap();
    assert_eq!(said, "done");
    let admin = server.admin.clone();
    let suspension = tokio::spawn(async move {
        admin.post("/agents/x/suspend", json!({"suspended": true, "reason": "test"})).await.done();
    });
    let mut other = superuser(&server).await;
    let waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
                   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let begun = Instant::now();
    while sqlx::query_scalar::<_, i64>(waiting).fetch_one(&mut other).await.unwrap() == 0 {
        assert!(!suspension.is_finished(), "it was told while the agent was at work");
        assert!(begun.elapsed() < Duration::from_secs(20), "nobody waits");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    run(&mut conn, "COMMIT").await;
    suspension.await.unwrap();
    let log = server.admin.get("/audit?limit=100").await.ok();
    let seq = |command: &str| {
        let rows = log["entries"].as_array().unwrap();
        rows.iter().find(|row| row["command"] == command).unwrap_or_else(|| panic!("{log}"))["seq"].as_i64().unwrap()
    };
    assert!(seq("lock_acquire") < seq("agent_suspend"), "{log}");
}
