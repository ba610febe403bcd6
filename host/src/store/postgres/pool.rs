//! Connections for mutations and short looks.
//!
//! The driver's own pool asks a connection whether it is still there each time it is given back, which is a second round trip
//! for every mutation. Here one is asked only when it was idle, and one whose use did not come to its end is not used again.

use std::time::{Duration, Instant};

use deadpool::Runtime;
use deadpool::managed::{self, Metrics, Object, RecycleError, RecycleResult, Timeouts};
use futures::future::BoxFuture;
use sqlx::postgres::{PgDatabaseError, PgRow, PgSeverity};
use sqlx::{ConnectOptions, Connection, PgConnection};

use super::ACQUIRE_TIMEOUT;
use super::decision::Args;
use super::options::Options;
use crate::store::StoreError;

/// A connection that was idle for so long is asked whether it is still there before it is used.
const IDLE_UNASKED: Duration = Duration::from_secs(1);
/// A connection is replaced after so long, so that a change of its role or of the server's settings reaches it.
const AGE_MAX: Duration = Duration::from_secs(1800);

/// Connections that are used again.
#[derive(Clone)]
pub(super) struct Pool {
    inner: managed::Pool<Manager>,
}

struct Manager {
    options: Options,
}

/// A connection, and since when.
struct Used {
    conn: PgConnection,
    made: Instant,
}

impl managed::Manager for Manager {
    type Type = Used;
    type Error = sqlx::Error;

    async fn create(&self) -> Result<Used, sqlx::Error> {
        Ok(Used { conn: self.options.for_mutations().connect().await?, made: Instant::now() })
    }

    async fn recycle(&self, used: &mut Used, metrics: &Metrics) -> RecycleResult<sqlx::Error> {
        if used.made.elapsed() > AGE_MAX {
            return Err(RecycleError::message("old enough"));
        }
        if metrics.last_used() > IDLE_UNASKED {
            used.conn.ping().await.map_err(RecycleError::Backend)?;
        }
        Ok(())
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool({:?})", self.inner.status())
    }
}

/// A connection in use. Unless its use came to its end it is thrown away: what is left of an answer must not be the next one's.
struct Lease(Option<Object<Manager>>);

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(object) = self.0.take() {
            drop(Object::take(object));
        }
    }
}

impl Pool {
    /// A pool of at most so many connections. One is made at once, so that a server that lets nobody in is told now.
    pub(super) async fn open(options: &Options, most: u32) -> Result<Self, StoreError> {
        let manager = Manager { options: options.clone() };
        let timeouts =
            Timeouts { wait: Some(ACQUIRE_TIMEOUT), create: Some(ACQUIRE_TIMEOUT), recycle: Some(ACQUIRE_TIMEOUT) };
        let inner = managed::Pool::builder(manager)
            .max_size(usize::try_from(most).unwrap_or(1))
            .timeouts(timeouts)
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| StoreError::Database(error.to_string()))?;
        let pool = Self { inner };
        drop(pool.inner.get().await.map_err(|error| options.unreachable(&driver(error)))?);
        Ok(pool)
    }

    /// All rows of a statement. When they are here, the statement is committed: a row comes before the commit, and the end
    /// of the rows after it.
    ///
    /// Boxed: without it, everything that waits for a change would be a type too deep for the compiler.
    pub(super) fn fetch_all<'a>(&'a self, query: Args<'a>) -> BoxFuture<'a, Result<Vec<PgRow>, sqlx::Error>> {
        Box::pin(async move {
            let mut lease = Lease(Some(self.inner.get().await.map_err(driver)?));
            let Some(object) = lease.0.as_mut() else { return Err(sqlx::Error::PoolClosed) };
            let rows = query.fetch_all(&mut object.conn).await;
            if is_over(&rows) {
                // Back to the pool.
                drop(lease.0.take());
            }
            rows
        })
    }

    /// Lets nobody in any more. Who uses a connection finishes.
    pub(super) fn close(&self) {
        self.inner.close();
    }
}

/// Whether a statement came to its end and left its connection as it was. An error that the server tells may be the last
/// thing that it tells on that connection: it was ended by an administrator, or the server shuts down.
fn is_over(rows: &Result<Vec<PgRow>, sqlx::Error>) -> bool {
    match rows {
        Ok(_) => true,
        Err(sqlx::Error::Database(error)) => {
            let error = error.try_downcast_ref::<PgDatabaseError>();
            error.is_some_and(|error| !matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic))
        }
        Err(_) => false,
    }
}

/// The pool's errors as the driver would tell them.
fn driver(error: managed::PoolError<sqlx::Error>) -> sqlx::Error {
    match error {
        managed::PoolError::Backend(error) => error,
        managed::PoolError::Closed => sqlx::Error::PoolClosed,
        _ => sqlx::Error::PoolTimedOut,
    }
}
