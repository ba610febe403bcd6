//! The database refuses what the gate did not allow: no statement changes a state row but through a function, with an allow
//! decision of the same transaction.
//!
//! GATE, DENY: no statement of anybody passes without a decision.

use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::harness::Server;
use crate::harness::state::{Db, drop_guards, state_tables};

/// Puts a row into every table that holds state.
pub(super) async fn fill(server: &Server) {
    let active = server.app().gate().policy().active().component.digest().to_owned();
    server.admin.post(&format!("/components/{active}/shadow"), json!({})).await.done();
    let a = server.agent("a", "claude_code_local").await;
    a.post_once("/locks/acquire", "key-1", json!({"file_path": "src/a.rs"})).await.done();
    let first = a.submit("build", json!({})).await;
    a.submit("build", json!({"depends_on": [first]})).await;
    a.claim("build").await;
    a.post("/discovery/register", json!({"session_id": "s-1"})).await.done();
    a.post("/status/report", json!({"message": "on it"})).await.done();
    a.post("/handoffs/write", json!({"summary": "half done"})).await.done();
    a.post("/memory/store", json!({"event_type": "decision", "summary": "tabs"})).await.done();
    a.post("/guardrails/check", json!({"operation_text": "git push --force"})).await.ok();
}

async fn run(conn: &mut PgConnection, sql: &str) -> Result<u64, sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(conn).await.map(|done| done.rows_affected())
}

fn code(error: &sqlx::Error) -> String {
    error.as_database_error().and_then(|error| error.code()).unwrap_or_default().into_owned()
}

async fn superuser(server: &Server) -> PgConnection {
    match server.db().await {
        Db::Postgres(conn) => conn,
        Db::Sqlite(_) => panic!("this is about PostgreSQL"),
    }
}

/// A change of each state table that would be a lie, with the rules of the table itself kept as far as they can be.
const CHANGES: [(&str, &str); 14] = [
    ("agents", "UPDATE agents SET profile = 'admin', facts_version = facts_version + 1"),
    ("api_keys", "UPDATE api_keys SET revoked_at = now(), revoked_by = 'a' WHERE revoked_at IS NULL"),
    ("file_locks", "UPDATE file_locks SET expires_at = expires_at + interval '1 day'"),
    ("lock_fences", "UPDATE lock_fences SET last_token = last_token + 1"),
    ("work_queue", "UPDATE work_queue SET attempt_count = attempt_count + 1 WHERE status IN ('pending', 'claimed')"),
    ("work_dependencies", "DELETE FROM work_dependencies"),
    ("agent_sessions", "UPDATE agent_sessions SET ended_at = now()"),
    ("agent_status", "UPDATE agent_status SET report_count = report_count + 1"),
    ("handoffs", "UPDATE handoffs SET summary = 'done'"),
    ("memories", "UPDATE memories SET merge_count = merge_count + 1"),
    ("components", "UPDATE components SET bytes = bytes"),
    (
        "activations",
        "INSERT INTO activations (epoch, digest, activated_by) SELECT max(epoch) + 1, min(digest), 'a' FROM activations",
    ),
    (
        "component_shadows",
        "INSERT INTO component_shadows (choice, chosen_by) SELECT max(choice) + 1, 'a' FROM component_shadows",
    ),
    ("idempotency_keys", "UPDATE idempotency_keys SET body = '{}'"),
];

