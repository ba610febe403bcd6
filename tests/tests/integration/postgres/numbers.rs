//! The numbers of the audit log's rows: without a gap, in the order in which rows that belong together happened, whoever
//! gives them and whatever goes on meanwhile.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::harness::Server;
use crate::harness::state::{Db, scalar};

async fn superuser(server: &Server) -> PgConnection {
    match server.db().await {
        Db::Postgres(conn) => conn,
        Db::Sqlite(_) => panic!("this is about PostgreSQL"),
    }
}

async fn last_number(server: &Server) -> i64 {
    scalar(&mut server.db().await, "SELECT coalesce(max(seq), 0) FROM audit_seq").await
}

fn acquire(key: &str) -> String {
    let id = uuid::Uuid::now_v7();
    format!(
        "SELECT verdict FROM portreeve.lock_acquire(ROW('{id}'::uuid, 'r', 'a', 'claude_code', 'claude_code_local', 3,
             'lock_acquire', 'acquire_lock', 'x', '{{}}', '{{}}', 'allow', 'allowed', '', 'both', '[]', '[]', '{{}}',
             'sha256:x', 1, 1, 0, 0, NULL, false, NULL, NULL, NULL, NULL, NULL, NULL)::portreeve.decision,
             '{key}', NULL, NULL, 30, true)"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_follow_the_order_of_transactions_without_a_gap() {
    let server = Server::on_postgres().await;
    let mut agents = Vec::new();
    for n in 0..6 {
        agents.push(server.agent(&format!("a{n}"), "claude_code_local").await);
    }
    let bursts = agents.iter().map(|agent| async move {
        for n in 0..25 {
            // All want the same few locks, and some look into the log meanwhile.
            agent.acquire(&format!("src/{}", n % 3)).await.ok();
            agent.release(&format!("src/{}", n % 3)).await.ok();
            if n % 8 == 0 {
                agent.get("/audit?limit=5").await.ok();
            }
        }
    });
    futures::future::join_all(bursts).await;
    let rows = server.app().gate().store().view().audit_rows(0, 100_000).await.unwrap();
    assert!(rows.len() > 300);
    assert!(rows.iter().zip(1..).all(|((row, hash), seq)| row.seq == seq && row.leaf_hash() == *hash));
    let mut db = server.db().await;
    let unordered =
        "SELECT count(*) FROM (SELECT s.seq, row_number() OVER (ORDER BY l.xact, l.id) AS n FROM audit_log l
                     JOIN audit_seq s USING (workspace, id)) o WHERE o.seq <> o.n";
    assert_eq!(scalar(&mut db, unordered).await, 0);
    assert_eq!(scalar(&mut db, "SELECT count(*) - (SELECT count(*) FROM audit_seq) FROM audit_log").await, 0);
    // Along that order, each key's fencing tokens only grow: rows that touch one key stand as they happened.
    let shrinking = "SELECT count(*) FROM (
        SELECT (c->>'version')::bigint AS token, lag((c->>'version')::bigint) OVER (PARTITION BY c->>'key' ORDER BY s.seq) AS before
        FROM audit_log l JOIN audit_seq s USING (workspace, id), jsonb_array_elements(l.changes) c
        WHERE c->>'table' = 'lock_fences') t WHERE token <> before + 1";
    assert_eq!(scalar(&mut db, shrinking).await, 0);
}

/// A row is numbered only when nothing before it can come any more: here one does come, late.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_numbered_past_a_transaction_that_goes_on() {
    let server = Server::on_postgres().await;
    let a = server.agent("a", "claude_code_local").await;
    let view = server.app().gate().store().view();
    view.audit_rows(0, 1).await.unwrap();
    let (mut slow, before) = (superuser(&server).await, last_number(&server).await);
    let mut tx = slow.begin().await.unwrap();
    let verdict: String = sqlx::query_scalar(AssertSqlSafe(acquire("src/slow.rs"))).fetch_one(&mut *tx).await.unwrap();
    assert_eq!(verdict, "done");
    // Committed after it began and before it ends: it stands behind it in the order, and has to wait.
    a.acquire("src/quick.rs").await.done();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(last_number(&server).await, before);
    // Who looks meanwhile is answered, with what is settled.
    let seen = server.admin.get("/audit?limit=1").await.ok();
    assert_eq!(seen["entries"][0]["seq"], before);
    tx.commit().await.unwrap();
    let rows = view.audit_rows(before, 10).await.unwrap();
    let keys: Vec<&str> = rows.iter().map(|(row, _)| row.command.as_str()).collect();
    assert_eq!(keys[..2], ["lock_acquire", "lock_acquire"], "{keys:?}");
    assert!(rows[0].0.result.contains("src/slow.rs") && rows[1].0.result.contains("src/quick.rs"));
}

/// A transaction of another program, in another database or this one, holds nothing up.
#[tokio::test(flavor = "multi_thread")]
async fn other_programs_transactions_do_not_matter() {
    let server = Server::on_postgres().await;
    let a = server.agent("a", "claude_code_local").await;
    let mut other = superuser(&server).await;
    let mut tx = other.begin().await.unwrap();
    sqlx::raw_sql("CREATE TABLE public.of_another_program (x int)").execute(&mut *tx).await.unwrap();
    a.acquire("src/a.rs").await.done();
    let rows = scalar(&mut server.db().await, "SELECT count(*) FROM audit_log").await;
    let start = std::time::Instant::now();
    assert_eq!(server.admin.get("/audit?limit=1").await.ok()["entries"][0]["seq"], rows);
    assert!(start.elapsed() < Duration::from_secs(2));
    tx.rollback().await.unwrap();
}

/// Numbers are given in their order and to all, or not at all.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_numbers_as_they_please() {
    let server = Server::on_postgres().await;
    let a = server.agent("a", "claude_code_local").await;
    server.app().gate().store().view().audit_rows(0, 1).await.unwrap();
    let _dir = a.acquire("src/a.rs").await.done();
    let mut conn = superuser(&server).await;
    let mut tx = conn.begin().await.unwrap();
    sqlx::raw_sql("SELECT portreeve.audit_turn(true)").execute(&mut *tx).await.unwrap();
    let next = "(SELECT coalesce(max(seq), 0) + 1 FROM portreeve.audit_seq)";
    for wrong in [
        format!("SELECT portreeve.audit_number({next}, ARRAY[gen_random_uuid()], ARRAY[sha256('')])"),
        format!(
            "SELECT portreeve.audit_number({next}, (SELECT array_agg(id ORDER BY id DESC) FROM portreeve.audit_log),
                 (SELECT array_agg(sha256('')) FROM portreeve.audit_log))"
        ),
        format!(
            "SELECT portreeve.audit_number({next}, (SELECT array_agg(u.id ORDER BY u.seq) FROM portreeve.audit_unnumbered(9) u),
                 ARRAY[]::bytea[])"
        ),
    ] {
        sqlx::raw_sql("SAVEPOINT s").execute(&mut *tx).await.unwrap();
        assert!(sqlx::raw_sql(AssertSqlSafe(wrong.clone())).execute(&mut *tx).await.is_err(), "{wrong}");
        sqlx::raw_sql("ROLLBACK TO s").execute(&mut *tx).await.unwrap();
    }
    let again = "SELECT portreeve.audit_number(1, ARRAY[]::uuid[], ARRAY[]::bytea[])";
    assert!(!sqlx::query_scalar::<_, bool>(again).fetch_one(&mut *tx).await.unwrap());
}
