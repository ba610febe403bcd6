//! Requests and rows: each decision has exactly the rows that it should, and they say what the client was told.

use std::collections::HashSet;

use serde::Serialize;

use super::super::history::{Class, History, Record, Rows};
use super::super::op::Op;
use super::log::{Line, Log};
use super::{Invariant, Ledger};
use crate::authn::SYSTEM;

/// How many rows of which kind there are.
#[derive(Debug, Clone, Default, Serialize)]
pub(in crate::cli::demo) struct RowCounts {
    /// All.
    pub(in crate::cli::demo) total: i64,
    /// Of requests that the clients sent.
    pub(in crate::cli::demo) of_requests: usize,
    /// Requests that were decided.
    pub(in crate::cli::demo) decided: usize,
    /// Further rows: candidates that a claim was not given.
    pub(in crate::cli::demo) of_claims: usize,
    /// Further rows: decided once more, because facts moved.
    pub(in crate::cli::demo) stale: usize,
    /// Of the service's own work.
    pub(in crate::cli::demo) of_system: usize,
    /// Requests that no host answered, and that were sent again.
    pub(in crate::cli::demo) unanswered: usize,
    /// Rows that those left all the same.
    pub(in crate::cli::demo) of_unanswered: usize,
    /// Requests that were refused before a decision: unknown keys, input that makes no sense.
    pub(in crate::cli::demo) undecided: usize,
}

/// Compares both, in both directions.
pub(super) fn check(log: &Log, history: &History, ledger: &mut Ledger) -> RowCounts {
    let mut counts = RowCounts { total: log.rows, ..RowCounts::default() };
    let mut known = HashSet::with_capacity(history.records.len());
    for record in &history.records {
        let fresh = known.insert(record.request_id.as_str());
        ledger.check(Invariant::Audit, fresh, || format!("two requests are called {}", record.request_id));
        let lines = |request_id: &String| log.by_request.get(request_id).map(Vec::as_slice).unwrap_or_default();
        known.extend(record.unanswered.iter().map(String::as_str));
        let before: Vec<&Line> = record.unanswered.iter().flat_map(lines).collect();
        check_unanswered(record, &before, &mut counts, ledger);
        check_request(record, lines(&record.request_id), &mut counts, ledger);
    }
    for (request_id, lines) in &log.by_request {
        let of_client = known.contains(request_id.as_str());
        let of_system = lines.iter().all(|line| line.agent_id == SYSTEM);
        counts.of_system += if of_system { lines.len() } else { 0 };
        ledger.check(Invariant::Audit, of_client != of_system, || {
            let who = lines.first().map(|line| (line.seq, line.agent_id.as_str()));
            format!("the rows of {request_id} (first: {who:?}) belong to no request")
        });
    }
    counts
}

/// What was sent and not answered was carried out once, and then its answer was found; or it was not carried out.
fn check_unanswered(record: &Record, before: &[&Line], counts: &mut RowCounts, ledger: &mut Ledger) {
    counts.unanswered += record.unanswered.len();
    counts.of_unanswered += before.len();
    let own = |line: &&Line| line.agent_id == record.agent_id && line.command == record.op.name();
    ledger.check(Invariant::Audit, before.iter().all(own), || format!("{} has rows of others", record.request_id));
    if !record.op.mutates() || record.class == Class::Replayed {
        return;
    }
    let done = before.iter().filter(|line| line.outcome == "ok").count();
    let told = before.iter().filter(|line| says(line, record)).count();
    let fine = if record.recovered { done <= 1 && told >= 1 } else { done == 0 };
    ledger.check(Invariant::Audit, fine, || {
        format!("{} ({}) was carried out {done} times before: {before:?}", record.request_id, record.class.text())
    });
}

fn check_request(record: &Record, lines: &[Line], counts: &mut RowCounts, ledger: &mut Ledger) {
    let own = |line: &Line| line.agent_id == record.agent_id && line.command == record.op.name();
    ledger.check(Invariant::Audit, lines.iter().all(own), || {
        format!("{} has rows of others: {lines:?}", record.request_id)
    });
    let told: Vec<&Line> = lines.iter().filter(|line| !line.stale).collect();
    counts.of_requests += lines.len();
    counts.stale += lines.len() - told.len();
    let enough = match record.rows {
        // A key that another host has just revoked may be decided about once, and then is found out.
        Rows::None => told.is_empty(),
        Rows::One => told.len() == 1,
        Rows::Some => !told.is_empty(),
        Rows::Any => true,
    };
    match record.rows {
        Rows::None => counts.undecided += 1,
        _ if told.is_empty() => {}
        _ => {
            counts.decided += 1;
            counts.of_claims += told.len() - 1;
        }
    }
    ledger.check(Invariant::Audit, enough, || {
        format!("{} ({}, {}) has {} row(s)", record.request_id, record.op.name(), record.class.text(), told.len())
    });
    let Some((last, passed_over)) = told.split_last().filter(|_| record.rows != Rows::Any) else { return };
    let is_told = if record.recovered { last.outcome == "replayed" } else { says(last, record) };
    ledger.check(Invariant::Audit, is_told, || {
        format!("{} was told {}, the log says {last:?}", record.request_id, record.class.text())
    });
    // A claim looks on where policy keeps a task from the claimant, or another agent was first.
    let looked_on = passed_over.iter().all(|line| matches!(line.outcome.as_str(), "denied" | "refused"));
    ledger.check(Invariant::Deny, looked_on, || format!("{} went on after {passed_over:?}", record.request_id));
}

/// Whether a row says what the client was told.
fn says(line: &Line, record: &Record) -> bool {
    match &record.class {
        Class::Allowed => line.outcome == "ok",
        // A question is answered also where the answer is no.
        Class::Conflict(_) => line.outcome == if record.op == Op::LockVerify { "ok" } else { "refused" },
        Class::Denied(reason) => line.outcome == "denied" && line.reasons.contains(reason),
        Class::Replayed => line.outcome == "replayed",
        Class::Invalid(_) => line.outcome == "failed",
        Class::Unauthenticated | Class::Odd(_) => false,
    }
}
