//! Every table of the file, with every column of it. A table that is missing here would stay behind; a test looks.

use futures::TryStreamExt;
use sqlx::postgres::PgConnection;
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, Row, SqliteConnection};

use super::lines::Holds::{Bytes, Details, Document, Flag, Int, Real, Searched, Text, Texts, Time, Uuid, Words};
use super::lines::{Column, Values, insert};
use crate::domain::memory::Content;
use crate::store::{StoreError, postgres};

/// Rows that are sent at once, if they are small.
const LINES_MAX: usize = 500;
/// Most bytes that are sent at once, but for the last row of them.
const BYTES_MAX: usize = 4 << 20;

/// Microseconds of an hour.
const HOUR: i64 = 3_600_000_000;

/// What only the database has of a table, and how it follows from a row of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Derived {
    Nothing,
    /// A row's place in the order of the log, before all that will be written there.
    Order,
    /// The details of a memory in the order in which they are compared there, when it was made, to the hour, and the
    /// words that it is found by.
    Memory,
}

impl Derived {
    const fn columns(self) -> &'static [Column] {
        match self {
            Self::Nothing => &[],
            Self::Order => &[("xact", Int)],
            Self::Memory => &[("details", Details), ("hour_slot", Int), ("word_lists", Searched), ("words", Words)],
        }
    }

    fn read(self, row: &SqliteRow, rows: i64, values: &mut [Values]) -> Result<(), StoreError> {
        match (self, values) {
            (Self::Order, [Values::Ints(xact)]) => {
                xact.push(Some(row.try_get::<i64, _>("seq")?.saturating_sub(rows)));
            }
            (
                Self::Memory,
                [Values::Texts(details), Values::Ints(hours), Values::Texts(lists), Values::Texts(words)],
            ) => {
                let content = content(row)?;
                let found_by = postgres::word_lists(&row.try_get::<String, _>("summary")?, &content);
                details.push(postgres::details_text(&content));
                hours.push(row.try_get::<i64, _>("created_at")?.checked_div(HOUR));
                lists.push(Some(found_by.clone()));
                words.push(Some(found_by));
            }
            _ => {}
        }
        Ok(())
    }
}

/// What a memory holds, as far as the database has it otherwise than the file.
fn content(row: &SqliteRow) -> Result<Content, StoreError> {
    let (lessons, tags): (String, String) = (row.try_get("lessons")?, row.try_get("tags")?);
    let details: Option<String> = row.try_get("details")?;
    let unreadable = |_| StoreError::Damaged("a memory's lessons, tags or details are not what they should be");
    Ok(Content {
        details: details.map(|text| serde_json::from_str(&text)).transpose().map_err(unreadable)?,
        outcome: None,
        lessons: serde_json::from_str(&lessons).map_err(unreadable)?,
        tags: serde_json::from_str(&tags).map_err(unreadable)?,
    })
}

/// A table of both.
#[derive(Debug, Clone, Copy)]
pub(super) struct Table {
    pub(super) name: &'static str,
    columns: &'static [Column],
    derived: Derived,
}

/// Rows that wait to be written.
struct Lines {
    values: Vec<Values>,
    derived: Vec<Values>,
    count: usize,
    bytes: usize,
}

impl Table {
    const fn new(name: &'static str, columns: &'static [Column]) -> Self {
        Self { name, columns, derived: Derived::Nothing }
    }

    const fn with(self, derived: Derived) -> Self {
        Self { derived, ..self }
    }

    fn lines(&self) -> Lines {
        let of = |columns: &[Column]| columns.iter().map(|(_, holds)| Values::of(*holds)).collect();
        Lines { values: of(self.columns), derived: of(self.derived.columns()), count: 0, bytes: 0 }
    }

    fn read(&self, row: &SqliteRow, rows: i64, lines: &mut Lines) -> Result<(), StoreError> {
        for ((name, _), values) in self.columns.iter().zip(&mut lines.values) {
            lines.bytes = lines.bytes.saturating_add(values.read(row, name)?);
        }
        self.derived.read(row, rows, &mut lines.derived)?;
        lines.count = lines.count.saturating_add(1);
        Ok(())
    }

