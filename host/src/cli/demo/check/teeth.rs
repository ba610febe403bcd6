//! The check can fail: logs in which something broke, each in one place, and the invariant that says so.

use serde_json::{Value, json};

use super::super::history::{Class, History, Record, Rows};
use super::super::op::Op;
use super::log::Log;
use super::{Invariant, Ledger, requests};
use crate::store::audit::AuditRow;

const SECOND: i64 = 1_000_000;

/// A row that was allowed and done at second `at`; cases change what they are about.
fn row(
    seq: i64,
    at: i64,
    agent_id: &str,
    command: &str,
    parameters: &Value,
    result: &Value,
    changes: &Value,
) -> AuditRow {
    AuditRow {
        seq,
        id: format!("id-{seq}"),
        created_at: at * SECOND,
        request_id: format!("request-{seq}"),
        agent_id: agent_id.to_owned(),
        agent_type: "claude_code".to_owned(),
        profile: "claude_code_local".to_owned(),
        trust_level: 3,
        command: command.to_owned(),
        operation: String::new(),
        resource: String::new(),
        parameters: parameters.to_string(),
        request: "null".to_owned(),
        decision: "allow".to_owned(),
        reason: "allowed".to_owned(),
        detail: String::new(),
        engine: "both".to_owned(),
        deciding: "[]".to_owned(),
        violations: "[]".to_owned(),
        obligations: "{}".to_owned(),
        component: String::new(),
        epoch: 0,
        facts_version: 1,
        fuel: 0,
        outcome: "ok".to_owned(),
        result: result.to_string(),
        changes: changes.to_string(),
        duration_us: 0,
    }
}

fn agent(seq: i64, agent_id: &str) -> AuditRow {
    let changes = json!([{"table": "agents", "key": agent_id, "version": {"facts_version": 1}}]);
    row(seq, 0, "system", "agent_create", &json!({}), &json!({"success": true}), &changes)
}

fn grant(seq: i64, at: i64, agent_id: &str, token: i64) -> AuditRow {
    let changes = json!([
        {"table": "lock_fences", "key": "a", "version": token}, {"table": "file_locks", "key": "a", "version": token},
    ]);
    let result = json!({"success": true, "action": "acquired", "fencing_token": token});
    row(seq, at, agent_id, "lock_acquire", &json!({"file_path": "a", "ttl_minutes": 1}), &result, &changes)
}

fn release(seq: i64, at: i64, agent_id: &str) -> AuditRow {
    let changes = json!([{"table": "file_locks", "key": "a", "version": null}]);
    row(seq, at, agent_id, "lock_release", &json!({"file_path": "a"}), &json!({"success": true}), &changes)
}

fn moved(status: &str, attempts: i64) -> Value {
    json!([{"table": "work_queue", "key": "t", "version": {"status": status, "attempt_count": attempts}}])
}

fn submit(seq: i64, agent_id: &str, task_type: &str) -> AuditRow {
    let result = json!({"success": true, "task_id": "t"});
    row(seq, 0, agent_id, "task_submit", &json!({"task_type": task_type}), &result, &moved("pending", 0))
}

fn claim(seq: i64, at: i64, agent_id: &str, token: &str) -> AuditRow {
    let result = json!({"success": true, "task_id": "t", "claim_token": token});
    row(seq, at, agent_id, "task_claim", &json!({"lease_seconds": 60}), &result, &moved("claimed", 0))
}

fn complete(seq: i64, at: i64, agent_id: &str, token: &str) -> AuditRow {
    let parameters = json!({"task_id": "t", "claim_token": token});
    row(seq, at, agent_id, "task_complete", &parameters, &json!({"success": true}), &moved("completed", 1))
}

/// The invariants that a log breaks.
fn broken(rows: impl IntoIterator<Item = AuditRow>) -> Vec<Invariant> {
    let (mut log, mut ledger) = (Log::default(), Ledger::new());
    log.knows_system();
    for row in [agent(1, "x"), agent(2, "y")].into_iter().chain(rows) {
        log.step(&row, &mut ledger);
    }
    ledger.findings.into_iter().filter(|(_, finding)| finding.broken > 0).map(|(id, _)| id).collect()
}

#[test]
fn a_good_log_breaks_nothing() {
    let rows = [
        grant(3, 1, "x", 1),
        release(4, 2, "x"),
        grant(5, 3, "y", 2),
        // After its minute the lock is free for everyone.
        grant(6, 70, "x", 3),
        submit(7, "x", "review"),
        claim(8, 71, "y", "c"),
        complete(9, 72, "y", "c"),
    ];
    assert_eq!(broken(rows), []);
}

