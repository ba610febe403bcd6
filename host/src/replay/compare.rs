//! One row beside one decision.

use serde::Serialize;
use serde_json::{Value, json};

use super::report::Skipped;
use crate::engine::types::{Decision, Effect, PolicyRequest};
use crate::store::audit::{AuditRow, canonical, name_of};

/// A column that says something else than a decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The column.
    pub field: &'static str,
    /// What it says.
    pub recorded: String,
    /// What the decision says.
    pub now: String,
}

/// The columns of a row that are not what the decision says, to the byte. Fuel is none of them: the same answer may take an
/// instance less that has decided before. Remedy, diagnostics and the network rule are not in the log.
#[must_use]
pub fn differences(row: &AuditRow, decision: &Decision) -> Vec<Difference> {
    let Decision { reason, detail, deciding, violations, obligations, .. } = decision;
    let text = |value: Value| canonical(&value);
    let pairs = [
        ("decision", &row.decision, effect_word(decision.effect).to_owned()),
        ("reason", &row.reason, reason.clone()),
        ("detail", &row.detail, detail.clone()),
        ("engine", &row.engine, name_of(&decision.engine)),
        ("deciding", &row.deciding, text(json!(deciding))),
        ("violations", &row.violations, text(json!(violations))),
        ("obligations", &row.obligations, text(json!(obligations))),
        ("trust_level", &row.trust_level.to_string(), decision.trust_level.to_string()),
    ];
    let differ = pairs.into_iter().filter(|(_, recorded, now)| *recorded != now);
    differ.map(|(field, recorded, now)| Difference { field, recorded: recorded.clone(), now }).collect()
}

/// The word of the log.
pub(super) const fn effect_word(effect: Effect) -> &'static str {
    match effect {
        Effect::Allow => "allow",
        Effect::Deny => "deny",
    }
}

/// What the component was asked, or why it cannot be asked again.
pub(super) fn question(row: &AuditRow) -> Result<PolicyRequest, Skipped> {
    match (row.decision.as_str(), row.reason.as_str()) {
        ("unavailable", _) => return Err(Skipped::Unavailable),
        (_, "identity_mismatch") if row.engine == "host" => return Err(Skipped::IdentityMismatch),
        _ => {}
    }
    serde_json::from_str(&row.request).map_err(|_| match serde_json::from_str(&row.request) {
        Ok(request) if has_digest(&request) => Skipped::LongTexts,
        _ => Skipped::Unreadable,
    })
}

/// Whether a text, or all of it, is there as digest and length only.
fn has_digest(value: &Value) -> bool {
    match value {
        Value::Object(map) => {
            (map.len() == 2 && map.contains_key("sha256") && map.contains_key("bytes")) || map.values().any(has_digest)
        }
        Value::Array(items) => items.iter().any(has_digest),
        _ => false,
    }
}