    /// Writes lines. How many rows that came to is held against how many it should.
    async fn write(&self, target: &mut PgConnection, lines: Lines) -> Result<(), StoreError> {
        let sql = insert(self.name, self.columns.iter().chain(self.derived.columns()));
        let values = lines.values.into_iter().chain(lines.derived);
        let query = values.fold(sqlx::query(AssertSqlSafe(sql)), |query, values| values.bind(query));
        let written = query.execute(target).await?.rows_affected();
        if usize::try_from(written).is_ok_and(|written| written == lines.count) {
            return Ok(());
        }
        Err(StoreError::Incomplete { table: self.name })
    }

    /// Copies the rows that belong to a part of the log, which has so many rows in all.
    pub(super) async fn copy_part(
        &self,
        source: &mut SqliteConnection,
        target: &mut PgConnection,
        (after, until, rows): (i64, i64, i64),
    ) -> Result<(), StoreError> {
        let part = if self.derived == Derived::Order {
            "seq > ?1 AND seq <= ?2 ORDER BY seq"
        } else {
            "audit_id IN (SELECT id FROM audit_log WHERE seq > ?1 AND seq <= ?2)"
        };
        let sql = format!("SELECT * FROM {} WHERE {part}", self.name);
        let mut found = sqlx::query(AssertSqlSafe(sql)).bind(after).bind(until).fetch(source);
        let mut lines = self.lines();
        while let Some(row) = found.try_next().await? {
            self.read(&row, rows, &mut lines)?;
            if lines.bytes > BYTES_MAX {
                self.write(target, std::mem::replace(&mut lines, self.lines())).await?;
            }
        }
        if lines.count > 0 { self.write(target, lines).await } else { Ok(()) }
    }

    /// Copies all rows; how many.
    pub(super) async fn copy(
        &self,
        source: &mut SqliteConnection,
        target: &mut PgConnection,
    ) -> Result<i64, StoreError> {
        let sql = format!("SELECT * FROM {}", self.name);
        let mut found = sqlx::query(AssertSqlSafe(sql)).fetch(source);
        let (mut lines, mut count) = (self.lines(), 0_i64);
        while let Some(row) = found.try_next().await? {
            self.read(&row, 0, &mut lines)?;
            count = count.saturating_add(1);
            if lines.count >= LINES_MAX || lines.bytes > BYTES_MAX {
                self.write(target, std::mem::replace(&mut lines, self.lines())).await?;
            }
        }
        if lines.count > 0 {
            self.write(target, lines).await?;
        }
        Ok(count)
    }

    /// How many rows it has in the file.
    pub(super) async fn count(&self, source: &mut SqliteConnection) -> Result<i64, StoreError> {
        let sql = format!("SELECT count(*) FROM {}", self.name);
        Ok(sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(source).await?)
    }

    /// How many it has in the database.
    pub(super) async fn count_there(&self, target: &mut PgConnection) -> Result<i64, StoreError> {
        let sql =
            format!("SELECT count(*) FROM portreeve.{} WHERE workspace = portreeve.current_workspace()", self.name);
        Ok(sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(target).await?)
    }

    /// Takes the guards away from the database's table for what is left of the transaction, or puts them back.
    pub(super) async fn guards(&self, target: &mut PgConnection, stand: bool) -> Result<(), StoreError> {
        let verb = if stand { "ENABLE" } else { "DISABLE" };
        let sql = format!("ALTER TABLE portreeve.{} {verb} TRIGGER USER", self.name);
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(target).await?;
        Ok(())
    }
}

/// The log. Its `seq` and `leaf_hash` go into a table of their own there.
pub(super) const LOG: Table = Table::new(
    "audit_log",
    &[
        ("id", Uuid),
        ("created_at", Time),
        ("request_id", Text),
        ("agent_id", Text),
        ("agent_type", Text),
        ("profile", Text),
        ("trust_level", Int),
        ("command", Text),
        ("operation", Text),
        ("resource", Text),
        ("parameters", Text),
        ("request", Text),
        ("decision", Text),
        ("reason", Text),
        ("detail", Text),
        ("engine", Text),
        ("deciding", Text),
        ("violations", Text),
        ("obligations", Text),
        ("component", Text),
        ("epoch", Int),
        ("facts_version", Int),
        ("fuel", Int),
        ("outcome", Text),
        ("result", Text),
        ("changes", Searched),
        ("duration_us", Int),
    ],
)
.with(Derived::Order);

