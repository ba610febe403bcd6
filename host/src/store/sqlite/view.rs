//! The reading side: a pool of connections that the database holds read-only.

use sqlx::SqlitePool;

use crate::clock::{SharedClock, Time};

/// The store without its write methods.
#[derive(Debug, Clone)]
pub struct View {
    pool: SqlitePool,
    clock: SharedClock,
}

impl View {
    pub(super) const fn new(pool: SqlitePool, clock: SharedClock) -> Self {
        Self { pool, clock }
    }

    /// The time by which leases are judged.
    #[must_use]
    pub fn now(&self) -> Time {
        self.clock.now()
    }

    pub(super) const fn pool(&self) -> &SqlitePool {
        &self.pool
    }
}

impl View {
    /// Whether the agent used this idempotency key before. The writer decides; this only saves needless work.
    pub(crate) async fn is_repeat(&self, agent_id: &str, key: &str) -> Result<bool, crate::store::StoreError> {
        let sql = "SELECT EXISTS (SELECT 1 FROM idempotency_keys WHERE agent_id = ?1 AND key = ?2 AND created_at > ?3)";
        let since = self.now().plus_minutes(-24 * 60).as_micros();
        Ok(sqlx::query_scalar(sql).bind(agent_id).bind(key).bind(since).fetch_one(&self.pool).await?)
    }
}
