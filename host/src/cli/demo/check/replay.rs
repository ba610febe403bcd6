//! The same component decides a sample of the logged requests once more.

use std::sync::Arc;

use super::log::Log;
use super::{Invariant, Ledger};
use crate::engine::PolicyComponent;
use crate::engine::types::PolicyRequest;
use crate::replay::differences;

/// How many, about.
pub(super) const SAMPLE: i64 = 300;

pub(super) async fn check(log: &Log, component: &Arc<PolicyComponent>, ledger: &mut Ledger) {
    for row in &log.sample {
        // Identity is the host's own rule; and of long texts the log keeps the digest only.
        let Ok(request) = serde_json::from_str::<PolicyRequest>(&row.request) else { continue };
        let here = row.component == component.digest();
        ledger.check(Invariant::Replay, here, || format!("row {} was decided by {}", row.seq, row.component));
        let decided = component.decide_async(request).await;
        let same = decided.as_ref().is_ok_and(|decided| differences(row, &decided.decision).is_empty());
        ledger.check(Invariant::Replay, same, || {
            format!("row {} ({} {}) is decided otherwise now: {decided:?}", row.seq, row.decision, row.reason)
        });
    }
}
