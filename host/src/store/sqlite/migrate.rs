//! Brings a database to the schema that this program knows, and refuses what it does not know.

use sha2::{Digest, Sha256};
use sqlx::{Connection, Row, SqliteConnection};

use crate::clock::Time;
use crate::store::StoreError;

/// A migration that the program carries.
struct Migration {
    version: i64,
    name: &'static str,
    sql: &'static str,
}

/// All of them, in order. Each has a twin of the same number and name in `migrations/postgres`.
const MIGRATIONS: &[Migration] = &[
    Migration {
        version: 1,
        name: "coordination",
        sql: include_str!("../../../../migrations/sqlite/0001_coordination.sql"),
    },
    Migration {
        version: 2,
        name: "sessions_and_memories",
        sql: include_str!("../../../../migrations/sqlite/0002_sessions_and_memories.sql"),
    },
    Migration { version: 3, name: "gate", sql: include_str!("../../../../migrations/sqlite/0003_gate.sql") },
    Migration {
        version: 4,
        name: "components",
        sql: include_str!("../../../../migrations/sqlite/0004_components.sql"),
    },
];

const TABLE: &str = "CREATE TABLE IF NOT EXISTS schema_migrations (
    version    INTEGER NOT NULL PRIMARY KEY,
    name       TEXT    NOT NULL,
    checksum   BLOB    NOT NULL,
    applied_at INTEGER NOT NULL
) STRICT";

/// Applies what is missing, each migration in a transaction of its own.
///
/// # Errors
/// When the file is of a newer program, was migrated by an edited migration, or a statement fails.
pub(in crate::store) async fn migrate(conn: &mut SqliteConnection, now: Time) -> Result<(), StoreError> {
    sqlx::raw_sql(TABLE).execute(&mut *conn).await?;
    let applied = applied(conn).await?;
    let known = MIGRATIONS.last().map_or(0, |last| last.version);
    if let Some(found) = applied.iter().map(|(version, _)| *version).max().filter(|found| *found > known) {
        return Err(StoreError::Newer { found, known });
    }
    for migration in MIGRATIONS {
        let checksum = Sha256::digest(migration.sql.as_bytes()).to_vec();
        match applied.iter().find(|(version, _)| *version == migration.version) {
            None => apply(conn, migration, checksum, now).await?,
            Some((_, before)) if *before == checksum => {}
            Some(_) => {
                return Err(StoreError::Edited { version: migration.version, name: migration.name.to_owned() });
            }
        }
    }
    Ok(())
}

/// A file with tables but without ours is somebody else's database.
pub(super) async fn check_application(conn: &mut SqliteConnection) -> Result<(), StoreError> {
    let count = "SELECT count(*) AS tables, coalesce(sum(name = 'schema_migrations'), 0) AS ours
                 FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'";
    let row = sqlx::query(count).fetch_one(conn).await?;
    let (tables, ours): (i64, i64) = (row.try_get("tables")?, row.try_get("ours")?);
    if tables > 0 && ours == 0 {
        return Err(StoreError::Damaged("the file is a database of another program"));
    }
    Ok(())
}

/// Refuses a file whose store moves to a database, or moved there.
pub(super) async fn check_stays(conn: &mut SqliteConnection) -> Result<(), StoreError> {
    let closed = closed_by_move(conn).await?;
    closed.map_or(Ok(()), |(is_finished, since)| Err(StoreError::Moved { is_finished, since }))
}

/// Whether a move closed the file, and if so whether it is finished, and since when the file is closed.
pub(in crate::store) async fn closed_by_move(conn: &mut SqliteConnection) -> Result<Option<(bool, Time)>, StoreError> {
    let sql = "SELECT max(name = 'audit_log_moved') FROM sqlite_schema
               WHERE type = 'trigger' AND name IN ('audit_log_moves', 'audit_log_moved')";
    let Some(is_finished) = sqlx::query_scalar(sql).fetch_one(&mut *conn).await? else { return Ok(None) };
    let since: i64 = sqlx::query_scalar("SELECT started_at FROM store_move LIMIT 1").fetch_one(conn).await?;
    Ok(Some((is_finished, Time::from_micros(since))))
}

async fn applied(conn: &mut SqliteConnection) -> Result<Vec<(i64, Vec<u8>)>, StoreError> {
    let rows = sqlx::query("SELECT version, checksum FROM schema_migrations ORDER BY version").fetch_all(conn).await?;
    rows.iter().map(|row| Ok((row.try_get("version")?, row.try_get("checksum")?))).collect()
}

async fn apply(
    conn: &mut SqliteConnection,
    migration: &'static Migration,
    checksum: Vec<u8>,
    now: Time,
) -> Result<(), StoreError> {
    let mut tx = conn.begin_with("BEGIN IMMEDIATE").await?;
    // Another process may have applied it while this one waited for the lock.
    let done: i64 = sqlx::query_scalar("SELECT count(*) FROM schema_migrations WHERE version = ?1")
        .bind(migration.version)
        .fetch_one(&mut *tx)
        .await?;
    if done == 0 {
        sqlx::raw_sql(migration.sql).execute(&mut *tx).await?;
        sqlx::query("INSERT INTO schema_migrations (version, name, checksum, applied_at) VALUES (?1, ?2, ?3, ?4)")
            .bind(migration.version)
            .bind(migration.name)
            .bind(checksum)
            .bind(now.as_micros())
            .execute(&mut *tx)
            .await?;
    }
    tx.commit().await?;
    Ok(())
}
