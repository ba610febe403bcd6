//! Moving an embedded store to PostgreSQL: the log as it is, to the last hash, and everything else.
//!
//! The file is closed for writing first, by a trigger that refuses every row of the log and so every change: a service
//! that still runs on it is stopped by it as well. From then on the file stays as it is, and a move that broke off goes
//! on where it was. The log is copied in transactions of some hundred rows, each verified before and after; then the
//! whole of it is verified once more, and the rest follows in one transaction, with the mark that the move is finished.
//! Until then nobody serves the database; afterwards nobody serves the file.

mod lines;
mod log;
mod tables;

use std::path::Path;

use serde::Serialize;
use sha2::{Digest, Sha256};
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Row, SqliteConnection};

use super::audit::hex;
use super::{StoreError, postgres, sqlite};
use crate::clock::Time;
use tables::STATE;

/// Closes a file. SQLite takes no parameters in a trigger, and needs none here.
const CLOSE: &str = "CREATE TRIGGER IF NOT EXISTS audit_log_moves BEFORE INSERT ON audit_log
                     BEGIN SELECT RAISE(ABORT, 'this store moves to another database'); END";
/// Marks a file whose move is finished: that one is not opened again, and does not move a second time.
const CLOSE_FOR_GOOD: &str = "CREATE TRIGGER IF NOT EXISTS audit_log_moved BEFORE INSERT ON audit_log
                              BEGIN SELECT RAISE(ABORT, 'this store moved to another database'); END";
const OPEN_AGAIN: &str = "DROP TRIGGER IF EXISTS audit_log_moves";

const BEGUN: &str = "SELECT m.source, m.finished_at IS NOT NULL AS is_finished FROM portreeve.store_moves m
                     WHERE m.workspace = portreeve.current_workspace()";
const BEGIN: &str = "INSERT INTO portreeve.store_moves (workspace, source, rows)
                     VALUES (portreeve.current_workspace(), $1, $2)
                     ON CONFLICT (workspace) DO UPDATE SET source = excluded.source, rows = excluded.rows,
                         started_at = excluded.started_at";
const FINISH: &str = "UPDATE portreeve.store_moves SET finished_at = now()
                      WHERE workspace = portreeve.current_workspace()";
const FORGET: &str = "DELETE FROM portreeve.store_moves WHERE workspace = portreeve.current_workspace()";
const USED: &str = "SELECT EXISTS (SELECT 1 FROM portreeve.audit_log l
                                   WHERE l.workspace = portreeve.current_workspace())
                        OR EXISTS (SELECT 1 FROM portreeve.agents a
                                   WHERE a.workspace = portreeve.current_workspace() AND a.agent_id <> 'system')";

/// How far a move is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// So many rows of the log are there, of so many.
    Log(u64, u64),
    /// So many of them were verified once more.
    Verified(u64, u64),
    /// The log is there; the tables follow.
    State,
}

/// Is told of each step.
pub type Progress<'a> = &'a mut (dyn FnMut(Step) + Send);

/// What moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Moved {
    /// Rows of the audit log.
    pub log_rows: u64,
    /// Of which so many were there before.
    pub log_rows_before: u64,
    /// Rows of each other table.
    pub tables: Vec<(&'static str, u64)>,
    /// It was all there before.
    pub was_finished: bool,
}

/// What became of a move that was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Abandoned {
    /// The file was closed, and is open again.
    pub was_closed: bool,
    /// Rows of the log that had moved. They stay in the database, which takes no other store any more.
    pub log_rows: u64,
}

/// What tells a log from others: its length, and a digest over that and its last hash.
struct Identity {
    rows: i64,
    name: String,
}

/// A move that a database knows of.
struct Begun {
    source: String,
    is_finished: bool,
}

fn unsigned(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}

/// Moves the store in `file` to a database that `portreeve migrate` prepared and nobody served.
///
/// # Errors
/// When the file cannot be read, is damaged, or its log does not verify; when the database is not empty, is half of
/// another store, or this login may not act as its owner. What was moved stays for the next attempt.
pub async fn move_store(
    file: &Path,
    to: &postgres::Options,
    now: Time,
    progress: Progress<'_>,
) -> Result<Moved, StoreError> {
    let mut target = postgres::owner(to).await?;
    let mut source = sqlite::open_to_move(file, now).await?;
    let was_finished = begin(&mut source, &mut target).await?;
    let rows = identify(&mut source).await?.rows;
    let before = log::moved(&mut target).await?;
    let tables = if was_finished {
        counts(&mut source).await?
    } else {
        log::copy(&mut source, &mut target, rows, progress).await?;
        log::verify(&mut source, &mut target, rows, progress).await?;
        progress(Step::State);
        copy_state(&mut source, &mut target).await?
    };
    sqlx::raw_sql(CLOSE_FOR_GOOD).execute(&mut source).await?;
    drop(target.close().await);
    source.close().await?;
    Ok(Moved { log_rows: unsigned(rows), log_rows_before: unsigned(before), tables, was_finished })
}

