//! The log on its way: each row is verified before it goes, and read back before it counts.

use sqlx::postgres::PgConnection;
use sqlx::{Connection, Row, SqliteConnection};

use super::tables::{LOG, VIOLATIONS};
use super::{Progress, Step, unsigned};
use crate::store::audit::AuditRow;
use crate::store::{StoreError, postgres, sqlite};

/// Rows of the log that one transaction moves.
const BATCH: i64 = 500;

const NUMBER: &str = "INSERT INTO portreeve.audit_seq (workspace, seq, xact, id, leaf_hash)
                      SELECT portreeve.current_workspace(), v.seq, v.seq - $4, v.id::uuid, v.leaf_hash
                      FROM unnest($1::bigint[], $2::text[], $3::bytea[]) AS v (seq, id, leaf_hash)";
const NUMBERED: &str = "SELECT coalesce(max(s.seq), 0) FROM portreeve.audit_seq s
                        WHERE s.workspace = portreeve.current_workspace()";

/// A row with its leaf hash.
type Kept = (AuditRow, Vec<u8>);

/// How many rows are there already.
pub(super) async fn moved(target: &mut PgConnection) -> Result<i64, StoreError> {
    Ok(sqlx::query_scalar(NUMBERED).fetch_one(target).await?)
}

/// Copies what of so many rows is not there yet.
pub(super) async fn copy(
    source: &mut SqliteConnection,
    target: &mut PgConnection,
    rows: i64,
    progress: Progress<'_>,
) -> Result<(), StoreError> {
    let mut last = moved(target).await?;
    progress(Step::Log(unsigned(last), unsigned(rows)));
    while last < rows {
        let batch = sqlite::log_after(source, last, BATCH).await?;
        let until = check(&batch, last)?;
        let mut tx = target.begin().await?;
        for table in [LOG, VIOLATIONS] {
            table.copy_part(source, &mut tx, (last, until, rows)).await?;
        }
        number(&mut tx, &batch, rows).await?;
        compare(&batch, &postgres::log_after(&mut tx, last, BATCH).await?, last)?;
        tx.commit().await?;
        last = until;
        progress(Step::Log(unsigned(last), unsigned(rows)));
    }
    Ok(())
}

/// The numbers of rows and their hashes: as they were, and not given anew.
async fn number(target: &mut PgConnection, batch: &[Kept], rows: i64) -> Result<(), StoreError> {
    let seqs: Vec<i64> = batch.iter().map(|(row, _)| row.seq).collect();
    let ids: Vec<&str> = batch.iter().map(|(row, _)| row.id.as_str()).collect();
    let hashes: Vec<&[u8]> = batch.iter().map(|(_, hash)| hash.as_slice()).collect();
    sqlx::query(NUMBER).bind(seqs).bind(ids).bind(hashes).bind(rows).execute(target).await?;
    Ok(())
}

/// Every row follows the one before it and is what its hash says; the position of the last.
fn check(batch: &[Kept], after: i64) -> Result<i64, StoreError> {
    let mut last = after;
    for (row, hash) in batch {
        let next = last.saturating_add(1);
        if row.seq != next || row.leaf_hash() != *hash {
            return Err(StoreError::Unverified { seq: next });
        }
        last = next;
    }
    if last == after { Err(StoreError::Unverified { seq: after.saturating_add(1) }) } else { Ok(last) }
}

/// What was read back is what was sent, row by row and hash by hash.
fn compare(sent: &[Kept], there: &[Kept], after: i64) -> Result<(), StoreError> {
    let differing = sent.iter().zip(there).position(|(sent, there)| sent != there);
    let differing = differing.or_else(|| (sent.len() != there.len()).then_some(sent.len().min(there.len())));
    let Some(n) = differing else { return Ok(()) };
    Err(StoreError::Unequal { seq: after.saturating_add(1).saturating_add(i64::try_from(n).unwrap_or(0)) })
}

/// Reads the whole log there once more: every row is what its hash says, and the hash is that of the file; no gap.
pub(super) async fn verify(
    source: &mut SqliteConnection,
    target: &mut PgConnection,
    rows: i64,
    progress: Progress<'_>,
) -> Result<(), StoreError> {
    let mut last = 0;
    while last < rows {
        let there = postgres::log_after(target, last, BATCH).await?;
        // What does not verify there did here.
        let until = check(&there, last).map_err(|error| match error {
            StoreError::Unverified { seq } => StoreError::Unequal { seq },
            other => other,
        })?;
        let here = hashes_after(source, last).await?;
        let differing = there.iter().zip(&here).position(|((_, there), here)| there != here);
        if let Some(n) = differing.or_else(|| (there.len() != here.len()).then_some(0)) {
            let first = last.saturating_add(1);
            return Err(StoreError::Unequal { seq: first.saturating_add(i64::try_from(n).unwrap_or(0)) });
        }
        last = until;
        progress(Step::Verified(unsigned(last), unsigned(rows)));
    }
    Ok(())
}

async fn hashes_after(source: &mut SqliteConnection, after: i64) -> Result<Vec<Vec<u8>>, StoreError> {
    let sql = "SELECT leaf_hash FROM audit_log WHERE seq > ?1 ORDER BY seq LIMIT ?2";
    let rows = sqlx::query(sql).bind(after).bind(BATCH).fetch_all(source).await?;
    Ok(rows.iter().map(|row| row.try_get("leaf_hash")).collect::<Result<_, sqlx::Error>>()?)
}

/// No row is there that did not move: somebody who wrote meanwhile would be found here.
pub(super) async fn complete(source: &mut SqliteConnection, target: &mut PgConnection) -> Result<(), StoreError> {
    for table in [LOG, VIOLATIONS] {
        if table.count(source).await? != table.count_there(target).await? {
            return Err(StoreError::Incomplete { table: table.name });
        }
    }
    Ok(())
}
