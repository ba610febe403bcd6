//! The numbers of the audit log's rows: without a gap, in the order in which rows that belong together happened, whoever
//! gives them and whatever goes on meanwhile.
//!
//! AUDIT: the log has no gap, whoever commits when.

use std::time::Duration;

use portreeve::store::postgres::{Options, migrate};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::harness::postgres::{Kind, clone, superuser as by_name, url};
use crate::harness::state::{Db, scalar};
use crate::harness::{Server, Setup, open_app};

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

/// A number that was taken and is not used: as long as its holder may still write below the others, nothing is numbered past it;
/// and once something is, it may not.
#[tokio::test(flavor = "multi_thread")]
async fn a_number_that_is_taken_early_holds_others_up_or_is_never_used() {
    let server = Server::on_postgres().await;
    let a = server.agent("a", "claude_code_local").await;
    let view = server.app().gate().store().view();
    view.audit_rows(0, 1).await.unwrap();
    let before = last_number(&server).await;
    // A transaction has its number a moment before the lock of it is seen. Here that moment lasts as long as the test likes.
    let mut beside = superuser(&server).await;
    let blind = "CREATE TABLE public.unseen (x xid);
        CREATE VIEW public.seen AS SELECT * FROM pg_locks l WHERE NOT EXISTS (SELECT 1 FROM public.unseen u
            WHERE l.locktype = 'transactionid' AND l.transactionid = u.x);
        GRANT SELECT ON public.seen TO PUBLIC;
        DO $do$ BEGIN
            EXECUTE replace(pg_get_functiondef('portreeve.audit_horizon'::regproc), 'pg_locks', 'public.seen');
        END $do$";
    sqlx::raw_sql(blind).execute(&mut beside).await.unwrap();
    let mut early = superuser(&server).await;
    let mut tx = early.begin().await.unwrap();
    let number = "SET LOCAL ROLE portreeve_owner; SELECT pg_current_xact_id()";
    sqlx::raw_sql(number).execute(&mut *tx).await.unwrap();
    let xid: String = sqlx::query_scalar("SELECT pg_current_xact_id()::text").fetch_one(&mut *tx).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(format!("INSERT INTO public.unseen VALUES ('{xid}')")))
        .execute(&mut beside)
        .await
        .unwrap();
    a.acquire("src/a.rs").await.done();
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(last_number(&server).await, before, "numbered past one whose lock is not seen yet");
    // Its lock is seen, and that of the epoch, which whoever logs holds.
    let epoch = "SAVEPOINT s; SELECT pg_advisory_xact_lock_shared(portreeve.lock_id('epoch', ''))";
    sqlx::raw_sql(epoch).execute(&mut *tx).await.unwrap();
    sqlx::raw_sql("DELETE FROM public.unseen").execute(&mut beside).await.unwrap();
    a.acquire("src/b.rs").await.done();
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(last_number(&server).await, before, "numbered past one that holds the epoch's lock");
    // Without that lock it is another program's, and is passed. It comes too late: the function refuses it, in whatever it is
    // wrapped.
    sqlx::raw_sql("ROLLBACK TO s").execute(&mut *tx).await.unwrap();
    assert!(view.audit_rows(before, 10).await.unwrap().len() >= 2);
    for wrapped in ["SAVEPOINT s", "SAVEPOINT s; SELECT pg_advisory_xact_lock_shared(portreeve.lock_id('epoch', ''))"] {
        sqlx::raw_sql(wrapped).execute(&mut *tx).await.unwrap();
        let error =
            sqlx::raw_sql(AssertSqlSafe(acquire("src/late.rs"))).execute(&mut *tx).await.unwrap_err().to_string();
        assert!(error.contains("is the first that its transaction writes"), "{error}");
        sqlx::raw_sql("ROLLBACK TO s").execute(&mut *tx).await.unwrap();
    }
    tx.commit().await.unwrap();
    a.acquire("src/c.rs").await.done();
    let rows = view.audit_rows(0, 1000).await.unwrap();
    assert!(rows.iter().zip(1..).all(|((row, hash), seq)| row.seq == seq && row.leaf_hash() == *hash));
    let taken: Vec<&str> =
        rows.iter().filter(|(row, _)| row.command == "lock_acquire").map(|(row, _)| &*row.resource).collect();
    assert_eq!(taken.len(), 3, "{taken:?}");
    assert_eq!((view.left_out().await.unwrap(), view.problems().await.unwrap()), (0, Vec::new()));
}

/// Numbers are given in their order and to all, or not at all.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_numbers_as_they_please() {
    let server = Server::on_postgres().await;
    let a = server.agent("a", "claude_code_local").await;
    server.app().gate().store().view().audit_rows(0, 1).await.unwrap();
    let _dir = a.acquire("src/a.rs").await.done();
    let mut conn = superuser(&server).await;
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
        let error = sqlx::raw_sql(AssertSqlSafe(wrong.clone())).execute(&mut conn).await.unwrap_err().to_string();
        assert!(error.contains("rows are numbered in their order"), "{wrong}: {error}");
    }
    let again = "SELECT portreeve.audit_number(1, ARRAY[]::uuid[], ARRAY[]::bytea[])";
    assert!(!sqlx::query_scalar::<_, bool>(again).fetch_one(&mut conn).await.unwrap());
}

