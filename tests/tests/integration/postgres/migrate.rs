//! `portreeve migrate`, and which databases the service refuses.

use serde_json::Value;
use sqlx::{AssertSqlSafe, PgConnection};

use crate::harness::cli::{Cli, Ended, cli};
use crate::harness::postgres::{self, superuser, url};

async fn run(conn: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(conn).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

fn migrate(database: &str) -> Cli {
    cli(["migrate"]).env("PORTREEVE_DATABASE_URL", url(database, "postgres"))
}

/// `serve` on a database, which has to be refused: a service that started would not end.
fn serve(database: &str, role: &str) -> Ended {
    let dir = tempfile::tempdir().unwrap();
    let serve = cli(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(dir.path());
    let ended = serve.env("PORTREEVE_DATABASE_URL", url(database, role)).run();
    assert_eq!(ended.code, 1, "{ended:#?}");
    ended
}

fn states(said: &Value) -> Vec<&str> {
    said["migrations"].as_array().unwrap().iter().map(|m| m["state"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_database_is_prepared_once() {
    let database = postgres::empty().await;
    assert!(serve(&database, "postgres").stderr.contains("portreeve migrate"));
    let before = migrate(&database).arg("--check").json(4);
    assert_eq!((&before["up_to_date"], states(&before).contains(&"missing")), (&Value::from(false), true));
    assert!(states(&before).iter().all(|state| *state == "missing"));
    let first = migrate(&database).json(0);
    assert!(states(&first).iter().all(|state| *state == "applied"));
    let second = migrate(&database).json(0);
    assert!(states(&second).iter().all(|state| *state == "was there"));
    assert_eq!(migrate(&database).arg("--check").json(0)["up_to_date"], true);
    assert!(migrate(&database).told(0).contains("coordination"));
}

#[tokio::test(flavor = "multi_thread")]
async fn several_at_once_apply_each_migration_once() {
    let database = postgres::empty().await;
    let all: Vec<_> = (0..4)
        .map(|_| {
            let database = database.clone();
            tokio::task::spawn_blocking(move || migrate(&database).json(0))
        })
        .collect();
    let said: Vec<Value> = futures::future::join_all(all).await.into_iter().map(Result::unwrap).collect();
    let applied: usize = said.iter().map(|said| states(said).iter().filter(|state| **state == "applied").count()).sum();
    assert_eq!(applied, states(&said[0]).len());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_script_makes_the_same_schema() {
    let (by_script, by_program) = (postgres::empty().await, postgres::empty().await);
    let script = cli(["migrate", "--sql"]).run();
    assert_eq!(script.code, 0);
    let mut conn = superuser(&by_script).await;
    run(&mut conn, &script.stdout).await;
    migrate(&by_program).json(0);
    assert_eq!(migrate(&by_script).arg("--check").json(0)["up_to_date"], true);
    let schema = "SELECT coalesce(string_agg(line, E'\\n' ORDER BY line), '') FROM (
        SELECT table_name || '.' || column_name || ' ' || data_type || ' ' || is_nullable AS line
        FROM information_schema.columns WHERE table_schema = 'portreeve'
        UNION ALL SELECT pg_get_functiondef(p.oid) || coalesce(p.proacl::text, '') FROM pg_proc p
        WHERE p.pronamespace = 'portreeve'::regnamespace
        UNION ALL SELECT pg_get_triggerdef(t.oid) FROM pg_trigger t WHERE NOT t.tgisinternal
        UNION ALL SELECT pg_get_indexdef(i.indexrelid) FROM pg_index i
        JOIN pg_class c ON c.oid = i.indexrelid WHERE c.relnamespace = 'portreeve'::regnamespace
        UNION ALL SELECT tablename || policyname || roles::text || cmd || qual FROM pg_policies
        WHERE schemaname = 'portreeve') s";
    let (mut a, mut b) = (superuser(&by_script).await, superuser(&by_program).await);
    let a: String = sqlx::query_scalar(schema).fetch_one(&mut a).await.unwrap();
    let b: String = sqlx::query_scalar(schema).fetch_one(&mut b).await.unwrap();
    assert!(a.len() > 10_000);
    similar_asserts(&a, &b);
}

/// Says where two long texts begin to differ.
#[track_caller]
fn similar_asserts(a: &str, b: &str) {
    let differing = a.lines().zip(b.lines()).find(|(a, b)| a != b);
    assert!(a == b, "{differing:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edited_migration_and_a_newer_schema_are_refused() {
    let database = postgres::bare().await;
    let mut conn = superuser(&database).await;
    run(&mut conn, "UPDATE schema_migrations SET checksum = sha256('') WHERE version = 2").await;
    for refused in [migrate(&database).told(1), migrate(&database).arg("--check").told(1)] {
        assert!(refused.contains("migration 2") && refused.contains("other contents"), "{refused}");
    }
    assert!(serve(&database, "portreeve_app").stderr.contains("other contents"));
    let database = postgres::bare().await;
    let mut conn = superuser(&database).await;
    run(&mut conn, "INSERT INTO schema_migrations (version, name, checksum) VALUES (99, 'later', '')").await;
    assert!(migrate(&database).told(1).contains("schema version 99"));
    assert!(serve(&database, "portreeve_app").stderr.contains("schema version 99"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_behind_is_not_served() {
    let database = postgres::bare().await;
    let mut conn = superuser(&database).await;
    run(&mut conn, "DELETE FROM schema_migrations WHERE version = (SELECT max(version) FROM schema_migrations)").await;
    let said = serve(&database, "portreeve_app").stderr;
    assert!(said.contains("schema version") && said.contains("portreeve migrate"), "{said}");
}

/// What stands in the way of a migration is told; nothing of the migration is left, and nothing is recorded.
#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_fails_leaves_nothing() {
    let database = postgres::empty().await;
    migrate(&database).json(0);
    let mut conn = superuser(&database).await;
    let version = "SELECT count(*) FROM portreeve.schema_migrations";
    let last: i64 = sqlx::query_scalar(version).fetch_one(&mut conn).await.unwrap();
    // As if the last one had never run, but for something of its name that is in its way.
    run(
        &mut conn,
        "DROP SCHEMA portreeve CASCADE; CREATE SCHEMA portreeve AUTHORIZATION portreeve_owner;
         CREATE TABLE portreeve.handoffs (x int)",
    )
    .await;
    let said = migrate(&database).told(1);
    assert!(said.contains("migration 2 `sessions_and_memories` failed and left nothing"), "{said}");
    let recorded: i64 = sqlx::query_scalar(version).fetch_one(&mut conn).await.unwrap();
    assert_eq!(recorded, 1);
    let left = "SELECT count(*) FROM pg_tables WHERE schemaname = 'portreeve' AND tablename = 'agent_sessions'";
    assert_eq!(sqlx::query_scalar::<_, i64>(left).fetch_one(&mut conn).await.unwrap(), 0);
    // The cause is mended, and it goes on from there.
    run(&mut conn, "DROP TABLE portreeve.handoffs").await;
    migrate(&database).json(0);
    assert_eq!(sqlx::query_scalar::<_, i64>(version).fetch_one(&mut conn).await.unwrap(), last);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_does_not_run_as_a_role_that_may_pass_the_functions() {
    let database = postgres::bare().await;
    let mut conn = superuser(&database).await;
    let name = format!("svc_{}", uuid::Uuid::now_v7().simple());
    run(&mut conn, &format!("CREATE ROLE {name} LOGIN")).await;
    for (grant, told) in [
        ("SELECT 1", "not a member of portreeve_app"),
        ("GRANT portreeve_app TO {}; GRANT portreeve_owner TO {}", "may act as the owner"),
        ("REVOKE portreeve_owner FROM {}; ALTER ROLE {} BYPASSRLS", "passes row security"),
        ("ALTER ROLE {} NOBYPASSRLS SUPERUSER", "passes row security"),
    ] {
        run(&mut conn, &grant.replace("{}", &name)).await;
        let said = serve(&database, &name).stderr;
        assert!(said.contains(told) && said.contains(&name), "{told}: {said}");
    }
    run(&mut conn, &format!("DROP ROLE {name}")).await;
}

/// A function that is not the one of this program: another argument, another owner, a right too few, an overload.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_whose_functions_differ_is_not_served() {
    for (change, told) in [
        ("DROP FUNCTION portreeve.lock_release", "lock_release"),
        ("REVOKE EXECUTE ON FUNCTION portreeve.task_claim FROM portreeve_app", "may not execute"),
        ("ALTER FUNCTION portreeve.lock_acquire OWNER TO postgres", "owner"),
        ("ALTER FUNCTION portreeve.lock_acquire SECURITY INVOKER", "does not run as its owner"),
        ("ALTER FUNCTION portreeve.lock_acquire RESET search_path", "search_path"),
        ("CREATE FUNCTION portreeve.lock_renew(x int) RETURNS int LANGUAGE sql AS 'SELECT 1'", "more than once"),
    ] {
        let database = postgres::bare().await;
        run(&mut superuser(&database).await, change).await;
        let said = serve(&database, "portreeve_app").stderr;
        assert!(said.contains(told), "{change}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_is_told_without_its_password() {
    let dir = tempfile::tempdir().unwrap();
    let serve = |url: &str| cli(["serve", "--data"]).arg(dir.path()).env("PORTREEVE_DATABASE_URL", url).told(1);
    let said = serve("postgres://svc:s3cret@127.0.0.1:1/fleet");
    assert!(said.contains("127.0.0.1:1/fleet") && !said.contains("s3cret"), "{said}");
    let wrong =
        cli(["serve", "--data"]).arg(dir.path()).env("PORTREEVE_DATABASE_URL", "mysql://svc:s3cret@h/x").told(2);
    assert!(wrong.contains("postgres://") && !wrong.contains("s3cret"), "{wrong}");
}

/// Every function is looked through by the server's own checker: types, tables, columns, unused variables, injection.
#[tokio::test(flavor = "multi_thread")]
async fn every_function_is_clean() {
    let database = postgres::bare().await;
    let mut conn = superuser(&database).await;
    run(&mut conn, "CREATE EXTENSION plpgsql_check SCHEMA public").await;
    let sql = "SELECT p.proname || ': ' || c.message || coalesce(' (' || c.detail || ')', '') || coalesce(' in ' || c.query, '')
               FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
               LEFT JOIN pg_trigger t ON t.tgfoid = p.oid AND NOT t.tgisinternal
               CROSS JOIN LATERAL public.plpgsql_check_function_tb(p.oid, coalesce(t.tgrelid, 0),
                   oldtable => t.tgoldtable, newtable => t.tgnewtable, extra_warnings => true, performance_warnings => false, security_warnings => true) c
               WHERE p.pronamespace = 'portreeve'::regnamespace AND l.lanname = 'plpgsql'";
    let said: Vec<String> = sqlx::query_scalar(sql).fetch_all(&mut conn).await.unwrap();
    assert!(said.is_empty(), "{said:#?}");
    let checked = "SELECT count(*) FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
                   WHERE p.pronamespace = 'portreeve'::regnamespace AND l.lanname = 'plpgsql'";
    assert!(sqlx::query_scalar::<_, i64>(checked).fetch_one(&mut conn).await.unwrap() > 40);
}
