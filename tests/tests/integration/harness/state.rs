//! The database, looked at from beside the service.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection, SqliteConnection};

use super::{Server, postgres};

/// Tables that hold state: what a denied request must leave as it was.
const STATE_TABLES: [&str; 14] = [
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
    "components",
    "activations",
    "component_shadows",
    "idempotency_keys",
];

/// Where the embedded store's full-text index keeps what it knows.
const INDEX_TABLES: [&str; 4] =
    ["memories_fts_config", "memories_fts_data", "memories_fts_docsize", "memories_fts_idx"];

/// Tables that grow with every decision, and the one of the migrations.
pub(crate) const RECORD_TABLES: [&str; 3] = ["audit_log", "guardrail_violations", "schema_migrations"];

/// The tables of the backend that hold state.
pub(crate) fn state_tables(is_postgres: bool) -> Vec<&'static str> {
    let index: &[&str] = if is_postgres { &[] } else { &INDEX_TABLES };
    STATE_TABLES.iter().chain(index).copied().collect()
}

/// A digest of every row of each state table.
pub(crate) type State = BTreeMap<&'static str, String>;

/// A row of the audit log, as far as tests look at it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
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

/// A connection to the database of a service, past the service: of a file, or of a server as its superuser.
#[derive(Debug)]
pub(crate) enum Db {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

/// A connection to the database of a data folder.
pub(crate) async fn connect(data: &Path) -> Db {
    if let Some(database) = postgres::known(data) {
        return Db::Postgres(postgres::superuser(&database).await);
    }
    let options = SqliteConnectOptions::new()
        .filename(data.join("portreeve.db"))
        .busy_timeout(std::time::Duration::from_secs(10));
    Db::Sqlite(options.connect().await.unwrap())
}

impl Db {
    /// Closes the connection, so that nobody finds its locks.
    pub(crate) async fn close(self) {
        match self {
            Self::Sqlite(conn) => conn.close().await.unwrap(),
            Self::Postgres(conn) => conn.close().await.unwrap(),
        }
    }