#[tokio::test(flavor = "multi_thread")]
async fn no_statement_changes_a_state_row_without_an_allow_decision_of_its_transaction() {
    let server = Server::on_postgres().await;
    fill(&server).await;
    let tables: Vec<&str> = CHANGES.iter().map(|(table, _)| *table).collect();
    let mut all = state_tables(true);
    all.sort_unstable();
    let mut tried = tables.clone();
    tried.sort_unstable();
    assert_eq!(tried, all, "a table that is not tried is not shown");
    let before = server.state().await;
    let mut conn = superuser(&server).await;
    // The newest allow decision of a change: one that a forger would name.
    let named = "SELECT set_config('portreeve.decision', (SELECT id::text FROM portreeve.audit_log
                 WHERE decision = 'allow' AND outcome = 'ok' AND changes <> '[]' ORDER BY xact DESC LIMIT 1), false)";
    for role in ["portreeve_app", "portreeve_owner", "postgres"] {
        for (table, sql) in CHANGES {
            run(&mut conn, &format!("SET SESSION AUTHORIZATION {role}; SET search_path = portreeve")).await.unwrap();
            for forge in [false, true] {
                if forge {
                    run(&mut conn, named).await.unwrap();
                }
                let error = run(&mut conn, sql).await.expect_err(&format!("{role} was let through: {sql}"));
                let text = error.to_string();
                assert_eq!(code(&error), "42501", "{role} on {table}: {text}");
                let by_grant = text.contains("permission denied");
                assert_eq!(by_grant, role == "portreeve_app", "{role} on {table}: {text}");
            }
            run(&mut conn, "RESET SESSION AUTHORIZATION; RESET portreeve.decision").await.unwrap();
        }
    }
    assert_eq!(server.state().await, before);
}

/// The test above has to be able to fail: without the guard of the table, the same statement goes through.
#[tokio::test(flavor = "multi_thread")]
async fn it_is_the_guards_that_refuse() {
    let server = Server::on_postgres().await;
    fill(&server).await;
    for (table, sql) in CHANGES {
        let mut db = server.db().await;
        drop_guards(&mut db, table).await;
        let Db::Postgres(mut conn) = db else { panic!("this is about PostgreSQL") };
        let changed = run(&mut conn, sql).await.unwrap_or_else(|error| panic!("{table}: {error}"));
        assert!(changed > 0, "{table} has no row to change");
    }
}

/// A decision about one thing is none about another: what the audit row does not announce does not change.
#[tokio::test(flavor = "multi_thread")]
async fn a_decision_covers_what_it_announces_and_nothing_else() {
    let server = Server::on_postgres().await;
    fill(&server).await;
    let mut conn = superuser(&server).await;
    let decide = |id: &str, command: &str, operation: &str, verdict: &str| {
        format!(
            "ROW('{id}'::uuid, 'r', 'a', 'claude_code', 'claude_code_local', 3, '{command}', '{operation}', 'x', '{{}}',
                 '{{}}', '{verdict}', 'allowed', '', 'both', '[]', '[]', '{{}}', 'sha256:x', 1, 1, 0, 0, NULL, false, NULL,
                 NULL, NULL, NULL, NULL, NULL)::portreeve.decision"
        )
    };
    let id = || uuid::Uuid::now_v7().to_string();
    let mut tx = conn.begin().await.unwrap();
    let allowed = decide(&id(), "lock_acquire", "acquire_lock", "allow");
    let sql = format!("SELECT verdict FROM portreeve.lock_acquire({allowed}, 'src/b.rs', NULL, NULL, 30, true)");
    let verdict: String = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut *tx).await.unwrap();
    assert_eq!(verdict, "done");
    // In the very transaction of that decision: its own key may change, another may not.
    let own = "UPDATE portreeve.file_locks SET reason = 'x' WHERE lock_key = 'src/b.rs'";
    assert_eq!(run(&mut tx, own).await.unwrap(), 1);
    let other = "UPDATE portreeve.file_locks SET reason = 'x' WHERE lock_key = 'src/a.rs'";
    let error = run(&mut tx, other).await.unwrap_err();
    assert!(error.to_string().contains("`src/a.rs` of file_locks"), "{error}");
    tx.rollback().await.unwrap();
    // No allowance, or one of another command: the function itself refuses, and nothing is recorded.
    let rows = "SELECT count(*) FROM portreeve.audit_log";
    let before: i64 = sqlx::query_scalar(rows).fetch_one(&mut conn).await.unwrap();
    for (command, operation, verdict) in [
        ("lock_acquire", "acquire_lock", "deny"),
        ("lock_acquire", "acquire_lock", "unavailable"),
        ("lock_release", "release_lock", "allow"),
        ("lock_acquire", "check_locks", "allow"),
    ] {
        let decision = decide(&id(), command, operation, verdict);
        let sql = format!("SELECT portreeve.lock_acquire({decision}, 'src/c.rs', NULL, NULL, 30, true)");
        let error = run(&mut conn, &sql).await.unwrap_err();
        assert_eq!(code(&error), "42501", "{command} {operation} {verdict}: {error}");
    }
    let unsaid = run(&mut conn, "SELECT portreeve.lock_acquire(NULL, 'src/c.rs', NULL, NULL, 30, true)").await;
    assert_eq!(code(&unsaid.unwrap_err()), "42501");
    assert_eq!(sqlx::query_scalar::<_, i64>(rows).fetch_one(&mut conn).await.unwrap(), before);
    // From facts or an epoch that moved: recorded as stale, and nothing done.
    for (from, to) in [("'sha256:x', 1, 1,", "'sha256:x', 1, 2,"), ("'sha256:x', 1, 1,", "'sha256:x', 2, 1,")] {
        let decision = decide(&id(), "lock_acquire", "acquire_lock", "allow").replace(from, to);
        let sql = format!("SELECT verdict FROM portreeve.lock_acquire({decision}, 'src/c.rs', NULL, NULL, 30, true)");
        let verdict: String = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut conn).await.unwrap();
        assert_eq!(verdict, "stale");
    }
    let taken = "SELECT count(*) FROM portreeve.file_locks WHERE lock_key = 'src/c.rs'";
    assert_eq!(sqlx::query_scalar::<_, i64>(taken).fetch_one(&mut conn).await.unwrap(), 0);
}

