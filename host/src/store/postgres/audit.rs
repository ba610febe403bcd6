//! The audit log in PostgreSQL: reading it. Writing is the functions'.

use serde_json::Value;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};

use super::view::View;
use crate::clock::Time;
use crate::command::audit::{AuditEntry, AuditQuery};
use crate::store::audit::{AuditRow, canonical};
use crate::store::{Page, StoreError};

/// The columns of a row, but for its number.
macro_rules! columns {
    () => {
        "l.id::text AS id, l.created_at, l.request_id, l.agent_id, l.agent_type, l.profile, l.trust_level, l.command, \
         l.operation, l.resource, l.parameters, l.request, l.decision, l.reason, l.detail, l.engine, l.deciding, \
         l.violations, l.obligations, l.component, l.epoch, l.facts_version, l.fuel, l.outcome, l.result, \
         l.changes::text AS changes, l.duration_us, l.xact <= 0 AS has_moved"
    };
}

pub(super) use columns;

/// JSON that the database put together, as both backends have it.
fn canonical_of(row: &PgRow, column: &str) -> Result<String, sqlx::Error> {
    let text: String = row.try_get(column)?;
    let value: Value = serde_json::from_str(&text).map_err(|e| sqlx::Error::Decode(Box::new(e)))?;
    Ok(canonical(&crate::store::audit::exact(&value)))
}

pub(super) fn read_row(row: &PgRow) -> Result<AuditRow, sqlx::Error> {
    Ok(AuditRow {
        seq: row.try_get("seq")?,
        id: row.try_get("id")?,
        created_at: row.try_get::<Time, _>("created_at")?.as_micros(),
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
        // What moved here is canonical already, and stays as it is to the letter.
        result: if row.try_get("has_moved")? { row.try_get("result")? } else { canonical_of(row, "result")? },
        changes: canonical_of(row, "changes")?,
        duration_us: row.try_get("duration_us")?,
    })
}

fn read_entry(row: &PgRow) -> Result<AuditEntry, sqlx::Error> {
    AuditEntry::of(read_row(row)?).map_err(|e| sqlx::Error::Decode(Box::new(e)))
}

/// The log, newest first. What an index finds stands in the text; the rest is looked at in each row. Rows are numbered in the
/// order of `xact` and `id`, so that is the order of `seq`.
macro_rules! log {
    ($found_by:literal) => {
        concat!(
            "SELECT s.seq, ",
            columns!(),
            ", (octet_length(l.parameters) + octet_length(l.result) + octet_length(l.violations)
                + octet_length(l.changes::text))::bigint AS page_bytes
             FROM portreeve.audit_log l JOIN portreeve.audit_seq s ON s.workspace = l.workspace AND s.id = l.id
             WHERE l.workspace = portreeve.current_workspace() AND ",
            $found_by,
            " AND ($2::text IS NULL OR l.agent_id = $2) AND ($3::text IS NULL OR l.operation = $3)
              AND ($4::text IS NULL OR l.decision = $4) AND ($5::timestamptz IS NULL OR l.created_at >= $5)
              AND ($6::timestamptz IS NULL OR l.created_at < $6)
             ORDER BY l.xact DESC, l.id DESC LIMIT $7"
        )
    };
}

impl View {
    pub(in crate::store) async fn audit(
        &self,
        query: &AuditQuery,
        own: Option<&str>,
    ) -> Result<Page<AuditEntry>, StoreError> {
        self.number().await?;
        let found_by = own.or(query.agent_id.as_deref());
        let (sql, found_by) = match (found_by, &query.operation) {
            (Some(agent_id), _) => (log!("l.agent_id = $1"), Some(agent_id)),
            (None, Some(operation)) => (log!("l.operation = $1"), Some(operation.as_str())),
            (None, None) => (log!("$1::text IS NULL"), None),
        };
        let rows = sqlx::query(sql)
            .bind(found_by)
            .bind(&query.agent_id)
            .bind(&query.operation)
            .bind(&query.decision)
            .bind(query.since)
            .bind(query.until)
            .bind(query.limit.saturating_add(1));
        self.page(query.limit, rows, read_entry).await
    }

    pub(in crate::store) async fn audit_rows(
        &self,
        after: i64,
        limit: i64,
    ) -> Result<Vec<(AuditRow, Vec<u8>)>, StoreError> {
        self.number().await?;
        let rows = self.fetch_list(|| sqlx::query(ROWS_AFTER).bind(after).bind(limit)).await?;
        Ok(rows.iter().map(read_numbered).collect::<Result<Vec<_>, sqlx::Error>>()?)
    }
}

/// Rows in the order of their numbers.
const ROWS_AFTER: &str = concat!(
    "SELECT s.seq, s.leaf_hash, ",
    columns!(),
    " FROM portreeve.audit_seq s JOIN portreeve.audit_log l ON l.workspace = s.workspace AND l.id = s.id
     WHERE s.workspace = portreeve.current_workspace() AND s.seq > $1 ORDER BY s.seq LIMIT $2"
);

fn read_numbered(row: &PgRow) -> Result<(AuditRow, Vec<u8>), sqlx::Error> {
    Ok((read_row(row)?, row.try_get("leaf_hash")?))
}

/// Rows of the log after a position, as a store that moves here reads them back.
pub(in crate::store) async fn log_after(
    target: &mut PgConnection,
    after: i64,
    limit: i64,
) -> Result<Vec<(AuditRow, Vec<u8>)>, StoreError> {
    let rows = sqlx::query(ROWS_AFTER).bind(after).bind(limit).fetch_all(target).await?;
    Ok(rows.iter().map(read_numbered).collect::<Result<Vec<_>, sqlx::Error>>()?)
}
