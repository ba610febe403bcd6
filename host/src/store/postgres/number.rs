//! Giving the rows of the audit log their gap-free numbers, a moment after they were committed.
//!
//! A counter in the hot transaction would serialise every commit. So rows are ordered by their transaction's number, which
//! is taken after its locks; and once nothing that is smaller can still be committed, whichever host is first gives the
//! next numbers, with the rows' leaf hashes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::postgres::PgPoolOptions;
use sqlx::{PgConnection, PgPool, Row};
use tokio::sync::{Mutex, watch};

use super::ACQUIRE_TIMEOUT;
use super::audit::read_row;
use super::options::Options;
use super::view::View;
use crate::crash;
use crate::store::StoreError;
use crate::store::audit::AuditRow;

/// Rows that are numbered at once.
const MOST: i64 = 500;
/// How often it is looked whether there is something to number.
const PERIOD: Duration = Duration::from_millis(500);
/// How long who looks into the log waits for rows to settle that were there when they asked.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long they wait before they look again.
const AGAIN: Duration = Duration::from_millis(5);

pub(super) const TURN: &str = "SELECT portreeve.audit_turn($1) AS turn";
pub(super) const UNNUMBERED: &str =
    "SELECT u.seq, u.id::text AS id FROM portreeve.audit_unnumbered($1) u ORDER BY u.seq";
/// A statement of its own: one that joined the function's answer would look for the rows as of a time before it. Row by row:
/// OFFSET 0 leaves the planner no other way, which it would take while it knows of few rows.
const ROWS: &str = concat!(
    "SELECT u.seq, ",
    super::audit::columns!(),
    " FROM unnest($1::text[]::uuid[], $2::bigint[]) AS u (id, seq)
      CROSS JOIN LATERAL (SELECT * FROM portreeve.audit_log l
                          WHERE l.workspace = portreeve.current_workspace() AND l.id = u.id OFFSET 0) l ORDER BY u.seq"
);
pub(super) const NUMBER: &str = "SELECT portreeve.audit_number($1, $2::text[]::uuid[], $3) AS done";

/// Whether all rows that were there at a time are numbered: rows are numbered in the order of their transactions.
const REACHED: &str = "SELECT coalesce((SELECT s.xact FROM portreeve.audit_seq s
                                        WHERE s.workspace = portreeve.current_workspace()
                                        ORDER BY s.seq DESC LIMIT 1) >= $1, $1 IS NULL) AS reached";
const NEWEST: &str = "SELECT (SELECT max(l.xact) FROM portreeve.audit_log l
                              WHERE l.workspace = portreeve.current_workspace()) AS newest";

/// The one connection of a host that numbers rows, and whose turn it is to use it.
#[derive(Debug, Clone)]
pub(super) struct Numbering {
    pool: PgPool,
    turn: Arc<Mutex<()>>,
}

impl Numbering {
    pub(super) async fn open(options: &Options) -> Result<Self, StoreError> {
        // What is lost with a server that breaks down is given again, and the same: numbers follow from the rows.
        let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(ACQUIRE_TIMEOUT);
        let pool = pool.connect_with(options.for_hints()).await.map_err(|error| options.unreachable(&error))?;
        Ok(Self { pool, turn: Arc::default() })
    }

    pub(super) async fn close(&self) {
        self.pool.close().await;
    }

    /// Numbers up to [`MOST`] settled rows; how many. None when another host is at it and nobody waits for it.
    async fn round(&self, waits: bool) -> Result<Option<usize>, sqlx::Error> {
        let mut tx = self.pool.begin().await?;
        let turn = sqlx::query(TURN).bind(waits).fetch_one(&mut *tx).await?;
        if !turn.try_get::<bool, _>("turn")? {
            return Ok(None);
        }
        let numbered = number(&mut tx).await?;
        crash::point!("postgres.before-numbers-commit");
        tx.commit().await?;
        crash::point!("postgres.numbers-committed");
        Ok(Some(numbered))
    }
}

async fn number(conn: &mut PgConnection) -> Result<usize, sqlx::Error> {
    let listed = sqlx::query(UNNUMBERED).bind(MOST).fetch_all(&mut *conn).await?;
    let seqs = listed.iter().map(|row| row.try_get::<i64, _>("seq")).collect::<Result<Vec<_>, _>>()?;
    let ids = listed.iter().map(|row| row.try_get::<String, _>("id")).collect::<Result<Vec<_>, _>>()?;
    let Some(first) = seqs.first() else { return Ok(0) };
    crash::point!("postgres.numbers-taken");
    let rows = sqlx::query(ROWS).bind(&ids).bind(&seqs).fetch_all(&mut *conn).await?;
    let rows = rows.iter().map(read_row).collect::<Result<Vec<_>, _>>()?;
    let hashes: Vec<Vec<u8>> = rows.iter().map(AuditRow::leaf_hash).collect();
    crash::point!("postgres.rows-hashed");
    let done = sqlx::query(NUMBER).bind(first).bind(&ids).bind(&hashes).fetch_one(conn).await?;
    if done.try_get::<bool, _>("done")? { Ok(rows.len()) } else { Ok(0) }
}

impl View {
    /// Numbers what is there, and returns once that is done: whoever looks into the log sees all that they were told of.
    /// Rows of transactions that go on for long come later.
    pub(super) async fn number(&self) -> Result<(), StoreError> {
        let newest: Option<i64> = self.fetch_one(|| sqlx::query(NEWEST)).await?.try_get("newest")?;
        let asked = Instant::now();
        let _one = self.numbering().turn.lock().await;
        while !self.fetch_one(|| sqlx::query(REACHED).bind(newest)).await?.try_get::<bool, _>("reached")? {
            let numbered = self.numbering().round(true).await.map_err(|error| super::failure(&error))?;
            if numbered == Some(0) {
                if asked.elapsed() > PATIENCE {
                    break;
                }
                tokio::time::sleep(AGAIN).await;
            }
        }
        Ok(())
    }

    async fn number_in_passing(&self) -> Result<(), StoreError> {
        let Ok(_one) = self.numbering().turn.try_lock() else { return Ok(()) };
        let full = usize::try_from(MOST).unwrap_or(usize::MAX);
        while self.numbering().round(false).await.map_err(|error| super::failure(&error))? == Some(full) {}
        Ok(())
    }
}

/// Numbers in the background, until told to stop.
pub(super) fn start(view: View, mut stop: watch::Receiver<bool>) {
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            if let Err(error) = view.number_in_passing().await {
                tracing::warn!(error = %error, "the audit log could not be numbered; tried again in a moment");
            }
        }
    });
}
