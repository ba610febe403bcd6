//! The reading side: a pool of connections that the database holds read-only.

use futures::{Stream, TryStreamExt};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqlitePool};

use crate::clock::{SharedClock, Time};
use crate::store::{Page, StoreError};

/// The store without its write methods.
#[derive(Debug, Clone)]
pub struct View {
    /// For looks at single rows: who asks, what is decided about.
    pool: SqlitePool,
    /// For lists and searches, which may take long: however many of them run, nobody waits for them to be let in.
    lists: SqlitePool,
    clock: SharedClock,
}

impl View {
    pub(super) const fn new(pool: SqlitePool, lists: SqlitePool, clock: SharedClock) -> Self {
        Self { pool, lists, clock }
    }

    /// The time by which leases are judged.
    #[must_use]
    pub fn now(&self) -> Time {
        self.clock.now()
    }

    pub(super) const fn pool(&self) -> &SqlitePool {
        &self.pool
    }

    pub(super) const fn lists(&self) -> &SqlitePool {
        &self.lists
    }
}

/// Most bytes of agents' texts on one page of a list; a page that would be larger is cut, and says so.
const PAGE_BYTES_MAX: i64 = 4 << 20;

/// Reads a list that asks for one row more than its limit. Each row tells the size of its texts as `page_bytes`.
pub(super) async fn page<T>(
    mut rows: impl Stream<Item = Result<SqliteRow, sqlx::Error>> + Unpin,
    limit: i64,
    read: impl Fn(&SqliteRow) -> Result<T, sqlx::Error>,
) -> Result<Page<T>, StoreError> {
    let limit = usize::try_from(limit).unwrap_or(0);
    let (mut items, mut bytes) = (Vec::new(), 0_i64);
    while let Some(row) = rows.try_next().await? {
        bytes = bytes.saturating_add(row.try_get("page_bytes")?);
        if items.len() >= limit || (bytes > PAGE_BYTES_MAX && !items.is_empty()) {
            return Ok(Page { items, truncated: true });
        }
        items.push(read(&row)?);
    }
    Ok(Page { items, truncated: false })
}

impl View {
    pub(in crate::store) async fn is_repeat(&self, agent_id: &str, key: &str) -> Result<bool, StoreError> {
        let sql = "SELECT EXISTS (SELECT 1 FROM idempotency_keys WHERE agent_id = ?1 AND key = ?2 AND created_at > ?3)";
        let since = self.now().plus_minutes(-24 * 60).as_micros();
        Ok(sqlx::query_scalar(sql).bind(agent_id).bind(key).bind(since).fetch_one(&self.pool).await?)
    }
}
