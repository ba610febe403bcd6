//! The one writer. It takes the mutations that wait, runs each under a
//! savepoint, commits them together (one fsync for all, "group commit"), and
//! only then answers each caller.

use std::sync::Arc;

use futures::future::BoxFuture;
use sqlx::SqliteConnection;
use tokio::sync::{Notify, mpsc};

use super::migrate;
use crate::clock::{SharedClock, Time};
use crate::crash;
use crate::store::StoreError;
use crate::store::moves;

/// Most mutations that share one commit.
const BATCH_MAX: usize = 256;

/// A mutation that waits for the writer.
pub(super) trait Job: Send {
    /// Runs under a savepoint of its own, which it leaves closed. An error
    /// means that the whole batch must be rolled back.
    fn run<'a>(&'a mut self, batch: &'a mut Batch<'_>) -> BoxFuture<'a, Result<(), sqlx::Error>>;

    /// Answers the caller, after the batch was committed or was not.
    fn settle(self: Box<Self>, committed: Result<(), StoreError>);
}

/// The open transaction that a batch of mutations shares.
pub(super) struct Batch<'c> {
    /// The writer's connection.
    pub(super) conn: &'c mut SqliteConnection,
    /// The time of the batch.
    pub(super) now: Time,
    /// The position of the next audit row.
    pub(super) next_seq: i64,
}

/// Takes jobs until it is told to stop and none waits; then closes the connection.
pub(super) async fn write(
    mut conn: SqliteConnection,
    clock: SharedClock,
    mut jobs: mpsc::Receiver<Box<dyn Job>>,
    stop: Arc<Notify>,
) {
    let mut waiting = Vec::with_capacity(BATCH_MAX);
    loop {
        let taken = tokio::select! {
            taken = jobs.recv_many(&mut waiting, BATCH_MAX) => taken,
            () = stop.notified() => {
                // No new job gets in; those that wait are finished.
                jobs.close();
                continue;
            }
        };
        if taken == 0 {
            break;
        }
        metrics::histogram!("portreeve_commit_batch_size").record(f64::from(u32::try_from(waiting.len()).unwrap_or(0)));
        let mut jobs: Vec<Box<dyn Job>> = std::mem::take(&mut waiting);
        crash::point!("sqlite.batch-taken");
        let committed = match run_batch(&mut conn, clock.now(), &mut jobs).await {
            Ok(()) => Ok(()),
            Err(error) => Err(failure(&mut conn, error, jobs.len()).await),
        };
        for job in jobs {
            job.settle(committed.clone());
            crash::point!("sqlite.caller-answered");
        }
    }
    if let Err(error) = sqlx::Connection::close(conn).await {
        tracing::warn!(error = %error, "the store's connection did not close cleanly");
    }
}

async fn run_batch(conn: &mut SqliteConnection, now: Time, jobs: &mut [Box<dyn Job>]) -> Result<(), sqlx::Error> {
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut *conn).await?;
    crash::point!("sqlite.batch-begun");
    let result = run_jobs(conn, now, jobs).await;
    match result {
        Ok(()) => {
            crash::point!("sqlite.before-commit");
            match sqlx::raw_sql("COMMIT").execute(&mut *conn).await {
                Ok(_) => {
                    crash::point!("sqlite.committed");
                    Ok(())
                }
                Err(error) => roll_back(conn, error).await,
            }
        }
        Err(error) => roll_back(conn, error).await,
    }
}

async fn roll_back(conn: &mut SqliteConnection, error: sqlx::Error) -> Result<(), sqlx::Error> {
    // SQLite may have rolled back by itself (disk full); then this says so, harmlessly.
    if let Err(second) = sqlx::raw_sql("ROLLBACK").execute(conn).await {
        tracing::debug!(error = %second, "rollback");
    }
    Err(error)
}

async fn run_jobs(conn: &mut SqliteConnection, now: Time, jobs: &mut [Box<dyn Job>]) -> Result<(), sqlx::Error> {
    let next_seq = sqlx::query_scalar("SELECT coalesce(max(seq), 0) + 1 FROM audit_log").fetch_one(&mut *conn).await?;
    let mut batch = Batch { conn, now, next_seq };
    for job in jobs {
        job.run(&mut batch).await?;
    }
    Ok(())
}

/// Why a batch failed, which was rolled back.
async fn failure(conn: &mut SqliteConnection, error: sqlx::Error, mutations: usize) -> StoreError {
    // A move closed the file, which the store tells the log once.
    if moves::closes(&error)
        && let Err(moved) = migrate::check_stays(conn).await
    {
        return moved;
    }
    tracing::error!(error = %error, mutations, "a batch of mutations was rolled back");
    if is_busy(&error) { StoreError::Busy } else { StoreError::from(error) }
}

fn is_busy(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(db) if matches!(db.code().as_deref(), Some("5" | "6" | "261" | "517")))
}