/// What changes by the thousand is held against the decision after the statement, all at once: of whatever kind it is, and
/// however many rows it also may change.
#[tokio::test(flavor = "multi_thread")]
async fn no_statement_takes_other_rows_along() {
    let server = Server::on_postgres().await;
    fill(&server).await;
    let a = server.agent("b", "claude_code_local").await;
    let [own, other] = [a.submit("own", json!({})).await, a.submit("other", json!({})).await];
    let waits = a.submit("waits", json!({"depends_on": [own]})).await;
    a.post("/discovery/register", json!({"session_id": "s-2"})).await.done();
    a.acquire("src/own.rs").await.done();
    let (own_is, other_is) = (format!("task_id = '{own}'"), format!("task_id = '{other}'"));
    let move_all = format!("UPDATE work_queue SET attempt_count = attempt_count WHERE {own_is} OR {other_is}");
    let columns = "workspace, task_id, task_type, description, priority, status, submitted_by, max_attempts";
    let decided = |call: &str, operation: &str| {
        let name = call.split('(').next().unwrap();
        format!(
            "SELECT {}",
            call.replace(
                "$d",
                &format!(
                    "ROW(gen_random_uuid(), 'r', 'b', 'claude_code', 'claude_code_local', 3, '{name}', '{operation}', 'x',
                     '{{}}', '{{}}', 'allow', 'allowed', '', 'both', '[]', '[]', '{{}}', 'sha256:x', 1, 1, 0, 0, NULL, false,
                     NULL, NULL, NULL, NULL, NULL, NULL)::decision"
                )
            )
        )
    };
    let claim = decided(&format!("task_claim($d, '{own}', NULL, 60, NULL)"), "get_work");
    let heartbeat = decided("session_heartbeat($d, 's-2')", "heartbeat");
    let release = decided("lock_acquire($d, 'src/own.rs', NULL, NULL, 30, true)", "acquire_lock");
    let complete = decided(&format!("task_complete($d, '{own}', true, NULL, NULL, NULL)"), "complete_work");
    let tries: Vec<(&str, bool, String)> = vec![
        (&claim, true, format!("UPDATE work_queue SET attempt_count = attempt_count WHERE {own_is}")),
        (&claim, false, move_all.clone()),
        (
            &claim,
            false,
            format!(
                "WITH x AS (UPDATE work_queue SET attempt_count = attempt_count WHERE {own_is})
            UPDATE work_queue SET attempt_count = attempt_count WHERE {other_is}"
            ),
        ),
        (
            &claim,
            false,
            format!("WITH x AS (UPDATE work_queue SET attempt_count = attempt_count WHERE {other_is}) SELECT 1"),
        ),
        (
            &claim,
            false,
            format!(
                "INSERT INTO work_queue ({columns}) SELECT {columns} FROM work_queue WHERE {other_is}
            ON CONFLICT (workspace, task_id) DO UPDATE SET attempt_count = excluded.attempt_count"
            ),
        ),
        (
            &claim,
            false,
            format!(
                "MERGE INTO work_queue q USING (SELECT '{other}'::uuid AS id) o ON q.task_id = o.id
            WHEN MATCHED THEN UPDATE SET attempt_count = 0"
            ),
        ),
        (
            &claim,
            false,
            format!("{move_all} RETURNING set_config('portreeve.decision', gen_random_uuid()::text, true)"),
        ),
        (
            &claim,
            false,
            format!("UPDATE work_queue SET open_dependencies = open_dependencies - 1 WHERE task_id = '{waits}'"),
        ),
        (&heartbeat, true, "UPDATE agent_sessions SET current_task = 'x' WHERE session_id = 's-2'".to_owned()),
        (&heartbeat, false, "UPDATE agent_sessions SET current_task = 'x'".to_owned()),
        (&release, true, "DELETE FROM file_locks WHERE lock_key = 'src/own.rs'".to_owned()),
        (&release, false, "DELETE FROM file_locks".to_owned()),
        (
            &release,
            false,
            "MERGE INTO file_locks l USING (SELECT 'src/a.rs' AS key) o ON l.lock_key = o.key
            WHEN MATCHED THEN DELETE"
                .to_owned(),
        ),
    ];
    let mut conn = superuser(&server).await;
    for role in ["portreeve_owner", "postgres"] {
        run(&mut conn, &format!("SET ROLE {role}; SET search_path = portreeve")).await.unwrap();
        for (decide, may, sql) in &tries {
            let mut tx = conn.begin().await.unwrap();
            run(&mut tx, decide).await.unwrap();
            match run(&mut tx, sql).await {
                Ok(_) => assert!(*may, "{role} was let through: {sql}"),
                Err(error) => {
                    assert!(!*may && code(&error) == "42501", "{role}: {sql}: {error}");
                    assert!(error.to_string().contains("no allow decision"), "{role}: {sql}: {error}");
                }
            }
            tx.rollback().await.unwrap();
        }
        run(&mut conn, "RESET ROLE").await.unwrap();
    }
    run(&mut conn, &claim).await.unwrap();
    for role in ["portreeve_owner", "postgres"] {
        run(&mut conn, &format!("SET ROLE {role}; SET search_path = portreeve")).await.unwrap();
        // A task is told that what it waits for is completed, and no more; and only those that wait for it are told.
        for (may, set, id) in [
            (true, "", &waits),
            (false, ", error_message = 'x'", &waits),
            (false, ", result = '1'", &waits),
            (false, "", &other),
        ] {
            let mut tx = conn.begin().await.unwrap();
            // What the function tells is undone, so that it can be told here.
            let keep = "ALTER TABLE work_queue DISABLE TRIGGER USER;
                UPDATE work_queue SET open_dependencies = open_dependencies + 1 WHERE task_id IN";
            run(&mut tx, &complete).await.unwrap();
            run(&mut tx, &format!("{keep} ('{waits}', '{other}'); ALTER TABLE work_queue ENABLE TRIGGER USER"))
                .await
                .unwrap();
            let sql =
                format!("UPDATE work_queue SET open_dependencies = open_dependencies - 1{set} WHERE task_id = '{id}'");
            let told = run(&mut tx, &sql).await;
            assert_eq!(told.is_ok(), may, "{role}: {sql}: {told:?}");
            tx.rollback().await.unwrap();
        }
        run(&mut conn, "RESET ROLE").await.unwrap();
    }
}

