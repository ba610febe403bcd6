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
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Row, SqliteConnection};

use super::{StoreError, postgres, sqlite};
use crate::clock::Time;
use tables::STATE;

/// What the triggers that close a file begin with, and nothing else that goes wrong with one.
const CLOSED: &str = "this store move";
/// Closes a file. SQLite takes no parameters in a trigger, and needs none here.
const CLOSE: &str = "CREATE TRIGGER IF NOT EXISTS audit_log_moves BEFORE INSERT ON audit_log
                     BEGIN SELECT RAISE(ABORT, 'this store moves to another database'); END";
/// Marks a file whose move is finished: that one is not opened again, and does not move a second time.
const CLOSE_FOR_GOOD: &str = "CREATE TRIGGER IF NOT EXISTS audit_log_moved BEFORE INSERT ON audit_log
                              BEGIN SELECT RAISE(ABORT, 'this store moved to another database'); END";
const OPEN_AGAIN: &str = "DROP TRIGGER IF EXISTS audit_log_moves; DROP TABLE IF EXISTS store_move";

/// Which move it is that closes the file, and since when. In a table of its own, which only files that move have.
const NAME: &str = "CREATE TABLE IF NOT EXISTS store_move (move_id TEXT NOT NULL, started_at INTEGER NOT NULL)";

const BEGUN: &str = "SELECT m.move_id, m.finished_at IS NOT NULL AS is_finished FROM portreeve.store_moves m
                     WHERE m.workspace = portreeve.current_workspace()";
const BEGIN: &str = "INSERT INTO portreeve.store_moves (workspace, move_id, rows)
                     VALUES (portreeve.current_workspace(), $1, $2)
                     ON CONFLICT (workspace) DO UPDATE SET move_id = excluded.move_id, rows = excluded.rows,
                         started_at = excluded.started_at";
/// Whoever is about to write to the database has written, or finds that a store moves there.
const ALONE: &str = "SELECT pg_advisory_xact_lock(portreeve.lock_id('epoch', ''))";
const FINISH: &str = "UPDATE portreeve.store_moves SET finished_at = now()
                      WHERE workspace = portreeve.current_workspace()";
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

/// A move that a database knows of.
struct Begun {
    move_id: String,
    is_finished: bool,
}

/// Whether a statement failed because the file is closed by a move.
pub(super) fn closes(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(told) if told.message().starts_with(CLOSED))
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
    let was_finished = begin(&mut source, &mut target, now).await?;
    let rows = length(&mut source).await?;
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

/// Opens a file for service again whose move was not finished, and will not be. `to` is the database that it was moving to;
/// without one, whoever calls knows that it is gone.
///
/// # Errors
/// When the move is finished: then the database is the store. When the database is not the one of the move. When either cannot
/// be used.
pub async fn abandon(file: &Path, to: Option<&postgres::Options>, now: Time) -> Result<Abandoned, StoreError> {
    let mut target = match to {
        Some(to) => Some(postgres::owner(to).await?),
        None => None,
    };
    let mut source = sqlite::open_to_move(file, now).await?;
    let closed = sqlite::closed_by_move(&mut source).await?;
    if let Some((true, since)) = closed {
        return Err(StoreError::Moved { is_finished: true, since });
    }
    let mut log_rows = 0;
    if let (Some(target), Some((_, since))) = (&mut target, closed) {
        let here = move_of(&mut source).await?;
        match begun(target).await? {
            Some(begun) if Some(&begun.move_id) == here.as_ref() && !begun.is_finished => {}
            Some(begun) if Some(&begun.move_id) == here.as_ref() => {
                return Err(StoreError::Moved { is_finished: true, since });
            }
            _ => return Err(StoreError::OtherMove),
        }
        log_rows = log::moved(target).await?;
    }
    // The mark in the database stays: what is there is half of a store, and is not served.
    let mut opening = source.begin_with("BEGIN IMMEDIATE").await?;
    sqlx::raw_sql(OPEN_AGAIN).execute(&mut *opening).await?;
    opening.commit().await?;
    if let Some(target) = target {
        drop(target.close().await);
    }
    source.close().await?;
    Ok(Abandoned { was_closed: closed.is_some(), log_rows: unsigned(log_rows) })
}

/// Closes the file and writes down there what moves; whether that is finished already. The one commits inside the
/// other, so that a closed file is always known to a database.
async fn begin(source: &mut SqliteConnection, target: &mut PgConnection, now: Time) -> Result<bool, StoreError> {
    let closed = sqlite::closed_by_move(source).await?;
    let here = move_of(source).await?;
    let begun = begun(target).await?;
    if let Some(here) = here {
        return match (begun, closed) {
            (Some(begun), Some((is_finished, _))) if begun.move_id == here && (begun.is_finished || !is_finished) => {
                Ok(begun.is_finished)
            }
            (_, Some((true, since))) => Err(StoreError::Moved { is_finished: true, since }),
            _ => Err(StoreError::OtherMove),
        };
    }
    let mut closing = source.begin_with("BEGIN IMMEDIATE").await?;
    // Whoever closed it meanwhile moves it elsewhere.
    if move_of(&mut closing).await?.is_some() {
        return Err(StoreError::OtherMove);
    }
    let move_id = crate::command::new_id();
    sqlx::raw_sql(NAME).execute(&mut *closing).await?;
    let close = sqlx::query("INSERT INTO store_move (move_id, started_at) VALUES (?1, ?2)");
    close.bind(&move_id).bind(now.as_micros()).execute(&mut *closing).await?;
    sqlx::raw_sql(CLOSE).execute(&mut *closing).await?;
    let rows = length(&mut closing).await?;
    let mut beginning = target.begin().await?;
    sqlx::raw_sql(ALONE).execute(&mut *beginning).await?;
    // Another store may have been about to begin: as long as nothing of it is there, this one may.
    if begun.is_some_and(|begun| begun.is_finished) || sqlx::query_scalar(USED).fetch_one(&mut *beginning).await? {
        return Err(StoreError::NotEmpty);
    }
    sqlx::query(BEGIN).bind(&move_id).bind(rows).execute(&mut *beginning).await?;
    beginning.commit().await?;
    closing.commit().await?;
    Ok(false)
}

/// The move that closed the file, if one did.
async fn move_of(source: &mut SqliteConnection) -> Result<Option<String>, StoreError> {
    let named = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'store_move')";
    if !sqlx::query_scalar::<_, bool>(named).fetch_one(&mut *source).await? {
        return Ok(None);
    }
    Ok(sqlx::query_scalar("SELECT move_id FROM store_move LIMIT 1").fetch_optional(source).await?)
}

async fn begun(target: &mut PgConnection) -> Result<Option<Begun>, StoreError> {
    let row = sqlx::query(BEGUN).fetch_optional(target).await?;
    row.map(|row| Ok(Begun { move_id: row.try_get("move_id")?, is_finished: row.try_get("is_finished")? })).transpose()
}

/// How many rows the log has.
async fn length(source: &mut SqliteConnection) -> Result<i64, StoreError> {
    let rows: i64 = sqlx::query_scalar("SELECT coalesce(max(seq), 0) FROM audit_log").fetch_one(source).await?;
    if rows == 0 { Err(StoreError::Damaged("its audit log is empty: there is nothing to move")) } else { Ok(rows) }
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
    sqlx::raw_sql(ALONE).execute(&mut *tx).await?;
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