/// What belongs to rows of the log.
pub(super) const VIOLATIONS: Table = Table::new(
    "guardrail_violations",
    &[
        ("audit_id", Uuid),
        ("position", Int),
        ("agent_id", Text),
        ("trust_level", Int),
        ("pattern_name", Text),
        ("category", Text),
        ("severity", Text),
        ("min_trust", Int),
        ("label", Text),
        ("matched_text", Text),
        ("passed_by_trust", Flag),
        ("blocked", Flag),
        ("created_at", Time),
    ],
);

/// Everything else, each table after those that it refers to.
pub(super) const STATE: &[Table] = &[
    Table::new(
        "agents",
        &[
            ("agent_id", Text),
            ("agent_type", Text),
            ("profile", Text),
            ("archetype", Text),
            ("suspended_at", Time),
            ("suspended_reason", Text),
            ("facts_version", Int),
            ("created_at", Time),
            ("created_by", Text),
        ],
    ),
    Table::new(
        "api_keys",
        &[
            ("key_id", Uuid),
            ("agent_id", Text),
            ("lookup", Bytes),
            ("key_hash", Bytes),
            ("label", Text),
            ("created_at", Time),
            ("created_by", Text),
            ("revoked_at", Time),
            ("revoked_by", Text),
        ],
    ),
    Table::new(
        "file_locks",
        &[
            ("lock_key", Text),
            ("agent_id", Text),
            ("agent_type", Text),
            ("session_id", Text),
            ("reason", Text),
            ("fencing_token", Int),
            ("locked_at", Time),
            ("expires_at", Time),
            ("refreshed_at", Time),
        ],
    ),
    Table::new("lock_fences", &[("lock_key", Text), ("last_token", Int)]),
    Table::new(
        "work_queue",
        &[
            ("task_id", Uuid),
            ("submit_order", Int),
            ("task_type", Text),
            ("description", Text),
            ("input_data", Document),
            ("priority", Int),
            ("status", Text),
            ("submitted_by", Text),
            ("required_archetype", Text),
            ("required_trust", Int),
            ("max_attempts", Int),
            ("attempt_count", Int),
            ("open_dependencies", Int),
            ("deadline", Time),
            ("claimed_by", Text),
            ("claimed_at", Time),
            ("claim_token", Text),
            ("lease_expires_at", Time),
            ("result", Document),
            ("error_message", Text),
            ("created_at", Time),
            ("completed_at", Time),
            ("heartbeat_at", Time),
        ],
    ),
    Table::new("work_dependencies", &[("task_id", Uuid), ("depends_on", Uuid)]),
    Table::new(
        "components",
        &[
            ("digest", Text),
            ("bytes", Bytes),
            ("manifest", Document),
            ("stored_at", Time),
            ("stored_by", Text),
            ("signed_by", Text),
            ("signed_version", Int),
        ],
    ),
    Table::new("activations", &[("epoch", Int), ("digest", Text), ("activated_at", Time), ("activated_by", Text)]),
    Table::new("component_shadows", &[("choice", Int), ("digest", Text), ("chosen_at", Time), ("chosen_by", Text)]),
    Table::new(
        "agent_sessions",
        &[
            ("session_id", Text),
            ("agent_id", Text),
            ("agent_type", Text),
            ("capabilities", Texts),
            ("current_task", Text),
            ("started_at", Time),
            ("last_heartbeat", Time),
            ("ended_at", Time),
        ],
    ),
    Table::new(
        "agent_status",
        &[
            ("agent_id", Text),
            ("session_id", Text),
            ("phase", Text),
            ("message", Text),
            ("needs_human", Flag),
            ("event_type", Text),
            ("change_id", Text),
            ("metadata", Document),
            ("urgency", Text),
            ("report_count", Int),
            ("reported_at", Time),
        ],
    ),
    Table::new(
        "handoffs",
        &[
            ("write_order", Int),
            ("handoff_id", Uuid),
            ("agent_id", Text),
            ("session_id", Text),
            ("summary", Text),
            ("completed_work", Texts),
            ("in_progress", Texts),
            ("decisions", Texts),
            ("next_steps", Texts),
            ("relevant_files", Texts),
            ("created_at", Time),
        ],
    ),
    Table::new(
        "memories",
        &[
            ("entry", Int),
            ("memory_id", Uuid),
            ("agent_id", Text),
            ("session_id", Text),
            ("event_type", Text),
            ("summary", Text),
            ("summary_hash", Bytes),
            ("outcome", Text),
            ("lessons", Texts),
            ("tags", Texts),
            ("score", Real),
            ("ranks_at", Time),
            ("merge_count", Int),
            ("created_at", Time),
        ],
    )
    .with(Derived::Memory),
    Table::new(
        "idempotency_keys",
        &[
            ("agent_id", Text),
            ("key", Text),
            ("request_hash", Bytes),
            ("status", Int),
            ("body", Text),
            ("audit_id", Uuid),
            ("created_at", Time),
        ],
    ),
];

