//! The embedded store: one SQLite file, write-ahead log, one writer, many readers.

mod agents;
mod audit;
mod cleanup;
mod columns;
mod handoffs;
mod inspect;
mod job;
mod locks;
mod memories;
mod migrate;
mod policy;
mod rows;
mod sessions;
mod tasks;
mod tx;
mod view;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, SqliteConnection};
use tokio::sync::{Mutex, Notify, mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::clock::{SharedClock, Time};
use crate::gate::{Permit, Refusal};
use crate::store::audit::Outcome;
use crate::store::{CommitError, Committed, IdempotencyKey, StoreError};

pub(in crate::store) use audit::log_after;
pub(in crate::store) use migrate::closed_by_move;
#[cfg(test)]
pub(in crate::store) use migrate::migrate as migrate_file;
pub use tx::{Apply, Rejected, Tx};
pub use view::View;

use job::{AnswerJob, CommitJob, RefusalJob};
use writer::Job;

/// Mutations that may wait for the writer; more are told that the store is busy.
const WAITING_MAX: usize = 4096;
/// How long a mutation waits for a place in that queue.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the writer waits for another process that writes to the same file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections for reading, of each of the two kinds.
const READERS: u32 = 4;

/// The store.
#[derive(Debug, Clone)]
pub struct Store {
    view: View,
    jobs: mpsc::Sender<Box<dyn Job>>,
    writer: Arc<Mutex<Option<JoinHandle<()>>>>,
    stop: Arc<Notify>,
}

impl Store {
    pub(in crate::store) async fn open(path: &Path, clock: SharedClock) -> Result<Self, StoreError> {
        let options = options(path).create_if_missing(true);
        let opened = |error: &dyn std::fmt::Display| unopened(path, error);
        private_file(path).map_err(|e| opened(&e))?;
        let mut look = look(path).await?;
        migrate::check_stays(&mut look).await?;
        look.close().await.map_err(|e| opened(&e))?;
        let mut conn = options.clone().connect().await.map_err(|e| opened(&e))?;
        migrate::migrate(&mut conn, clock.now()).await?;
        keep_time(&mut conn, &clock).await?;
        let readers = SqlitePoolOptions::new().max_connections(READERS).acquire_timeout(QUEUE_TIMEOUT);
        let reading = options.create_if_missing(false).read_only(true);
        let pool = readers.clone().connect_with(reading.clone()).await.map_err(|e| opened(&e))?;
        let lists = readers.connect_with(reading).await.map_err(|e| opened(&e))?;
        let (jobs, waiting) = mpsc::channel(WAITING_MAX);
        let stop = Arc::new(Notify::new());
        let writer = tokio::spawn(writer::write(conn, Arc::clone(&clock), waiting, Arc::clone(&stop)));
        let view = View::new(pool, lists, clock);
        Ok(Self { view, jobs, writer: Arc::new(Mutex::new(Some(writer))), stop })
    }

    #[must_use]
    pub(in crate::store) const fn view(&self) -> &View {
        &self.view
    }

    pub(in crate::store) async fn commit<C: Apply>(
        &self,
        permit: Permit<C>,
        command: C,
        idempotency: Option<IdempotencyKey>,
    ) -> Result<Committed<C::Output>, CommitError> {
        let (reply, answer) = oneshot::channel();
        let command = Some(command);
        self.send(Box::new(CommitJob { permit, command, idempotency, reply, outcome: None })).await?;
        answer.await.unwrap_or(Err(CommitError::Store(StoreError::Closed)))
    }

    pub(in crate::store) async fn record(&self, refusal: Refusal) -> Result<(), CommitError> {
        let (reply, answer) = oneshot::channel();
        self.send(Box::new(RefusalJob { refusal, reply, outcome: None })).await?;
        answer.await.unwrap_or(Err(CommitError::Store(StoreError::Closed)))
    }

    pub(in crate::store) async fn answered<Q: Send + 'static>(
        &self,
        permit: Permit<Q>,
        ended: Outcome,
        summary: Value,
    ) -> Result<(), CommitError> {
        let (reply, answer) = oneshot::channel();
        self.send(Box::new(AnswerJob { permit, ended, summary, reply, outcome: None })).await?;
        answer.await.unwrap_or(Err(CommitError::Store(StoreError::Closed)))
    }

    pub(in crate::store) async fn ping(&self) -> Result<(), StoreError> {
        let mut conn = self.view.pool().acquire().await?;
        let one: i64 = sqlx::query_scalar("SELECT count(*) FROM schema_migrations").fetch_one(&mut *conn).await?;
        migrate::check_stays(&mut conn).await?;
        if one > 0 && !self.jobs.is_closed() { Ok(()) } else { Err(StoreError::Closed) }
    }

    pub(in crate::store) async fn close(&self) {
        self.stop.notify_one();
        let running = self.writer.lock().await.take();
        if let Some(running) = running
            && let Err(error) = running.await
        {
            tracing::error!(error = %error, "the writer ended badly");
        }
        self.view.pool().close().await;
        self.view.lists().close().await;
    }

    async fn send(&self, job: Box<dyn Job>) -> Result<(), StoreError> {
        self.jobs.send_timeout(job, QUEUE_TIMEOUT).await.map_err(|refused| match refused {
            mpsc::error::SendTimeoutError::Timeout(_) => StoreError::Busy,
            mpsc::error::SendTimeoutError::Closed(_) => StoreError::Closed,
        })
    }
}

