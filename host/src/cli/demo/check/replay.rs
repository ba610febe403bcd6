//! The same component decides a sample of the logged requests once more.

use std::sync::Arc;

use super::log::Log;
use super::{Invariant, Ledger};
use crate::engine::PolicyComponent;
use crate::engine::types::{Decision, Effect, PolicyRequest};
use crate::store::audit::{AuditRow, canonical, name_of};

/// How many, about.
pub(super) const SAMPLE: i64 = 300;

pub(super) async fn check(log: &Log, component: &Arc<PolicyComponent>, ledger: &mut Ledger) {
    for row in &log.sample {
        // Identity is the host's own rule; and of long texts the log keeps the digest only.
        let Ok(request) = serde_json::from_str::<PolicyRequest>(&row.request) else { continue };
        let here = row.component == component.digest();
        ledger.check(Invariant::Replay, here, || format!("row {} was decided by {}", row.seq, row.component));
        let decided = component.decide_async(request).await;
        let same = decided.as_ref().is_ok_and(|decided| same(row, &decided.decision));
        ledger.check(Invariant::Replay, same, || {
            format!("row {} ({} {}) is decided otherwise now: {decided:?}", row.seq, row.decision, row.reason)
        });
    }
}

fn same(row: &AuditRow, decision: &Decision) -> bool {
    let effect = if decision.effect == Effect::Allow { "allow" } else { "deny" };
    let json = |value: serde_json::Value| canonical(&value);
    row.decision == effect
        && row.reason == decision.reason
        && row.detail == decision.detail
        && row.engine == name_of(&decision.engine)
        && row.trust_level == i64::from(decision.trust_level)
        && row.deciding == json(serde_json::json!(decision.deciding))
        && row.violations == json(serde_json::json!(decision.violations))
        && row.obligations == json(serde_json::json!(decision.obligations))
}