/// Numbers that the database gives go on after those that moved. Other workspaces may have taken some of them already.
pub(super) const COUNTERS: [&str; 3] = [
    "SELECT setval(s::regclass, greatest(nextval(s::regclass), (SELECT max(submit_order) FROM portreeve.work_queue)))
     FROM pg_get_serial_sequence('portreeve.work_queue', 'submit_order') AS t (s)",
    "SELECT setval(s::regclass, greatest(nextval(s::regclass), (SELECT max(write_order) FROM portreeve.handoffs)))
     FROM pg_get_serial_sequence('portreeve.handoffs', 'write_order') AS t (s)",
    "SELECT setval(s::regclass, greatest(nextval(s::regclass), (SELECT max(entry) FROM portreeve.memories)))
     FROM pg_get_serial_sequence('portreeve.memories', 'entry') AS t (s)",
];

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use sqlx::Connection;

    use super::*;
    use crate::store::sqlite;

    /// Tables of the file that do not move: the program's own, and the index of memories' words.
    const STAY: [&str; 5] =
        ["schema_migrations", "memories_fts_config", "memories_fts_data", "memories_fts_docsize", "memories_fts_idx"];

    #[tokio::test]
    async fn every_table_moves_with_every_column() {
        let mut file = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        sqlite::migrate_file(&mut file, crate::clock::Time::from_micros(0)).await.unwrap();
        let sql = "SELECT t.name AS tab, c.name AS col FROM sqlite_schema t JOIN pragma_table_info(t.name) c
                   WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite_%' AND t.sql NOT LIKE 'CREATE VIRTUAL%'";
        let mut there = BTreeMap::<String, BTreeSet<String>>::new();
        for row in sqlx::query(sql).fetch_all(&mut file).await.unwrap() {
            there.entry(row.get("tab")).or_default().insert(row.get("col"));
        }
        there.retain(|table, _| !STAY.contains(&table.as_str()));
        let moves = |table: &Table| {
            // These two are in `audit_seq` there.
            let numbers: &[&str] = if table.name == "audit_log" { &["seq", "leaf_hash"] } else { &[] };
            let columns = table.columns.iter().map(|(name, _)| *name).chain(numbers.iter().copied());
            let derived = table.derived.columns().iter().map(|(name, _)| *name);
            let derived = derived.filter(|name| there.get(table.name).is_some_and(|all| all.contains(*name)));
            (table.name.to_owned(), columns.chain(derived).map(str::to_owned).collect::<BTreeSet<_>>())
        };
        let moved: BTreeMap<_, _> = STATE.iter().chain([&LOG, &VIOLATIONS]).map(moves).collect();
        assert_eq!(moved, there);
    }
}
