//! Who may do what in the database, found out by trying: every role, every table, every verb, every function.
//!
//! GATE, AUDIT: the service's role writes to no table.

use std::collections::BTreeMap;
use std::fmt::Write;

use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::harness::Server;
use crate::harness::state::{Db, tables};

const ROLES: [&str; 4] = ["portreeve_owner", "portreeve_app", "portreeve_auditor", "anon"];
const VERBS: [&str; 5] = ["SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE"];

/// What came of an attempt.
async fn attempt(conn: &mut PgConnection, role: &str, sql: &str) -> &'static str {
    let mut tx = conn.begin().await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(format!("SET SESSION AUTHORIZATION {role}"))).execute(&mut *tx).await.unwrap();
    let tried = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut *tx).await;
    tx.rollback().await.unwrap();
    sqlx::raw_sql("RESET SESSION AUTHORIZATION").execute(conn).await.unwrap();
    match tried {
        Ok(_) => "yes",
        Err(sqlx::Error::Database(error)) => match (error.code().as_deref(), error.message()) {
            (Some("42501"), text) if text.contains("permission denied") => "-",
            // A guard, a rule of the table, or row security: it was let near and refused.
            (Some("42501" | "23502" | "23514" | "2BP01" | "0A000"), _) => "guard",
            (code, text) => panic!("{role}: {sql}: {code:?} {text}"),
        },
        Err(error) => panic!("{role}: {sql}: {error}"),
    }
}

fn statement(verb: &str, table: &str) -> String {
    match verb {
        "SELECT" => format!("SELECT count(*) FROM portreeve.{table}"),
        "INSERT" => format!("INSERT INTO portreeve.{table} DEFAULT VALUES"),
        "UPDATE" if table == "schema_migrations" => format!("UPDATE portreeve.{table} SET name = name"),
        "UPDATE" => format!("UPDATE portreeve.{table} SET workspace = workspace"),
        "DELETE" => format!("DELETE FROM portreeve.{table}"),
        _ => format!("TRUNCATE portreeve.{table} CASCADE"),
    }
}

/// A database in which every table has a row.
async fn filled() -> Server {
    let server = Server::on_postgres().await;
    super::guards::fill(&server).await;
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_may_do_this_with_each_table() {
    let server = filled().await;
    let mut db = server.db().await;
    let tables = tables(&mut db).await;
    let Db::Postgres(mut conn) = db else { panic!("this is about PostgreSQL") };
    let mut matrix = format!("{:<22} {:<19}", "table", "role");
    for verb in VERBS {
        write!(matrix, " {verb:<8}").unwrap();
    }
    for table in &tables {
        for role in ROLES {
            write!(matrix, "\n{table:<22} {role:<19}").unwrap();
            for verb in VERBS {
                write!(matrix, " {:<8}", attempt(&mut conn, role, &statement(verb, table)).await).unwrap();
            }
        }
    }
    let lines: Vec<&str> = matrix.lines().map(str::trim_end).collect();
    insta::assert_snapshot!("tables", lines.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_may_execute_these_functions() {
    let server = Server::on_postgres().await;
    let mut db = server.db().await;
    let mut matrix = BTreeMap::<String, Vec<&str>>::new();
    for role in ROLES {
        let sql = format!(
            "SELECT p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')'
             FROM pg_proc p WHERE p.pronamespace = 'portreeve'::regnamespace
               AND has_function_privilege('{role}', p.oid, 'EXECUTE')"
        );
        for function in db.texts(&sql).await {
            matrix.entry(function).or_default().push(role);
        }
    }
    // The owner's own helpers are many; what is shown is what anybody else may call.
    let others = |roles: &Vec<&str>| roles.len() > 1;
    let lines: Vec<String> = matrix
        .iter()
        .filter(|(_, roles)| others(roles))
        .map(|(function, roles)| format!("{function}: {}", roles[1..].join(", ")))
        .collect();
    insta::assert_snapshot!("functions", lines.join("\n"));
}

/// A role of the service that is tricked into more: each attempt is refused, and with the right words.
#[tokio::test(flavor = "multi_thread")]
async fn no_role_but_the_owner_changes_the_schema() {
    let server = filled().await;
    let Db::Postgres(mut conn) = server.db().await else { panic!("this is about PostgreSQL") };
    let attempts = [
        "SET ROLE portreeve_owner",
        "SET ROLE postgres",
        "ALTER TABLE portreeve.audit_log DISABLE TRIGGER ALL",
        "ALTER TABLE portreeve.file_locks DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE portreeve.file_locks NO FORCE ROW LEVEL SECURITY",
        "DROP TRIGGER audit_log_fixed ON portreeve.audit_log",
        "DROP POLICY file_locks_app ON portreeve.file_locks",
        "CREATE POLICY mine ON portreeve.file_locks USING (true)",
        "CREATE TABLE portreeve.mine (x int)",
        "CREATE FUNCTION portreeve.lock_acquire(text) RETURNS text LANGUAGE sql AS 'SELECT $1'",
        "CREATE OR REPLACE FUNCTION portreeve.clock_now() RETURNS timestamptz LANGUAGE sql AS 'SELECT now()'",
        "CREATE TRIGGER mine BEFORE INSERT ON portreeve.file_locks FOR EACH ROW EXECUTE FUNCTION portreeve.guard_file_locks()",
        "ALTER FUNCTION portreeve.lock_acquire OWNER TO portreeve_app",
        "SET session_replication_role = replica",
        "SELECT portreeve.gate_record(NULL, now(), 'ok', '{}', '[]')",
        "SELECT portreeve.check_decided('file_locks', 'a')",
        "COPY portreeve.file_locks TO PROGRAM 'cat'",
        "COPY portreeve.file_locks FROM STDIN",
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT lo_import('/etc/passwd')",
        "DROP SCHEMA portreeve CASCADE",
        "ALTER ROLE portreeve_app SUPERUSER",
        "DO $$ BEGIN LOCK TABLE portreeve.audit_log IN ACCESS EXCLUSIVE MODE; END $$",
        "SELECT 1 FROM portreeve.file_locks FOR UPDATE",
        "CREATE EXTENSION plpython3u",
    ];
    let before = server.state().await;
    for role in ["portreeve_app", "portreeve_auditor", "anon"] {
        for sql in attempts {
            sqlx::raw_sql(AssertSqlSafe(format!("SET SESSION AUTHORIZATION {role}"))).execute(&mut conn).await.unwrap();
            let tried = sqlx::raw_sql(sql).execute(&mut conn).await;
            sqlx::raw_sql("RESET SESSION AUTHORIZATION").execute(&mut conn).await.unwrap();
            let error = tried.expect_err(&format!("{role} was let through: {sql}"));
            let code = error.as_database_error().and_then(|error| error.code()).unwrap_or_default().into_owned();
            assert!(["42501", "0A000"].contains(&code.as_str()), "{role}: {sql}: {error}");
        }
    }
    assert_eq!(server.state().await, before);
}