    /// A column of texts.
    pub(crate) async fn texts(&mut self, sql: &str) -> Vec<String> {
        match self {
            Self::Sqlite(conn) => sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(conn).await.unwrap(),
            Self::Postgres(conn) => sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(conn).await.unwrap(),
        }
    }
}

/// One value of the database.
pub(crate) async fn scalar(db: &mut Db, sql: &str) -> i64 {
    match db {
        Db::Sqlite(conn) => sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(conn).await.unwrap(),
        Db::Postgres(conn) => sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(conn).await.unwrap(),
    }
}

/// Runs a statement, which may fail.
pub(crate) async fn execute(db: &mut Db, sql: &str) -> Result<u64, sqlx::Error> {
    match db {
        Db::Sqlite(conn) => sqlx::query(AssertSqlSafe(sql)).execute(conn).await.map(|done| done.rows_affected()),
        Db::Postgres(conn) => sqlx::query(AssertSqlSafe(sql)).execute(conn).await.map(|done| done.rows_affected()),
    }
}

/// A column of the database's times as microseconds since 1970.
pub(crate) fn micros(column: &str) -> String {
    if postgres::is_chosen() { format!("micros({column})") } else { column.to_owned() }
}

/// Switches off what a table insists on: whoever owns a database can.
pub(crate) async fn drop_guards(db: &mut Db, table: &str) {
    let sql = match db {
        Db::Sqlite(_) => {
            let named = format!("SELECT name FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = '{table}'");
            db.texts(&named).await.iter().map(|name| format!("DROP TRIGGER {name}")).collect::<Vec<_>>()
        }
        Db::Postgres(_) => vec![format!("ALTER TABLE {table} DISABLE TRIGGER USER")],
    };
    for sql in sql {
        execute(db, &sql).await.unwrap();
    }
}

/// Names of the tables that there are. A virtual one has nothing but what its shadow tables hold.
pub(crate) async fn tables(db: &mut Db) -> Vec<String> {
    let sql = match db {
        Db::Sqlite(_) => {
            "SELECT name FROM pragma_table_list
             WHERE schema = 'main' AND type IN ('table', 'shadow') AND name NOT LIKE 'sqlite_%' ORDER BY name"
        }
        Db::Postgres(_) => "SELECT tablename::text FROM pg_tables WHERE schemaname = 'portreeve' ORDER BY tablename",
    };
    let mut names = db.texts(sql).await;
    names.sort();
    names
}

/// Every row of a table as text, ordered.
pub(crate) async fn rows(db: &mut Db, table: &str) -> Vec<String> {
    // The bytes of a component are megabytes and named by their digest.
    let sql = match db {
        Db::Sqlite(_) => {
            let columns = db.texts(&format!("SELECT name FROM pragma_table_info('{table}')")).await;
            let shown =
                |name: &String| if name == "bytes" { format!("length({name})") } else { format!("quote({name})") };
            let line = columns.iter().map(shown).collect::<Vec<_>>().join(" || ',' || ");
            format!("SELECT {line} AS line FROM {table} ORDER BY line")
        }
        Db::Postgres(_) => format!("SELECT (to_jsonb(t) - 'bytes')::text AS line FROM {table} t ORDER BY line"),
    };
    db.texts(&sql).await
}

async fn digest(db: &mut Db, table: &str) -> String {
    let hash = rows(db, table).await.iter().fold(Sha256::new(), |hash, row| hash.chain_update(row).chain_update("\n"));
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The digests of all state tables.
pub(crate) async fn state(db: &mut Db) -> State {
    let mut state = State::new();
    for table in state_tables(matches!(db, Db::Postgres(_))) {
        state.insert(table, digest(db, table).await);
    }
    state
}

/// What a row of the log says, in its own columns' names. Texts that hold JSON are as they are stored.
pub(crate) async fn audit_json(db: &mut Db, seq: i64) -> Vec<Value> {
    match db {
        Db::Sqlite(conn) => {
            let names = sqlx::query_scalar("SELECT name FROM pragma_table_info('audit_log') WHERE name <> 'leaf_hash'");
            let names: Vec<String> = names.fetch_all(&mut *conn).await.unwrap();
            let fields = names.iter().map(|name| format!("'{name}', {name}")).collect::<Vec<_>>().join(", ");
            let sql = format!("SELECT json_object({fields}) FROM audit_log WHERE seq > ?1 ORDER BY seq");
            let lines: Vec<String> = sqlx::query_scalar(AssertSqlSafe(sql)).bind(seq).fetch_all(conn).await.unwrap();
            lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
        }
        // The numbers that rows get a moment later are those of this order; a test of its own shows that.
        Db::Postgres(conn) => {
            let sql = "SELECT line::text FROM (
                           SELECT row_number() OVER (ORDER BY l.xact, l.id) AS seq, row_to_json(l) AS line FROM audit_log l
                       ) s WHERE seq > $1 ORDER BY seq";
            let lines: Vec<String> = sqlx::query_scalar(sql).bind(seq).fetch_all(conn).await.unwrap();
            (seq + 1..).zip(lines).map(|(seq, line)| postgres_line(seq, &line)).collect()
        }
    }
}

/// A row as the other backend would have it: JSON as canonical text, times as microseconds.
fn postgres_line(seq: i64, line: &str) -> Value {
    let mut line: Value = serde_json::from_str(line).unwrap();
    line["seq"] = json!(seq);
    line["changes"] = json!(line["changes"].to_string());
    let result: Value = serde_json::from_str(line["result"].as_str().unwrap()).unwrap();
    line["result"] = json!(result.to_string());
    let created_at = portreeve::clock::Time::parse(line["created_at"].as_str().unwrap()).unwrap();
    line["created_at"] = json!(created_at.as_micros());
    line
}

/// Rows of the log after a position, oldest first.
pub(crate) async fn audit_after(db: &mut Db, seq: i64) -> Vec<AuditLine> {
    audit_json(db, seq).await.into_iter().map(|line| serde_json::from_value(line).unwrap()).collect()
}

impl Server {
    pub(crate) async fn db(&self) -> Db {
        connect(self.data()).await
    }

    pub(crate) async fn state(&self) -> State {
        state(&mut self.db().await).await
    }

    /// The position of the newest row of the log.
    pub(crate) async fn last_seq(&self) -> i64 {
        let mut db = self.db().await;
        let newest = if matches!(db, Db::Postgres(_)) { "count(*)" } else { "coalesce(max(seq), 0)" };
        scalar(&mut db, &format!("SELECT {newest} FROM audit_log")).await
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
    // The numbers of the log's rows, where they are no column of it; and which store was moved there.
    let more: &[&str] = if postgres::is_chosen() { &["audit_seq", "store_moves"] } else { &[] };
    let known = state_tables(postgres::is_chosen()).into_iter().chain(RECORD_TABLES).chain(more.iter().copied());
    let mut known: Vec<String> = known.map(str::to_owned).collect();
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
    let moved: Vec<_> =
        state_tables(postgres::is_chosen()).into_iter().filter(|table| before[table] != after[table]).collect();
    assert_eq!(moved, ["file_locks", "lock_fences"]);
}
