//! After the run: the store itself, and what the clients saw, against the invariants.
//!
//! The audit log is replayed, row by row, through a small model that keeps one
//! thing at a time ([`locks`], [`tasks`]): whatever the service answered, it
//! must be what the model says, and at the end the tables must be the model's.

mod history;
mod locks;
mod log;
mod replay;
mod requests;
mod tasks;
#[cfg(test)]
mod teeth;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use serde::Serialize;

pub(super) use requests::RowCounts;

use super::history::{History, Surprise};
use super::material::Material;
use super::operator::Suspension;
use crate::engine::PolicyComponent;
use crate::store::{StoreError, View};

/// Broken cases that are told in words; of the others only the number.
const TOLD_MAX: usize = 8;

/// What must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Invariant {
    Excl,
    Claim,
    Gate,
    Deny,
    Audit,
    Replay,
    Revoke,
    Trust,
    Answers,
}

const ALL: [(Invariant, &str, &str); 9] = [
    (Invariant::Excl, "EXCL", "one holder per lock, tokens only grow"),
    (Invariant::Claim, "CLAIM", "one claimant per task, final stays final"),
    (Invariant::Gate, "GATE", "no change without an allow decision; tables are what the log says"),
    (Invariant::Deny, "DENY", "what was denied, refused or failed changed nothing"),
    (Invariant::Audit, "AUDIT", "each decision has its row, without a gap, with a true hash"),
    (Invariant::Replay, "REPLAY", "the component decides the logged requests alike"),
    (Invariant::Revoke, "REVOKE", "nothing of a suspended agent or a revoked key after the acknowledgement"),
    (Invariant::Trust, "TRUST", "reviewers changed nothing, evaluators only evaluations and reviews"),
    (Invariant::Answers, "ANSWERS", "every answer was one that was due"),
];

/// How one invariant did.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Finding {
    /// Its name.
    pub(super) invariant: &'static str,
    /// What it says.
    pub(super) says: &'static str,
    /// Single comparisons that were made.
    pub(super) checked: u64,
    /// Comparisons that failed.
    pub(super) broken: u64,
    /// The first of them.
    pub(super) examples: Vec<String>,
}

/// Counts comparisons, per invariant.
#[derive(Debug)]
pub(super) struct Ledger {
    findings: Vec<(Invariant, Finding)>,
}

impl Ledger {
    fn new() -> Self {
        let finding =
            |(id, invariant, says)| (id, Finding { invariant, says, checked: 0, broken: 0, examples: Vec::new() });
        Self { findings: ALL.into_iter().map(finding).collect() }
    }

    /// One comparison.
    fn check(&mut self, invariant: Invariant, fine: bool, what: impl FnOnce() -> String) {
        let found = self.findings.iter_mut().find(|(id, _)| *id == invariant);
        let Some((_, finding)) = found else { return };
        finding.checked = finding.checked.saturating_add(1);
        if fine {
            return;
        }
        finding.broken = finding.broken.saturating_add(1);
        if finding.examples.len() < TOLD_MAX {
            finding.examples.push(what());
        }
    }
}

/// What the check came to.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) findings: Vec<Finding>,
    pub(super) rows: RowCounts,
    /// Answers that nobody expected and nothing explains.
    pub(super) anomalies: Vec<Surprise>,
    /// Locks that were taken from their holders, and late writes that their tokens gave away.
    pub(super) fenced_off: usize,
}

impl Checked {
    pub(super) fn broken(&self) -> u64 {
        self.findings.iter().map(|finding| finding.broken).sum()
    }
}

/// What is checked.
pub(super) struct Evidence<'a> {
    pub(super) view: &'a View,
    pub(super) component: &'a Arc<PolicyComponent>,
    pub(super) history: &'a History,
    pub(super) material: &'a Material,
    pub(super) suspension: Option<&'a Suspension>,
}

/// Checks everything.
///
/// # Errors
/// When the store cannot be read.
pub(super) async fn check(evidence: Evidence<'_>) -> Result<Checked, StoreError> {
    let mut ledger = Ledger::new();
    let log = log::walk(&evidence, &mut ledger).await?;
    log.compare_with_tables(evidence.view, &mut ledger).await?;
    let rows = requests::check(&log, evidence.history, &mut ledger);
    history::check(&evidence, &log, &mut ledger);
    let anomalies = history::anomalies(&evidence);
    let surprises: HashMap<&str, &Surprise> =
        anomalies.iter().map(|found| (found.request_id.as_str(), found)).collect();
    for record in &evidence.history.records {
        let surprise = surprises.get(record.request_id.as_str());
        ledger.check(Invariant::Answers, surprise.is_none(), || surprise.map(|found| found.text()).unwrap_or_default());
    }
    replay::check(&log, evidence.component, &mut ledger).await;
    let fenced_off: BTreeSet<_> = evidence.history.lost.iter().map(|lost| (lost.file, lost.token)).collect();
    let findings = ledger.findings.into_iter().map(|(_, finding)| finding).collect();
    Ok(Checked { findings, rows, anomalies, fenced_off: fenced_off.len() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_counts_all_and_tells_some() {
        let mut ledger = Ledger::new();
        for n in 0..20 {
            ledger.check(Invariant::Deny, n % 2 == 0, || format!("case {n}"));
        }
        let found = ledger.findings.iter().find(|(id, _)| *id == Invariant::Deny).map(|(_, finding)| finding).unwrap();
        assert_eq!((found.checked, found.broken, found.examples.len()), (20, 10, TOLD_MAX));
        assert_eq!(found.examples.first().map(String::as_str), Some("case 1"));
    }
}
