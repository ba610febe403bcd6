//! The audit row: what was decided, from what, and what then happened.
//!
//! AUDIT: it is written in the transaction of the change, numbered without a gap and chained by its leaf hash.

use serde::Serialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::clock::Time;
use crate::gate::Evidence;

/// Texts of the request up to this many bytes are kept in the row; longer ones are replaced by digest and length.
pub const TEXT_KEPT_BYTES_MAX: usize = 16 * 1024;

/// Documents up to this many bytes, after that, are kept in the row: nobody fills the log with what was denied.
pub const DOCUMENT_KEPT_BYTES_MAX: usize = 64 * 1024;

/// What happened after the decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The change was made, or the question answered.
    Ok,
    /// The state stood against it ("held by another"); nothing changed.
    Refused,
    /// An error; everything was rolled back.
    Failed,
    /// Policy, or an obligation of it, said no.
    Denied,
    /// A repeat under an idempotency key; nothing changed.
    Replayed,
}

impl Outcome {
    /// The name in the log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Denied => "denied",
            Self::Replayed => "replayed",
        }
    }
}

/// One state key that a mutation changed, with its new version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The table.
    pub table: &'static str,
    /// The row's key.
    pub key: String,
    /// Its new version: a fencing token, an attempt and a status, a facts version, an epoch.
    pub version: Value,
}

/// A row as it is written. The order of fields is that of the table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuditRow {
    /// Gap-free position.
    pub seq: i64,
    /// Identifier of the decision.
    pub id: String,
    /// When the row was written, in microseconds since 1970.
    pub created_at: i64,
    /// Identifier of the request it belongs to.
    pub request_id: String,
    /// Who asked.
    pub agent_id: String,
    /// The type of who asked.
    pub agent_type: String,
    /// The profile that was in force.
    pub profile: String,
    /// The trust that the component resolved.
    pub trust_level: i64,
    /// The command or query.
    pub command: String,
    /// The policy operation.
    pub operation: String,
    /// What it was about.
    pub resource: String,
    /// The input, canonical JSON.
    pub parameters: String,
    /// What the component was asked, canonical JSON.
    pub request: String,
    /// `allow`, `deny` or `unavailable`.
    pub decision: String,
    /// The reason code.
    pub reason: String,
    /// The reason in words.
    pub detail: String,
    /// Which engines decided.
    pub engine: String,
    /// The rules that decided, JSON.
    pub deciding: String,
    /// Guardrail patterns that matched, JSON.
    pub violations: String,
    /// Limits that came with the decision, JSON.
    pub obligations: String,
    /// Digest of the component.
    pub component: String,
    /// The policy epoch.
    pub epoch: i64,
    /// Version of the agent's facts.
    pub facts_version: i64,
    /// Fuel that the decision used.
    pub fuel: i64,
    /// What happened.
    pub outcome: String,
    /// What came of it, JSON.
    pub result: String,
    /// State keys that changed, JSON.
    pub changes: String,
    /// From the request's arrival to this row, in microseconds.
    pub duration_us: i64,
}

impl AuditRow {
    /// Puts a row together.
    #[must_use]
    pub fn new(seq: i64, now: Time, evidence: &Evidence, outcome: Outcome, result: &Value, changes: &[Change]) -> Self {
        let decision = evidence.decision.as_ref();
        let part = |pick: fn(&crate::engine::types::Decision) -> Value| canonical(&decision.map_or(Value::Null, pick));
        Self {
            seq,
            id: evidence.decision_id.clone(),
            created_at: now.as_micros(),
            request_id: evidence.request_id.clone(),
            agent_id: evidence.who.agent_id().to_owned(),
            agent_type: evidence.who.agent_type().to_owned(),
            profile: evidence.who.profile().to_owned(),
            trust_level: decision.map_or(0, |d| i64::from(d.trust_level)),
            command: evidence.command.to_owned(),
            operation: evidence.operation.to_owned(),
            resource: evidence.resource.clone(),
            parameters: kept(&evidence.parameters),
            request: kept(&evidence.request),
            decision: evidence.verdict.as_str().to_owned(),
            reason: evidence.reason.clone(),
            detail: evidence.detail.clone(),
            engine: decision.map_or_else(|| "host".to_owned(), |d| name_of(&d.engine)),
            deciding: part(|d| json!(d.deciding)),
            violations: part(|d| json!(d.violations)),
            obligations: part(|d| json!(d.obligations)),
            component: evidence.component.clone(),
            epoch: evidence.epoch,
            facts_version: evidence.who.facts_version(),
            fuel: i64::try_from(evidence.fuel).unwrap_or(i64::MAX),
            outcome: outcome.as_str().to_owned(),
            result: kept(result),
            changes: canonical(&json!(changes)),
            duration_us: now.since(evidence.started_at).max(0),
        }
    }

