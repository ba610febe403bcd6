//! Statements that more than one mutation needs.

use sqlx::{Row, SqliteConnection};

use crate::clock::Time;
use crate::gate::Evidence;
use crate::store::audit::{AuditRow, name_of};
use crate::store::{FirstAnswer, IdempotencyKey};

pub(super) async fn next_seq(conn: &mut SqliteConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("SELECT coalesce(max(seq), 0) + 1 FROM audit_log").fetch_one(conn).await
}

pub(super) async fn audit_insert(conn: &mut SqliteConnection, row: &AuditRow) -> Result<(), sqlx::Error> {
    let sql = "INSERT INTO audit_log (seq, id, created_at, request_id, agent_id, agent_type, profile, trust_level,
                   command, operation, resource, parameters, request, decision, reason, detail, engine, deciding,
                   violations, obligations, component, epoch, facts_version, fuel, outcome, result, changes,
                   duration_us, leaf_hash)
               VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    let query = sqlx::query(sql)
        .bind(row.seq)
        .bind(&row.id)
        .bind(row.created_at)
        .bind(&row.request_id)
        .bind(&row.agent_id)
        .bind(&row.agent_type)
        .bind(&row.profile)
        .bind(row.trust_level)
        .bind(&row.command)
        .bind(&row.operation)
        .bind(&row.resource)
        .bind(&row.parameters)
        .bind(&row.request)
        .bind(&row.decision)
        .bind(&row.reason)
        .bind(&row.detail)
        .bind(&row.engine)
        .bind(&row.deciding)
        .bind(&row.violations)
        .bind(&row.obligations)
        .bind(&row.component)
        .bind(row.epoch)
        .bind(row.facts_version)
        .bind(row.fuel)
        .bind(&row.outcome)
        .bind(&row.result)
        .bind(&row.changes)
        .bind(row.duration_us)
        .bind(row.leaf_hash());
    query.execute(conn).await.map(drop)
}

pub(super) async fn violations_insert(
    conn: &mut SqliteConnection,
    evidence: &Evidence,
    now: Time,
) -> Result<(), sqlx::Error> {
    let Some(decision) = &evidence.decision else { return Ok(()) };
    let sql = "INSERT INTO guardrail_violations (audit_id, position, agent_id, trust_level, pattern_name, category,
                   severity, min_trust, label, matched_text, passed_by_trust, blocked, created_at)
               VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    for (position, violation) in (0_i64..).zip(&decision.violations) {
        sqlx::query(sql)
            .bind(&evidence.decision_id)
            .bind(position)
            .bind(evidence.who.agent_id())
            .bind(i64::from(decision.trust_level))
            .bind(&violation.pattern_name)
            .bind(&violation.category)
            .bind(name_of(&violation.severity))
            .bind(i64::from(violation.min_trust))
            .bind(&violation.label)
            .bind(&violation.matched_text)
            .bind(violation.passed_by_trust)
            .bind(violation.blocked)
            .bind(now.as_micros())
            .execute(&mut *conn)
            .await?;
    }
    Ok(())
}

/// Forgets a key whose answer is older than `since`: the caller may use it anew.
pub(super) async fn idempotency_forget(
    conn: &mut SqliteConnection,
    agent_id: &str,
    key: &str,
    since: i64,
) -> Result<(), sqlx::Error> {
    let sql = "DELETE FROM idempotency_keys WHERE agent_id = ?1 AND key = ?2 AND created_at <= ?3";
    sqlx::query(sql).bind(agent_id).bind(key).bind(since).execute(conn).await.map(drop)
}

pub(super) async fn idempotency_get(
    conn: &mut SqliteConnection,
    agent_id: &str,
    key: &str,
) -> Result<Option<(Vec<u8>, FirstAnswer)>, sqlx::Error> {
    let sql = "SELECT request_hash, status, body FROM idempotency_keys WHERE agent_id = ?1 AND key = ?2";
    let row = sqlx::query(sql).bind(agent_id).bind(key).fetch_optional(conn).await?;
    row.map(|row| {
        let status: i64 = row.try_get("status")?;
        let first = FirstAnswer { status: u16::try_from(status).unwrap_or(200), body: row.try_get("body")? };
        Ok((row.try_get("request_hash")?, first))
    })
    .transpose()
}

pub(super) async fn idempotency_insert(
    conn: &mut SqliteConnection,
    evidence: &Evidence,
    key: &IdempotencyKey,
    status: u16,
    body: &str,
    now: Time,
) -> Result<(), sqlx::Error> {
    let sql = "INSERT INTO idempotency_keys (agent_id, key, request_hash, status, body, audit_id, created_at)
               VALUES (?, ?, ?, ?, ?, ?, ?)";
    let query = sqlx::query(sql)
        .bind(evidence.who.agent_id())
        .bind(&key.key)
        .bind(&key.request_hash)
        .bind(i64::from(status))
        .bind(body)
        .bind(&evidence.decision_id)
        .bind(now.as_micros());
    query.execute(conn).await.map(drop)
}