#[test]
fn two_holders_a_stale_token_and_a_foreign_release_are_found() {
    assert_eq!(broken([grant(3, 1, "x", 1), grant(4, 2, "y", 2)]), [Invariant::Excl]);
    assert_eq!(broken([grant(3, 1, "x", 2), release(4, 2, "x"), grant(5, 3, "y", 2)]), [Invariant::Excl]);
    assert_eq!(broken([grant(3, 1, "x", 1), release(4, 2, "y")]), [Invariant::Excl]);
    let refused = AuditRow { outcome: "refused".to_owned(), changes: "[]".to_owned(), ..grant(3, 1, "x", 1) };
    assert_eq!(broken([refused]), [Invariant::Excl]);
}

#[test]
fn two_claimants_an_old_claim_and_a_rewritten_end_are_found() {
    let start = || [submit(3, "x", "docs"), claim(4, 1, "y", "c")];
    assert_eq!(broken(start().into_iter().chain([claim(5, 2, "x", "d")])), [Invariant::Claim]);
    assert_eq!(broken(start().into_iter().chain([complete(5, 2, "y", "old")])), [Invariant::Claim]);
    assert_eq!(broken(start().into_iter().chain([complete(5, 99, "y", "c")])), [Invariant::Claim]);
    assert_eq!(
        broken(start().into_iter().chain([complete(5, 2, "y", "c"), claim(6, 3, "x", "d")])),
        [Invariant::Claim]
    );
    assert_eq!(broken([submit(3, "y", "review"), claim(4, 1, "y", "c")]), [Invariant::Claim]);
}

#[test]
fn changes_without_an_allowance_are_found() {
    let denied = AuditRow { decision: "deny".to_owned(), outcome: "denied".to_owned(), ..grant(3, 1, "x", 1) };
    assert_eq!(broken([denied]), [Invariant::Gate, Invariant::Deny]);
    let failed = AuditRow { outcome: "failed".to_owned(), ..grant(3, 1, "x", 1) };
    assert_eq!(broken([failed]), [Invariant::Gate, Invariant::Deny]);
    let passed = AuditRow { decision: "deny".to_owned(), ..grant(3, 1, "x", 1) };
    assert_eq!(broken([passed]), [Invariant::Gate, Invariant::Deny]);
    let elsewhere = AuditRow { changes: moved("pending", 0).to_string(), ..grant(3, 1, "x", 1) };
    assert!(broken([elsewhere]).contains(&Invariant::Gate));
    let later = AuditRow { epoch: 1, ..grant(3, 1, "x", 1) };
    assert_eq!(broken([later]), [Invariant::Gate]);
}

#[test]
fn old_facts_and_reviewers_that_change_something_are_found() {
    let changes = json!([{"table": "agents", "key": "x", "version": {"facts_version": 2}}]);
    let suspend = row(3, 1, "system", "agent_suspend", &json!({}), &json!({"success": true}), &changes);
    assert_eq!(broken([suspend, grant(4, 2, "x", 1)]), [Invariant::Revoke]);
    let reviewer = AuditRow { profile: "claude_code_reviewer".to_owned(), ..grant(3, 1, "x", 1) };
    assert_eq!(broken([reviewer]), [Invariant::Trust]);
    let evaluator = AuditRow { profile: "evaluator".to_owned(), ..claim(4, 1, "y", "c") };
    assert_eq!(broken([submit(3, "x", "docs"), evaluator]), [Invariant::Trust]);
}

#[test]
fn a_missing_row_a_second_one_and_another_answer_are_found() {
    let now = std::time::Instant::now();
    let told = |class: Class, seqs: &[i64]| {
        let mut log = Log::default();
        for seq in seqs {
            let row = AuditRow { request_id: "r".to_owned(), ..grant(*seq, 1, "x", 1) };
            log.step(&row, &mut Ledger::new());
        }
        let (agent_id, request_id) = ("x".to_owned(), "r".to_owned());
        let (op, rows) = (Op::LockAcquire, Rows::One);
        let (unanswered, recovered) = (Vec::new(), false);
        let record = Record { agent_id, request_id, unanswered, recovered, op, class, rows, sent: now, answered: now };
        let history = History { records: vec![record], ..History::default() };
        let mut ledger = Ledger::new();
        requests::check(&log, &history, &mut ledger);
        ledger.findings.iter().map(|(_, finding)| finding.broken).sum::<u64>()
    };
    assert_eq!(told(Class::Allowed, &[3]), 0);
    assert_ne!(told(Class::Allowed, &[]), 0);
    assert_ne!(told(Class::Allowed, &[3, 4]), 0);
    assert_ne!(told(Class::Denied("suspended".to_owned()), &[3]), 0);
}