    /// The RFC 6962 leaf hash of the row: SHA-256 over a zero byte and the row's canonical JSON.
    #[must_use]
    pub fn leaf_hash(&self) -> Vec<u8> {
        // Texts and whole numbers of 64 bits, which cannot fail to become JSON.
        let row = serde_json_canonicalizer::to_vec(self).unwrap_or_default();
        Sha256::new().chain_update([0]).chain_update(row).finalize().to_vec()
    }
}

/// Canonical JSON (RFC 8785). Its numbers are doubles: whole numbers beyond ±2^53 go through [`exact`] first.
#[must_use]
pub fn canonical(value: &Value) -> String {
    serde_json_canonicalizer::to_string(value).unwrap_or_else(|_| value.to_string())
}

/// The largest whole number that a double holds exactly, with all below it.
const EXACT_MAX: u64 = 1 << 53;

/// Replaces whole numbers that a double does not hold by their text, so that canonical JSON tells them apart.
#[must_use]
pub fn exact(value: &Value) -> Value {
    match value {
        Value::Number(n) if n.as_u64().is_some_and(|n| n > EXACT_MAX) => json!({"integer": n.to_string()}),
        Value::Number(n) if n.as_i64().is_some_and(|n| n.unsigned_abs() > EXACT_MAX) => {
            json!({"integer": n.to_string()})
        }
        Value::Array(items) => items.iter().map(exact).collect(),
        Value::Object(map) => Value::Object(map.iter().map(|(k, v)| (k.clone(), exact(v))).collect()),
        other => other.clone(),
    }
}

/// Canonical JSON as a row keeps it: long texts, and a document that is too long all the same, by digest and length.
pub(in crate::store) fn kept(value: &Value) -> String {
    let text = if is_kept_as_it_is(value) { canonical(value) } else { canonical(&exact(&redact(value))) };
    if text.len() <= DOCUMENT_KEPT_BYTES_MAX {
        return text;
    }
    canonical(&json!({"sha256": hex(&Sha256::digest(text.as_bytes())), "bytes": text.len()}))
}

/// Whether [`exact`] and [`redact`] would change nothing, which is most often so.
fn is_kept_as_it_is(value: &Value) -> bool {
    match value {
        Value::String(text) => text.len() <= TEXT_KEPT_BYTES_MAX,
        Value::Number(n) => n.as_i64().map_or(n.as_u64().is_none(), |n| n.unsigned_abs() <= EXACT_MAX),
        Value::Array(items) => items.iter().all(is_kept_as_it_is),
        Value::Object(map) => map.values().all(is_kept_as_it_is),
        Value::Null | Value::Bool(_) => true,
    }
}

/// Replaces long texts by their digest and length. Walks no deeper than the input's cap on nesting.
#[must_use]
pub fn redact(value: &Value) -> Value {
    match value {
        Value::String(text) if text.len() > TEXT_KEPT_BYTES_MAX => {
            json!({"sha256": hex(&Sha256::digest(text.as_bytes())), "bytes": text.len()})
        }
        Value::Array(items) => items.iter().map(redact).collect(),
        Value::Object(map) => {
            Value::Object(map.iter().map(|(k, v)| (k.clone(), redact(v))).collect::<Map<String, Value>>())
        }
        other => other.clone(),
    }
}

/// Lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// The wire name of a unit variant: what serde prints for it.
#[must_use]
pub fn name_of<T: Serialize>(variant: &T) -> String {
    serde_json::to_value(variant).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_as_it_is_would_not_change() {
        let long = "x".repeat(TEXT_KEPT_BYTES_MAX + 1);
        let values = [
            json!({"a": [1, -1, 0.5, 1e300, null, true, "text"], "b": {"c": {}}}),
            json!([EXACT_MAX, -9_007_199_254_740_992_i64]),
            json!([EXACT_MAX + 1]),
            json!({"deep": [[-9_007_199_254_740_993_i64]]}),
            json!([u64::MAX]),
            json!([i64::MIN]),
            json!({"text": long}),
        ];
        let plain = values.each_ref().map(|value| (is_kept_as_it_is(value), exact(&redact(value)) == *value));
        assert!(plain.iter().all(|(said, is)| said == is), "{plain:?}");
        assert_eq!(plain.iter().filter(|(said, _)| *said).count(), 2);
    }
}