/// One call is one transaction, which reads what is committed. Whoever had its number before the call, or saw less than is
/// committed, could have its row left out of the log.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_decides_late_under_an_early_number() {
    let server = Server::on_postgres().await;
    server.agent("a", "claude_code_local").await;
    let mut conn = superuser(&server).await;
    let (call, numbers) = (acquire("src/a.rs"), "SELECT portreeve.audit_turn(true)".to_owned());
    let unnumbered = "SELECT count(*) FROM portreeve.audit_unnumbered(9)".to_owned();
    let number = "SELECT portreeve.audit_number(1, ARRAY[]::uuid[], ARRAY[]::bytea[])".to_owned();
    let before = scalar(&mut server.db().await, "SELECT count(*) FROM audit_log").await;
    for first in [
        "BEGIN; SELECT pg_current_xact_id()",
        "BEGIN ISOLATION LEVEL REPEATABLE READ",
        "BEGIN ISOLATION LEVEL SERIALIZABLE",
    ] {
        for then in [&call, &numbers, &unnumbered, &number] {
            sqlx::raw_sql("SET ROLE portreeve_app").execute(&mut conn).await.unwrap();
            sqlx::raw_sql(AssertSqlSafe(first)).execute(&mut conn).await.unwrap();
            let error = sqlx::raw_sql(AssertSqlSafe(then.clone())).execute(&mut conn).await.unwrap_err().to_string();
            assert!(error.contains("transaction"), "{first}; {then}: {error}");
            sqlx::raw_sql("ROLLBACK").execute(&mut conn).await.unwrap();
        }
    }
    // Twice in one transaction is once too often.
    sqlx::raw_sql(AssertSqlSafe(format!("BEGIN; {call}"))).execute(&mut conn).await.unwrap();
    assert!(sqlx::raw_sql(AssertSqlSafe(acquire("src/b.rs"))).execute(&mut conn).await.is_err());
    sqlx::raw_sql("ROLLBACK").execute(&mut conn).await.unwrap();
    assert_eq!(scalar(&mut server.db().await, "SELECT count(*) FROM audit_log").await, before);
}

/// What the server, the database or the role has for a default does not reach the service.
#[tokio::test(flavor = "multi_thread")]
async fn another_default_isolation_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let database = clone(dir.path(), Kind::Served).await;
    let mut conn = by_name(&database).await;
    let other = format!("ALTER DATABASE {database} SET default_transaction_isolation = 'repeatable read'");
    sqlx::raw_sql(AssertSqlSafe(other)).execute(&mut conn).await.unwrap();
    let server = Server::start_on(dir, Setup::default()).await;
    let a = server.agent("a", "claude_code_local").await;
    a.acquire("src/a.rs").await.done();
    server.admin.get("/audit?limit=1").await.ok();
}

/// A dump that is restored into another cluster brings numbers that the cluster has yet to give. The log goes on behind them.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_from_a_cluster_that_was_further_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let database = clone(dir.path(), Kind::Served).await;
    let server = Server::start_on(dir, Setup::default()).await;
    let a = server.agent("a", "claude_code_local").await;
    a.acquire("src/a.rs").await.done();
    let view = server.app().gate().store().view();
    let before = view.audit_rows(0, 1000).await.unwrap();
    let dir = server.stop().await;
    let mut conn = by_name(&database).await;
    for sql in [
        "SET session_replication_role = replica",
        "UPDATE audit_log SET xact = xact + 1000000",
        "UPDATE audit_seq SET xact = xact + 1000000",
    ] {
        sqlx::raw_sql(sql).execute(&mut conn).await.unwrap();
    }
    let error = open_app(dir.path(), &Setup::default()).await.map(drop).unwrap_err().to_string();
    assert!(error.contains("was further"), "{error}");
    let owner = Options::parse(&url(&database, "postgres")).unwrap();
    for _ in 0..2 {
        migrate(&owner, &mut |_| ()).await.unwrap();
    }
    let server = Server::start_on(dir, Setup::default()).await;
    server.again(&a).acquire("src/b.rs").await.done();
    let view = server.app().gate().store().view();
    let after = view.audit_rows(0, 1000).await.unwrap();
    assert_eq!(after[..before.len()], before[..]);
    assert!(after.last().unwrap().0.result.contains("src/b.rs"), "{after:?}");
    assert_eq!(view.left_out().await.unwrap(), 0);
    // One that was slipped in before the last is found.
    let slip = "INSERT INTO audit_log (xact, id, created_at, request_id, agent_id, agent_type, profile, trust_level, command,
                    operation, resource, parameters, request, decision, reason, detail, engine, deciding, violations,
                    obligations, component, epoch, facts_version, fuel, outcome, result, changes, duration_us)
                SELECT xact, gen_random_uuid(), created_at, request_id, agent_id, agent_type, profile, trust_level, command,
                    operation, resource, parameters, request, decision, reason, detail, engine, deciding, violations,
                    obligations, component, epoch, facts_version, fuel, outcome, result, '[]', duration_us
                FROM audit_log ORDER BY xact LIMIT 1";
    sqlx::raw_sql(slip).execute(&mut conn).await.unwrap();
    assert_eq!(view.left_out().await.unwrap(), 1);
    assert!(!view.problems().await.unwrap().is_empty());
}
