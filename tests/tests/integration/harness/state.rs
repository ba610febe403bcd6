//! The database file, looked at from beside the service.

use std::collections::BTreeMap;
use std::path::Path;

use sha2::{Digest, Sha256};
use sqlx::sqlite::{SqliteConnectOptions, SqliteRow};
use sqlx::{AssertSqlSafe, ConnectOptions, Row, SqliteConnection};

use super::Server;

/// Tables that hold state: what a denied request must leave as it was.
pub(crate) const STATE_TABLES: [&str; 17] = [
    "agents",
    "api_keys",
    "file_locks",
    "lock_fences",
    "work_queue",
    "work_dependencies",
    "agent_sessions",
    "agent_status",
    "handoffs",
    "memories",
    // Where the full-text index keeps what it knows.
    "memories_fts_config",
    "memories_fts_data",
    "memories_fts_docsize",
    "memories_fts_idx",
    "components",
    "activations",
    "idempotency_keys",
];

/// Tables that grow with every decision, and the one of the migrations.
pub(crate) const RECORD_TABLES: [&str; 3] = ["audit_log", "guardrail_violations", "schema_migrations"];

/// A digest of every row of each state table.
pub(crate) type State = BTreeMap<&'static str, String>;

/// A row of the audit log, as far as tests look at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AuditLine {
    pub(crate) seq: i64,
    pub(crate) id: String,
    pub(crate) created_at: i64,
    pub(crate) request_id: String,
    pub(crate) agent_id: String,
    pub(crate) command: String,
    pub(crate) resource: String,
    pub(crate) trust_level: i64,
    pub(crate) decision: String,
    pub(crate) reason: String,
    pub(crate) outcome: String,
    pub(crate) result: String,
    pub(crate) changes: String,
}

/// A connection to the database file of a data folder.
pub(crate) async fn connect(data: &Path) -> SqliteConnection {
    let options = SqliteConnectOptions::new()
        .filename(data.join("portreeve.db"))
        .busy_timeout(std::time::Duration::from_secs(10));
    options.connect().await.unwrap()
}

/// One value of the database.
pub(crate) async fn scalar(conn: &mut SqliteConnection, sql: &str) -> i64 {
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(conn).await.unwrap()
}

/// Runs a statement, which may fail.
pub(crate) async fn execute(conn: &mut SqliteConnection, sql: &str) -> Result<u64, sqlx::Error> {
    sqlx::query(AssertSqlSafe(sql)).execute(conn).await.map(|done| done.rows_affected())
}

/// Names of the tables that there are. A virtual one has nothing but what its shadow tables hold.
pub(crate) async fn tables(conn: &mut SqliteConnection) -> Vec<String> {
    let sql = "SELECT name FROM pragma_table_list
               WHERE schema = 'main' AND type IN ('table', 'shadow') AND name NOT LIKE 'sqlite_%' ORDER BY name";
    sqlx::query_scalar(sql).fetch_all(conn).await.unwrap()
}

/// Every row of a table as text, ordered.
pub(crate) async fn rows(conn: &mut SqliteConnection, table: &str) -> Vec<String> {
    let columns: Vec<String> =
        sqlx::query_scalar("SELECT name FROM pragma_table_info(?1)").bind(table).fetch_all(&mut *conn).await.unwrap();
    // The bytes of a component are megabytes and named by their digest.
    let shown = |name: &String| if name == "bytes" { format!("length({name})") } else { format!("quote({name})") };
    let line = columns.iter().map(shown).collect::<Vec<_>>().join(" || ',' || ");
    let sql = format!("SELECT {line} AS line FROM {table} ORDER BY line");
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(conn).await.unwrap()
}

async fn digest(conn: &mut SqliteConnection, table: &str) -> String {
    let hash =
        rows(conn, table).await.iter().fold(Sha256::new(), |hash, row| hash.chain_update(row).chain_update("\n"));
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The digests of all state tables.
pub(crate) async fn state(conn: &mut SqliteConnection) -> State {
    let mut state = State::new();
    for table in STATE_TABLES {
        state.insert(table, digest(conn, table).await);
    }
    state
}

/// Rows of the log after a position, oldest first.
pub(crate) async fn audit_after(conn: &mut SqliteConnection, seq: i64) -> Vec<AuditLine> {
    let sql = "SELECT * FROM audit_log WHERE seq > ?1 ORDER BY seq";
    sqlx::query(sql).bind(seq).fetch_all(conn).await.unwrap().iter().map(line).collect()
}

fn line(row: &SqliteRow) -> AuditLine {
    let text = |column: &str| row.get::<String, _>(column);
    AuditLine {
        seq: row.get("seq"),
        id: text("id"),
        created_at: row.get("created_at"),
        request_id: text("request_id"),
        agent_id: text("agent_id"),
        command: text("command"),
        resource: text("resource"),
        trust_level: row.get("trust_level"),
        decision: text("decision"),
        reason: text("reason"),
        outcome: text("outcome"),
        result: text("result"),
        changes: text("changes"),
    }
}

impl Server {
    pub(crate) async fn db(&self) -> SqliteConnection {
        connect(self.data()).await
    }

    pub(crate) async fn state(&self) -> State {
        state(&mut self.db().await).await
    }

    /// The position of the newest row of the log.
    pub(crate) async fn last_seq(&self) -> i64 {
        scalar(&mut self.db().await, "SELECT coalesce(max(seq), 0) FROM audit_log").await
    }

    pub(crate) async fn audit_after(&self, seq: i64) -> Vec<AuditLine> {
        audit_after(&mut self.db().await, seq).await
    }

    /// The one row that was added after a position.
    pub(crate) async fn only_line_after(&self, seq: i64) -> AuditLine {
        let mut lines = self.audit_after(seq).await;
        assert_eq!(lines.len(), 1, "{lines:#?}");
        lines.remove(0)
    }
}

/// Tables that hold state and are in no list would go unwatched.
#[tokio::test(flavor = "multi_thread")]
async fn every_table_is_watched() {
    let server = Server::start().await;
    let known: Vec<String> = STATE_TABLES.iter().chain(&RECORD_TABLES).map(|name| (*name).to_owned()).collect();
    let mut known = known;
    known.sort();
    assert_eq!(tables(&mut server.db().await).await, known);
}

/// The digest has to be able to differ.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_moves_the_digest_of_its_table() {
    let server = Server::start().await;
    let agent = server.agent("a", "claude_code_remote").await;
    let before = server.state().await;
    agent.acquire("src/a.rs").await.done();
    let after = server.state().await;
    let moved: Vec<_> = STATE_TABLES.into_iter().filter(|table| before[table] != after[table]).collect();
    assert_eq!(moved, ["file_locks", "lock_fences"]);
}
