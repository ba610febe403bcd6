//! The reading side: connections of a role that may read what row security shows it, and write nothing.

use futures::TryStreamExt;
use sqlx::postgres::PgRow;
use sqlx::{PgPool, Row};

use super::decision::Args;
use super::facts::Facts;
use super::number::Numbering;
use super::pool::Pool;
use crate::store::{Page, StoreError};

/// The store without its write methods.
#[derive(Debug, Clone)]
pub struct View {
    /// For looks at single rows: who asks, what is decided about. The mutations' own pool.
    pool: Pool,
    /// For lists and searches, which may take long: however many of them run, nobody waits for them to be let in.
    lists: PgPool,
    facts: Facts,
    numbering: Numbering,
}

/// Most bytes of agents' texts on one page of a list; a page that would be larger is cut, and says so.
const PAGE_BYTES_MAX: i64 = 4 << 20;

/// How often a look is tried whose connection broke: what only looks may be asked again.
const TRIES_MAX: u32 = 3;

impl View {
    pub(super) const fn new(pool: Pool, lists: PgPool, facts: Facts, numbering: Numbering) -> Self {
        Self { pool, lists, facts, numbering }
    }

    pub(super) const fn pool(&self) -> &Pool {
        &self.pool
    }

    pub(super) const fn lists(&self) -> &PgPool {
        &self.lists
    }

    pub(super) const fn numbering(&self) -> &Numbering {
        &self.numbering
    }

    pub(super) const fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The rows of a short look.
    pub(super) async fn fetch<'q>(&self, query: impl Fn() -> Args<'q>) -> Result<Vec<PgRow>, StoreError> {
        persist(|| self.pool.fetch_all(query())).await
    }

    /// The one row of a short look.
    pub(super) async fn fetch_one<'q>(&self, query: impl Fn() -> Args<'q>) -> Result<PgRow, StoreError> {
        let first = self.fetch(query).await?.into_iter().next();
        first.ok_or_else(|| StoreError::Database("a look has no answer".to_owned()))
    }

    /// The rows of a list or a search.
    pub(super) async fn fetch_list<'q>(&self, query: impl Fn() -> Args<'q>) -> Result<Vec<PgRow>, StoreError> {
        persist(|| query().fetch_all(&self.lists)).await
    }

    /// A list that asks for one row more than its limit. Each row tells the size of its texts as `page_bytes`; the rows
    /// come one by one, so that what is cut need not be held.
    pub(super) async fn page<T>(
        &self,
        limit: i64,
        query: Args<'_>,
        read: impl Fn(&PgRow) -> Result<T, sqlx::Error>,
    ) -> Result<Page<T>, StoreError> {
        let mut rows = query.fetch(&self.lists);
        let limit = usize::try_from(limit).unwrap_or(0);
        let (mut items, mut bytes) = (Vec::new(), 0_i64);
        while let Some(row) = rows.try_next().await.map_err(|error| super::failure(&error))? {
            bytes = bytes.saturating_add(row.try_get("page_bytes")?);
            if items.len() >= limit || (bytes > PAGE_BYTES_MAX && !items.is_empty()) {
                return Ok(Page { items, truncated: true });
            }
            items.push(read(&row)?);
        }
        Ok(Page { items, truncated: false })
    }
}

/// Looks again where a connection broke.
async fn persist<T, F: Future<Output = Result<T, sqlx::Error>>>(look: impl Fn() -> F) -> Result<T, StoreError> {
    let mut tried = 0_u32;
    loop {
        match look().await {
            Ok(rows) => return Ok(rows),
            Err(error) if tried < TRIES_MAX && is_broken(&error) => tried = tried.saturating_add(1),
            Err(error) => return Err(super::failure(&error)),
        }
    }
}

/// The connection broke, or the server ended it: another one may do.
fn is_broken(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Io(_)) || matches!(super::call::code(error), Some("57P01" | "57P02"))
}