/// How many others a task waits for is what is true: it is told once of each, not before, and by nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_waits_for_as_many_as_are_not_completed() {
    let server = Server::on_postgres().await;
    let a = server.agent("a", "claude_code_local").await;
    let [own, other] = [a.submit("own", json!({})).await, a.submit("other", json!({})).await];
    let waits = a.submit("waits", json!({"depends_on": [own, other]})).await;
    assert_eq!(a.claim("own").await["task_id"], json!(own));
    let mut conn = superuser(&server).await;
    let decision = |command: &str, operation: &str| {
        format!(
            "ROW(gen_random_uuid(), 'r', 'a', 'claude_code', 'claude_code_local', 3, '{command}', '{operation}', 'x', '{{}}',
                 '{{}}', 'allow', 'allowed', '', 'both', '[]', '[]', '{{}}', 'sha256:x', 1, 1, 0, 0, NULL, false, NULL, NULL,
                 NULL, NULL, NULL, NULL)::decision"
        )
    };
    let complete = format!(
        "SELECT task_complete({}, '{own}', true, NULL, NULL, NULL)",
        decision("task_complete", "complete_work")
    );
    // A row as the owner can write it, which announces what the function would.
    let announce = |task: &str, status: &str| {
        let decision = decision("x", "x");
        format!("SELECT gate_record({decision}, now(), 'ok', '{{}}', task_change('{task}', '{status}', 1))")
    };
    let new = uuid::Uuid::now_v7().to_string();
    let end = format!(
        "UPDATE work_queue SET status = 'completed', claim_token = NULL, lease_expires_at = NULL, completed_at = now(),
             open_dependencies = greatest(0, open_dependencies - 1) WHERE task_id = '{own}'"
    );
    let tell = format!("UPDATE work_queue SET open_dependencies = open_dependencies - 1 WHERE task_id = '{waits}'");
    let submit = |status: &str, open: u32| {
        format!(
            "INSERT INTO work_queue (task_id, task_type, description, priority, status, submitted_by, max_attempts,
                 open_dependencies, completed_at)
             VALUES ('{new}', 't', 'd', 5, '{status}', 'a', 1, {open}, CASE '{status}' WHEN 'completed' THEN now() END)"
        )
    };
    let depend =
        |task: &str| format!("INSERT INTO work_dependencies (task_id, depends_on) VALUES ('{task}', '{other}')");
    let counted = "is to wait for as many others";
    let tries = [
        (complete, vec![tell.clone()], Some(counted)),
        (announce(&own, "completed"), vec![tell.clone()], Some(counted)),
        (announce(&own, "completed"), vec![end.clone(), tell.clone()], None),
        (announce(&own, "completed"), vec![end.clone(), tell.clone(), tell.clone()], Some(counted)),
        // Both at once, as one statement may do it.
        (announce(&own, "completed"), vec![both(&own, &waits, 1)], None),
        (announce(&own, "completed"), vec![both(&own, &waits, 2)], Some("no allow decision")),
        // What is announced itself is none the freer.
        (announce(&waits, "pending"), vec![tell.clone()], Some(counted)),
        (announce(&waits, "pending"), vec![tell.replace("- 1", "+ 1")], Some(counted)),
        (announce(&waits, "failed"), vec![tell.replace("- 1", "- 2")], Some(counted)),
        (announce(&new, "pending"), vec![submit("pending", 1), depend(&new)], None),
        (announce(&new, "pending"), vec![submit("pending", 0), depend(&new)], Some(counted)),
        (announce(&new, "pending"), vec![submit("pending", 2), depend(&new)], Some(counted)),
        (announce(&new, "pending"), vec![submit("completed", 0)], Some("begins as pending")),
        (announce(&own, "claimed"), vec![depend(&own)], Some(counted)),
    ];
    for role in ["portreeve_owner", "postgres"] {
        run(&mut conn, &format!("SET ROLE {role}; SET search_path = portreeve")).await.unwrap();
        for (decide, statements, told) in &tries {
            let mut tx = conn.begin().await.unwrap();
            run(&mut tx, decide).await.unwrap();
            let (last, before) = statements.split_last().unwrap();
            for sql in before {
                run(&mut tx, sql).await.unwrap_or_else(|error| panic!("{role}: {sql}: {error}"));
            }
            match (run(&mut tx, last).await, told) {
                (Ok(changed), None) => assert!(changed > 0, "{role}: {last}"),
                (Err(error), Some(told)) => {
                    assert_eq!(code(&error), "42501", "{role}: {last}: {error}");
                    assert!(error.to_string().contains(told), "{role}: {last}: {error}");
                }
                (done, _) => panic!("{role}: {decide}; {statements:?}: {done:?}"),
            }
            tx.rollback().await.unwrap();
        }
        run(&mut conn, "RESET ROLE").await.unwrap();
    }
}

