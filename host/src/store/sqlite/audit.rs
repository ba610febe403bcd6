//! The audit log in SQLite: reading and checking. Writing is the writer's.

use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection, SqliteExecutor};

use super::view::{View, page};
use crate::clock::Time;
use crate::command::audit::{AuditEntry, AuditQuery};
use crate::store::audit::AuditRow;
use crate::store::{Page, StoreError};

fn read_entry(row: &SqliteRow) -> Result<AuditEntry, sqlx::Error> {
    AuditEntry::of(read_row(row)?).map_err(|e| sqlx::Error::Decode(Box::new(e)))
}

fn read_row(row: &SqliteRow) -> Result<AuditRow, sqlx::Error> {
    Ok(AuditRow {
        seq: row.try_get("seq")?,
        id: row.try_get("id")?,
        created_at: row.try_get("created_at")?,
        request_id: row.try_get("request_id")?,
        agent_id: row.try_get("agent_id")?,
        agent_type: row.try_get("agent_type")?,
        profile: row.try_get("profile")?,
        trust_level: row.try_get("trust_level")?,
        command: row.try_get("command")?,
        operation: row.try_get("operation")?,
        resource: row.try_get("resource")?,
        parameters: row.try_get("parameters")?,
        request: row.try_get("request")?,
        decision: row.try_get("decision")?,
        reason: row.try_get("reason")?,
        detail: row.try_get("detail")?,
        engine: row.try_get("engine")?,
        deciding: row.try_get("deciding")?,
        violations: row.try_get("violations")?,
        obligations: row.try_get("obligations")?,
        component: row.try_get("component")?,
        epoch: row.try_get("epoch")?,
        facts_version: row.try_get("facts_version")?,
        fuel: row.try_get("fuel")?,
        outcome: row.try_get("outcome")?,
        result: row.try_get("result")?,
        changes: row.try_get("changes")?,
        duration_us: row.try_get("duration_us")?,
    })
}

impl View {
    pub(in crate::store) async fn audit(
        &self,
        query: &AuditQuery,
        own: Option<&str>,
    ) -> Result<Page<AuditEntry>, StoreError> {
        let sql = "SELECT *, octet_length(parameters) + octet_length(result) + octet_length(violations)
                       + octet_length(changes) AS page_bytes
                   FROM audit_log
                   WHERE (?1 IS NULL OR agent_id = ?1) AND (?2 IS NULL OR agent_id = ?2)
                     AND (?3 IS NULL OR operation = ?3) AND (?4 IS NULL OR decision = ?4)
                     AND (?5 IS NULL OR created_at >= ?5) AND (?6 IS NULL OR created_at < ?6)
                   ORDER BY seq DESC LIMIT ?7";
        let rows = sqlx::query(sql)
            .bind(own)
            .bind(&query.agent_id)
            .bind(&query.operation)
            .bind(&query.decision)
            .bind(query.since.map(Time::as_micros))
            .bind(query.until.map(Time::as_micros))
            .bind(query.limit.saturating_add(1))
            .fetch(self.lists());
        page(rows, query.limit, read_entry).await
    }

    pub(in crate::store) async fn audit_rows(
        &self,
        after: i64,
        limit: i64,
    ) -> Result<Vec<(AuditRow, Vec<u8>)>, StoreError> {
        rows_after(self.lists(), after, limit).await
    }
}

async fn rows_after(
    from: impl SqliteExecutor<'_>,
    after: i64,
    limit: i64,
) -> Result<Vec<(AuditRow, Vec<u8>)>, StoreError> {
    let sql = "SELECT * FROM audit_log WHERE seq > ?1 ORDER BY seq LIMIT ?2";
    let rows = sqlx::query(sql).bind(after).bind(limit).fetch_all(from).await?;
    let read = |row: &SqliteRow| Ok((read_row(row)?, row.try_get("leaf_hash")?));
    Ok(rows.iter().map(read).collect::<Result<Vec<_>, sqlx::Error>>()?)
}

/// Rows of the log after a position, as a store that moves reads them.
pub(in crate::store) async fn log_after(
    source: &mut SqliteConnection,
    after: i64,
    limit: i64,
) -> Result<Vec<(AuditRow, Vec<u8>)>, StoreError> {
    rows_after(source, after, limit).await
}