/// Opens a file for service again whose move was not finished, and will not be.
///
/// # Errors
/// When the move is finished: then the database is the store. When either cannot be used.
pub async fn abandon(file: &Path, to: &postgres::Options, now: Time) -> Result<Abandoned, StoreError> {
    let mut target = postgres::owner(to).await?;
    let mut source = sqlite::open_to_move(file, now).await?;
    let closed = sqlite::closed_by_move(&mut source).await?;
    let name = identify(&mut source).await?.name;
    let begun = begun(&mut target).await?.filter(|begun| begun.source == name);
    if closed == Some(true) || begun.as_ref().is_some_and(|begun| begun.is_finished) {
        return Err(StoreError::Moved { is_finished: true });
    }
    let mut log_rows = 0;
    if begun.is_some() {
        log_rows = log::moved(&mut target).await?;
        sqlx::raw_sql(FORGET).execute(&mut target).await?;
    }
    sqlx::raw_sql(OPEN_AGAIN).execute(&mut source).await?;
    drop(target.close().await);
    source.close().await?;
    Ok(Abandoned { was_closed: closed.is_some(), log_rows: unsigned(log_rows) })
}

/// Closes the file and writes down there what moves; whether that is finished already. The one commits inside the
/// other, so that a closed file is always known to a database.
async fn begin(source: &mut SqliteConnection, target: &mut PgConnection) -> Result<bool, StoreError> {
    let closed = sqlite::closed_by_move(source).await?;
    let mut closing = source.begin_with("BEGIN IMMEDIATE").await?;
    sqlx::raw_sql(CLOSE).execute(&mut *closing).await?;
    let log = identify(&mut closing).await?;
    let is_finished = match begun(target).await? {
        Some(begun) if begun.source == log.name => begun.is_finished,
        _ if closed == Some(true) => return Err(StoreError::Moved { is_finished: true }),
        // Another store may have been about to begin: as long as nothing of it is there, this one may.
        _ => {
            if sqlx::query_scalar(USED).fetch_one(&mut *target).await? {
                return Err(StoreError::NotEmpty);
            }
            sqlx::query(BEGIN).bind(&log.name).bind(log.rows).execute(target).await?;
            false
        }
    };
    closing.commit().await?;
    Ok(is_finished)
}

async fn begun(target: &mut PgConnection) -> Result<Option<Begun>, StoreError> {
    let row = sqlx::query(BEGUN).fetch_optional(target).await?;
    row.map(|row| Ok(Begun { source: row.try_get("source")?, is_finished: row.try_get("is_finished")? })).transpose()
}

async fn identify(source: &mut SqliteConnection) -> Result<Identity, StoreError> {
    let sql = "SELECT seq, leaf_hash FROM audit_log ORDER BY seq DESC LIMIT 1";
    let Some(row) = sqlx::query(sql).fetch_optional(source).await? else {
        return Err(StoreError::Damaged("its audit log is empty: there is nothing to move"));
    };
    let (rows, last): (i64, Vec<u8>) = (row.try_get("seq")?, row.try_get("leaf_hash")?);
    let name = hex(&Sha256::new().chain_update(rows.to_be_bytes()).chain_update(last).finalize());
    Ok(Identity { rows, name })
}

async fn counts(source: &mut SqliteConnection) -> Result<Vec<(&'static str, u64)>, StoreError> {
    let mut counts = Vec::with_capacity(STATE.len());
    for table in STATE {
        counts.push((table.name, unsigned(table.count(source).await?)));
    }
    Ok(counts)
}

/// Everything but the log, and the mark that the move is finished: all of it or nothing.
async fn copy_state(
    source: &mut SqliteConnection,
    target: &mut PgConnection,
) -> Result<Vec<(&'static str, u64)>, StoreError> {
    let mut tx = target.begin().await?;
    // Whoever is about to write waits, and is found below if they came before.
    sqlx::raw_sql("LOCK TABLE portreeve.audit_log IN SHARE MODE").execute(&mut *tx).await?;
    log::complete(source, &mut tx).await?;
    let mut moved = Vec::with_capacity(STATE.len());
    for table in STATE {
        table.guards(&mut tx, false).await?;
    }
    // The service's own agent came with the schema; the one that moves is the same, with a history.
    sqlx::raw_sql("DELETE FROM portreeve.agents WHERE agent_id = 'system'").execute(&mut *tx).await?;
    for table in STATE {
        let copied = table.copy(source, &mut tx).await?;
        if table.count(source).await? != copied || table.count_there(&mut tx).await? != copied {
            return Err(StoreError::Incomplete { table: table.name });
        }
        moved.push((table.name, unsigned(copied)));
    }
    for table in STATE {
        table.guards(&mut tx, true).await?;
    }
    for sql in tables::COUNTERS {
        sqlx::raw_sql(sql).execute(&mut *tx).await?;
    }
    sqlx::raw_sql(FINISH).execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(moved)
}
