//! What stands in the database is what the program's migrations make: it carries a list of that, and serves nothing else.

use std::path::Path;

use portreeve::store::postgres::{Options, objects};
use sqlx::AssertSqlSafe;

use crate::harness::cli::cli;
use crate::harness::postgres::{self, superuser, url};

const PARSED: &str = "parsed by PostgreSQL ";

/// `INSTA_UPDATE=always` writes the list anew; the program that carries it has to be built again then.
#[tokio::test(flavor = "multi_thread")]
async fn the_list_is_what_the_migrations_make() {
    let database = postgres::bare().await;
    let found = objects(&Options::parse(&url(&database, "postgres")).unwrap()).await.unwrap();
    let kind = found.lines().find(|line| line.starts_with(PARSED)).unwrap().split('\t').next().unwrap();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations/postgres/objects.txt");
    let listed = std::fs::read_to_string(&file).unwrap();
    // What other versions of the server tell is theirs.
    let of_others = |line: &&str| line.starts_with(PARSED) && !line.starts_with(&format!("{kind}\t"));
    let is_known = listed.lines().any(|line| line.starts_with(&format!("{kind}\t")));
    if std::env::var("INSTA_UPDATE").is_ok_and(|update| update == "always") {
        let mut lines: Vec<&str> = listed.lines().filter(of_others).chain(found.lines()).collect();
        lines.sort_unstable();
        std::fs::write(&file, lines.join("\n") + "\n").unwrap();
        return;
    }
    let listed: Vec<&str> = listed.lines().filter(|line| !of_others(line)).collect();
    let found: Vec<&str> = found.lines().filter(|line| is_known || !line.starts_with(PARSED)).collect();
    let differing: Vec<_> = found.iter().filter(|line| !listed.contains(line)).collect();
    assert_eq!(found, listed, "INSTA_UPDATE=always accepts these: {differing:#?}");
}

/// An edit of a function's text, whatever that is.
fn edit(function: &str, from: &str, to: &str) -> String {
    format!(
        "DO $do$ BEGIN EXECUTE replace(pg_get_functiondef('portreeve.{function}'::regproc), $x${from}$x$, $x${to}$x$); END $do$"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_was_edited_is_not_served() {
    let sql = |sql: &str| sql.to_owned();
    for (change, told) in [
        (
            edit("guard_file_locks", "PERFORM check_decided", "-- PERFORM check_decided"),
            "function guard_file_locks() differs",
        ),
        (edit("decided_keys", "l.outcome = 'ok'::text", "true"), "function decided_keys(tab text) differs"),
        (edit("clock_now", "clock_timestamp()", "now()"), "function clock_now() differs"),
        (
            edit("gate_enter", "exclusive boolean DEFAULT false", "exclusive boolean DEFAULT true"),
            "function gate_enter(",
        ),
        (
            sql("ALTER FUNCTION portreeve.check_decided RESET search_path"),
            "function check_decided(tab text, key text) differs",
        ),
        (sql("GRANT EXECUTE ON FUNCTION portreeve.gate_record TO PUBLIC"), "function gate_record("),
        (
            sql("CREATE FUNCTION portreeve.mine() RETURNS int LANGUAGE sql RETURN 1"),
            "function mine() is not this program's",
        ),
        (
            sql("ALTER TABLE portreeve.work_queue DISABLE TRIGGER work_queue_moved"),
            "trigger work_queue.work_queue_moved differs",
        ),
        (sql("DROP TRIGGER agents_decided ON portreeve.agents"), "trigger agents.agents_decided is missing"),
        (
            sql(
                "CREATE TRIGGER mine BEFORE UPDATE ON portreeve.agents FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
            ),
            "trigger agents.mine is not this program's",
        ),
        (
            sql(
                "CREATE OR REPLACE TRIGGER api_keys_decided BEFORE INSERT ON portreeve.api_keys FOR EACH ROW EXECUTE FUNCTION portreeve.guard_api_keys()",
            ),
            "trigger api_keys.api_keys_decided differs",
        ),
        (sql("ALTER TABLE portreeve.work_dependencies DISABLE TRIGGER ALL"), "table work_dependencies differs"),
        (sql("ALTER TABLE portreeve.file_locks NO FORCE ROW LEVEL SECURITY"), "table file_locks differs"),
        (sql("ALTER TABLE portreeve.file_locks DISABLE ROW LEVEL SECURITY"), "table file_locks differs"),
        (sql("GRANT UPDATE (profile) ON portreeve.agents TO portreeve_app"), "table agents differs"),
        (sql("CREATE RULE mine AS ON INSERT TO portreeve.audit_log DO INSTEAD NOTHING"), "table audit_log differs"),
        (sql("DROP POLICY agents_app ON portreeve.agents"), "policy agents.agents_app is missing"),
        (sql("ALTER POLICY agents_app ON portreeve.agents USING (true)"), "policy agents.agents_app differs"),
        (sql("CREATE POLICY mine ON portreeve.agents USING (true)"), "policy agents.mine is not this program's"),
        (
            sql("ALTER ROLE ALL IN DATABASE {} SET session_replication_role = replica"),
            "setting session_replication_role differs",
        ),
    ] {
        let database = postgres::bare().await;
        let mut conn = superuser(&database).await;
        let change = change.replace("{}", &database);
        sqlx::raw_sql(AssertSqlSafe(change.clone()))
            .execute(&mut conn)
            .await
            .unwrap_or_else(|e| panic!("{change}: {e}"));
        let dir = tempfile::tempdir().unwrap();
        let serve = cli(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(dir.path());
        let check = cli(["migrate", "--check"]);
        for (command, role) in [(serve, "portreeve_app"), (check, "postgres")] {
            let said = command.env("PORTREEVE_DATABASE_URL", url(&database, role)).told(1);
            assert!(said.contains(told) && said.contains("migrate --sql"), "{change}: {said}");
        }
    }
}

/// One statement keeps other programs' logins out of a database that is the service's alone; the service needs nothing of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_closed_to_others_is_served() {
    let database = postgres::bare().await;
    let mut conn = superuser(&database).await;
    let name = format!("stranger_{}", uuid::Uuid::now_v7().simple());
    let close = format!(
        "REVOKE CONNECT, TEMPORARY ON DATABASE {database} FROM PUBLIC;
         GRANT CONNECT ON DATABASE {database} TO portreeve_app, portreeve_auditor;
         CREATE ROLE {name} LOGIN; CREATE ROLE {name}_svc LOGIN; GRANT portreeve_app TO {name}_svc"
    );
    sqlx::raw_sql(AssertSqlSafe(close)).execute(&mut conn).await.unwrap();
    for role in ["postgres", "portreeve_app", &format!("{name}_svc")] {
        let check = cli(["migrate", "--check"]).env("PORTREEVE_DATABASE_URL", url(&database, role));
        assert_eq!(check.json(0)["up_to_date"], true, "{role}");
    }
    let said = cli(["migrate", "--check"]).env("PORTREEVE_DATABASE_URL", url(&database, &name)).told(1);
    assert!(said.contains("permission denied for database"), "{said}");
    let drop = format!("DROP OWNED BY {name}_svc; DROP ROLE {name}, {name}_svc");
    sqlx::raw_sql(AssertSqlSafe(drop)).execute(&mut conn).await.unwrap();
}