/// One statement that completes a task and tells another.
fn both(own: &str, waits: &str, by: u32) -> String {
    format!(
        "UPDATE work_queue SET status = CASE task_id WHEN '{own}' THEN 'completed' ELSE status END, claim_token = NULL,
             lease_expires_at = NULL, completed_at = CASE task_id WHEN '{own}' THEN now() END,
             open_dependencies = CASE task_id WHEN '{waits}' THEN open_dependencies - {by} ELSE 0 END
         WHERE task_id IN ('{own}', '{waits}')"
    )
}

/// A trigger of a statement does not fire for what is changed through a parent of the table: it gets none.
#[tokio::test(flavor = "multi_thread")]
async fn a_guarded_table_is_nobodys_child() {
    let server = Server::on_postgres().await;
    let mut conn = superuser(&server).await;
    for table in ["work_queue", "work_dependencies", "file_locks", "agent_sessions"] {
        run(&mut conn, &format!("CREATE TABLE public.parent_{table} (LIKE portreeve.{table})")).await.unwrap();
        let child = format!("ALTER TABLE portreeve.{table} INHERIT public.parent_{table}");
        let error = run(&mut conn, &child).await.unwrap_err().to_string();
        assert!(error.contains(&format!("trigger \"{table}_no_child\" prevents")), "{error}");
        let parted = format!(
            "CREATE TABLE public.parted_{table} (LIKE portreeve.{table}) PARTITION BY LIST (workspace);
            ALTER TABLE public.parted_{table} ATTACH PARTITION portreeve.{table} DEFAULT"
        );
        let error = run(&mut conn, &parted).await.unwrap_err().to_string();
        assert!(error.contains("prevents") || error.contains("identity") || error.contains("trigger"), "{error}");
    }
}

