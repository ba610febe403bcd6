//! What has to hold after a scenario: the history has an explanation, and the log is whole, complete, and a behaviour of the
//! specification.
//!
//! What became of calls without an answer is read from the log before the history is checked; see `tests::history::logged`. Clients name
//! no `Idempotency-Key`, so that each request is one call, and has at most one row of a change.
//!
//! AUDIT: every acknowledged change is in the log exactly once, and the log is whole.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};
use tests::history::check::{Checked, check};
use tests::history::{Answer, Call, History};

use super::clients::read;
use super::fleet::Fleet;
use crate::harness::state::AuditLine;
use crate::tidy::root;

/// A history on disk, which stays there unless everything holds.
pub(crate) struct Kept {
    path: PathBuf,
    holds: bool,
}

impl Kept {
    pub(crate) fn of(history: &History, backend: &str) -> Self {
        let folder = tests::figures::folder();
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join(format!("rejected-{}-{backend}-{}.jsonl", history.name, history.seed));
        let kept = Self { path, holds: false };
        kept.again(history);
        kept
    }

    /// Keeps what is known of it by now.
    pub(crate) fn again(&self, history: &History) {
        history.write(std::io::BufWriter::new(std::fs::File::create(&self.path).unwrap())).unwrap();
    }

    pub(crate) fn holds(mut self) {
        self.holds = true;
        std::fs::remove_file(&self.path).unwrap();
    }
}

impl Drop for Kept {
    #[expect(clippy::print_stderr, reason = "whoever reads why a test failed has to find the history")]
    fn drop(&mut self) {
        if !self.holds {
            eprintln!("the history is kept in {}", self.path.display());
        }
    }
}

/// Checks the history.
pub(crate) fn assert_explained(history: &History) -> Checked {
    check(history).unwrap_or_else(|rejected| panic!("the history is not one of a correct service:\n{rejected}"))
}

/// The rows of changes, by the request that they are of.
fn changes(log: &[AuditLine]) -> BTreeMap<&str, Vec<&AuditLine>> {
    let mut changes: BTreeMap<&str, Vec<&AuditLine>> = BTreeMap::new();
    for row in log.iter().filter(|row| row.outcome == "ok" && row.changes != "[]") {
        changes.entry(row.request_id.as_str()).or_default().push(row);
    }
    changes
}

/// Says of each call without an answer what the log has of it, which was read at an instant of the run.
pub(crate) fn close(history: &mut History, log: &[AuditLine], known_us: i64) {
    let changes = changes(log);
    history.close(known_us, |call| {
        let rows = changes.get(call.id.as_str()).map(Vec::as_slice).unwrap_or_default();
        assert!(rows.len() <= 1, "{call:?} has {} row(s) of changes: {rows:#?}", rows.len());
        let row = rows.first()?;
        let told = read(&call.op, &serde_json::from_str(&row.result).unwrap());
        assert!(told.is_change(), "{call:?} changed something by being told {told:?}: {row:#?}");
        assert_same(call, &told, row);
        Some((told, row.created_at))
    });
}

/// Every change that was acknowledged is in the log once, and no other call is there twice.
pub(crate) fn assert_logged(history: &History, log: &[AuditLine]) {
    let changes = changes(log);
    for call in &history.calls {
        let rows = changes.get(call.id.as_str()).map(Vec::as_slice).unwrap_or_default();
        let expected = match &call.answer {
            Some(answer) => usize::from(answer.is_change())..=usize::from(answer.is_change()),
            None => 0..=1,
        };
        assert!(expected.contains(&rows.len()), "{call:?} has {} row(s) of changes: {rows:#?}", rows.len());
        if let (Some(row), Some(answer)) = (rows.first(), &call.answer) {
            assert_same(call, answer, row);
        }
    }
}

/// The log says what the caller was told.
fn assert_same(call: &Call, answer: &Answer, row: &AuditLine) {
    assert_eq!(row.agent_id, call.agent, "{call:?}: {row:?}");
    // It is about what was asked about.
    if let Some(key) = call.op.key().or(call.op.task_id()) {
        let changed: Vec<Value> = serde_json::from_str(&row.changes).unwrap();
        assert!(changed.iter().any(|change| change["key"] == key), "{call:?}: {row:?}");
    }
    let result: Value = serde_json::from_str(&row.result).unwrap();
    match answer {
        Answer::Granted { token, .. } | Answer::Refreshed { token, .. } => {
            assert_eq!(result["fencing_token"], *token, "{call:?}: {row:?}");
        }
        Answer::Submitted { task_id } | Answer::Claimed { task_id, .. } => {
            assert_eq!(result["task_id"], *task_id, "{call:?}: {row:?}");
        }
        Answer::Ended { status } => assert_eq!(result["status"], *status, "{call:?}: {row:?}"),
        _ => assert_eq!(result["success"].as_bool().or(result["released"].as_bool()), Some(true), "{call:?}: {row:?}"),
    }
}

/// The log is whole, and the specification allows what is in it. Returns how many rows were looked at.
pub(crate) fn assert_allowed(fleet: &Fleet) -> u64 {
    let verified = fleet.command(&["audit", "verify"]).run();
    assert_eq!(verified.code, 0, "{verified:#?}");
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log.tla");
    fleet.command(&["audit", "export", "--format", "tla"]).arg("-o").arg(&log).told(0);
    let output = Command::new(root().join("formal/validate")).arg("--json").arg(&log).output().unwrap();
    let said = || format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", said()));
    assert_eq!(found[0]["accepted"], true, "the log is no behaviour of the specification: {}", said());
    found[0]["rows"].as_u64().unwrap()
}

/// Keeps the figures of a scenario that passed.
pub(crate) struct Figures<'a> {
    pub(crate) history: &'a History,
    pub(crate) backend: &'a str,
    pub(crate) hosts: usize,
    pub(crate) checked: Checked,
    pub(crate) faults: &'a BTreeMap<&'static str, u64>,
    pub(crate) checked_ms: u64,
    pub(crate) rows_validated: u64,
    pub(crate) seconds: f64,
}

impl Figures<'_> {
    pub(crate) fn write(&self) {
        let Checked { calls, answered, failed, logged, claimed, keys, tasks, possibilities } = self.checked;
        let name = &self.history.name;
        let figures = json!({
            "layer": "histories", "name": name, "backend": self.backend, "seed": self.history.seed, "hosts": self.hosts,
            "calls": calls, "answered": answered, "failed": failed, "unanswered": calls - answered - failed,
            "unanswered_changes": logged, "keys": keys, "tasks": tasks, "claimed": claimed,
            "possibilities_max": possibilities, "faults": self.faults, "checked_ms": self.checked_ms,
            "rows_validated": self.rows_validated, "seconds": (self.seconds * 10.0).round() / 10.0, "result": "passed",
        });
        tests::figures::write(&format!("history-{name}-{}", self.backend), &figures);
    }
}