/// A connection to a file whose store moves to a database. The file is there and stays; it is brought up to date as by
/// opening it.
pub(in crate::store) async fn open_to_move(path: &Path, now: Time) -> Result<SqliteConnection, StoreError> {
    look(path).await?.close().await.map_err(|error| unopened(path, &error))?;
    let mut conn = options(path).connect().await.map_err(|error| unopened(path, &error))?;
    migrate::migrate(&mut conn, now).await?;
    Ok(conn)
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY_TIMEOUT)
        .disable_statement_logging()
}

fn unopened(path: &Path, error: &dyn std::fmt::Display) -> StoreError {
    StoreError::Open { path: path.display().to_string(), cause: error.to_string() }
}

/// A look at a file before the write-ahead log is switched on, which would already change another program's.
async fn look(path: &Path) -> Result<SqliteConnection, StoreError> {
    let looking = SqliteConnectOptions::new().filename(path).busy_timeout(BUSY_TIMEOUT).disable_statement_logging();
    let mut look = looking.connect().await.map_err(|error| unopened(path, &error))?;
    check_integrity(&mut look).await.map_err(|error| unopened(path, &error))?;
    migrate::check_application(&mut look).await?;
    Ok(look)
}

/// A new database is readable by its owner only; SQLite gives its log files the same mode.
fn private_file(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    match std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// A process of before may have told a later time than the machine's clock shows now: a lease that was over then stays over.
async fn keep_time(conn: &mut SqliteConnection, clock: &SharedClock) -> Result<(), StoreError> {
    let newest = "SELECT created_at FROM audit_log ORDER BY seq DESC LIMIT 1";
    let newest: Option<i64> = sqlx::query_scalar(newest).fetch_optional(conn).await?;
    let Some(newest) = newest.map(Time::from_micros) else { return Ok(()) };
    let now = clock.now();
    if newest > now {
        tracing::warn!(%now, %newest, "the machine's clock is behind the log: time goes on from the log's");
        clock.reach(newest);
    }
    Ok(())
}

/// A damaged file is reported, never recreated.
async fn check_integrity(conn: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    let verdict: String = sqlx::query_scalar("PRAGMA quick_check(1)").fetch_one(conn).await?;
    if verdict == "ok" {
        Ok(())
    } else {
        Err(sqlx::Error::Protocol(format!("the database is damaged, nothing was changed: {verdict}")))
    }
}