/// Row security is in force for the owner as well: one workspace does not see, and does not touch, another.
#[tokio::test(flavor = "multi_thread")]
async fn workspaces_do_not_see_each_other() {
    let server = Server::on_postgres().await;
    fill(&server).await;
    let mut conn = superuser(&server).await;
    for role in ["portreeve_app", "portreeve_owner"] {
        for (workspace, expected) in [("default", true), ("another", false)] {
            let to = format!("SET SESSION AUTHORIZATION {role}; SET portreeve.workspace = '{workspace}'");
            run(&mut conn, &to).await.unwrap();
            for (table, _) in CHANGES {
                let sql = format!("SELECT count(*) FROM portreeve.{table}");
                let seen: i64 = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut conn).await.unwrap();
                assert_eq!(seen > 0, expected, "{role} in {workspace} sees {seen} rows of {table}");
            }
            run(&mut conn, "RESET SESSION AUTHORIZATION; RESET portreeve.workspace").await.unwrap();
        }
    }
}

/// Hostile names travel as values: nothing of them is ever SQL.
#[tokio::test(flavor = "multi_thread")]
async fn names_that_would_be_sql_are_names() {
    let server = Server::on_postgres().await;
    let a = server.agent("a", "claude_code_local").await;
    for (n, name) in ["x'; SELECT 1; --", "$1", "\\'; SELECT 1", "\" OR 1=1", "%s", "E'\\x1f'"].iter().enumerate() {
        let taken = a.acquire(&format!("src/{name}{n}")).await;
        assert!(matches!(taken.status, 200 | 422), "{name}: {}", taken.body);
        a.post("/memory/store", json!({"event_type": "decision", "summary": name, "tags": [name]})).await.done();
        a.post("/memory/query", json!({"text": name, "tags": [name]})).await;
        a.post("/handoffs/write", json!({"summary": name, "next_steps": [name]})).await.done();
        a.post("/discovery/register", json!({"session_id": format!("s{n}"), "capabilities": [name]})).await.done();
        let found = server.admin.get(&format!("/audit?operation={n}")).await.ok();
        assert_eq!(found["count"], 0);
    }
    assert_eq!(a.get("/locks?limit=1000").await.status, 200);
}
