//! The log's requests asked again: of a candidate, and of the component that decided them.
//!
//! REPLAY: each row of the log is answered by its component as it was.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::cli::{Cli, cli};
use crate::harness::state::{drop_guards, execute};
use crate::harness::{Client, Server, Setup, postgres};

/// What two agents did: allowed, held by another, denied, and refused by the host.
struct Fleet {
    server: Server,
    b: Client,
}

impl Fleet {
    async fn at_work() -> Self {
        // The command opens the store as any process does, so its time is the machine's.
        let server = Server::start_with(Setup::default()).await;
        let a = server.agent("a", "claude_code_local").await;
        let b = server.agent("b", "codex_remote").await;
        for n in 0..4 {
            a.acquire(&format!("src/{}.rs", n % 2)).await.ok();
            b.acquire(&format!("src/{n}.rs")).await.ok();
        }
        b.get("/locks").await.ok();
        b.delete("/locks/src/1.rs").await.denied("trust_below_admin");
        b.post("/work/submit", json!({"task_type": "t", "task_description": "rm -rf /"})).await;
        b.post("/work/claim", json!({"agent_id": "a"})).await.denied("identity_mismatch");
        Self { server, b }
    }

    fn replay(&self) -> Cli {
        cli(["policy", "replay"]).on(self.server.data())
    }

    fn ask(&self, candidate: &Path) -> Cli {
        self.replay().arg("--candidate").arg(candidate)
    }

    /// What whoever owns the database can do to a row.
    async fn tamper(&self, seq: i64, column: &str, value: &str) {
        let mut db = self.server.db().await;
        // The positions are given by whoever looks, on a server.
        self.server.app().gate().store().view().audit_rows(0, 1).await.unwrap();
        drop_guards(&mut db, "audit_log").await;
        let sql = if postgres::is_chosen() {
            format!("UPDATE audit_log l SET {column} = {value} FROM audit_seq s WHERE s.id = l.id AND s.seq = {seq}")
        } else {
            format!("UPDATE audit_log SET {column} = {value} WHERE seq = {seq}")
        };
        assert_eq!(execute(&mut db, &sql).await.unwrap(), 1, "{sql}");
        if postgres::is_chosen() {
            // A database without its guards is not opened; who tampers puts them back.
            execute(&mut db, "ALTER TABLE audit_log ENABLE TRIGGER USER").await.unwrap();
        }
    }
}

/// A policy that keeps `codex_remote` from taking locks, and is the default one else.
fn without_locks() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("acme");
    cli(["policy", "new"]).arg(&folder).told(0);
    let profile = folder.join("profiles/codex_remote.toml");
    let text = fs::read_to_string(&profile).unwrap();
    let changed = text.replace("trust = 2\n", "trust = 2\nblocked_operations = [\"acquire_lock\"]\n");
    assert_ne!(text, changed);
    fs::write(profile, changed).unwrap();
    (dir, folder)
}

fn count(report: &Value, field: &str) -> i64 {
    report[field].as_i64().unwrap_or_else(|| panic!("no {field} in {report:#}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_that_decided_changes_nothing() {
    let fleet = Fleet::at_work().await;
    let last = fleet.server.last_seq().await;
    let report = fleet.ask(Path::new("default")).json(0);
    assert_eq!(report["changed"], json!([]));
    assert_eq!(report["skipped"], json!({"identity_mismatch": 1}));
    assert_eq!((count(&report, "rows"), count(&report, "asked")), (last, last - 1));
    assert_eq!(report["same"], report["asked"]);
    // One row a time on many threads, or all on one: it is the same log.
    assert_eq!(fleet.ask(Path::new("default")).args(&["--threads", "1"]).json(0)["same"], report["same"]);
    let said = fleet.ask(Path::new("default")).told(0);
    assert!(said.contains("nothing changes") && said.contains("identity_mismatch"), "{said}");

    let faithful = fleet.replay().arg("--faithful").json(0);
    assert_eq!((&faithful["candidate"], &faithful["same"]), (&Value::Null, &report["same"]));
    assert!(fleet.replay().arg("--faithful").told(0).contains("each is what its component decides"));
    assert!(fleet.replay().told(2).contains("--candidate"));
    assert!(cli(["policy", "replay", "--faithful", "--url", "http://127.0.0.1:1"]).told(1).contains("store itself"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_changed_changes_the_decisions_that_it_is_about_and_no_other() {
    let fleet = Fleet::at_work().await;
    let (_dir, candidate) = without_locks();
    let report = fleet.ask(&candidate).args(&["--limit", "2"]).json(3);
    let groups = report["changed"].as_array().unwrap();
    assert_eq!(groups.len(), 1, "{report:#}");
    let group = &groups[0];
    assert_eq!(
        (&group["agent_id"], &group["operation"], count(group, "count")),
        (&json!("b"), &json!("acquire_lock"), 4)
    );
    assert_eq!((&group["recorded"]["effect"], &group["now"]["effect"]), (&json!("allow"), &json!("deny")));
    assert_ne!(group["recorded"]["deciding"], group["now"]["deciding"]);
    assert_eq!(count(&report, "asked") - count(&report, "same"), 4);
    assert_eq!((count(&report, "no_longer_allowed"), count(&report, "newly_allowed")), (4, 0));
    let samples = group["samples"].as_array().unwrap();
    assert_eq!(samples.len(), 2);
    let rows = fleet.server.audit_after(0).await;
    for sample in samples {
        let row = rows.iter().find(|row| row.seq == count(sample, "seq")).unwrap();
        assert_eq!((row.agent_id.as_str(), row.command.as_str()), ("b", "lock_acquire"));
        assert_eq!(sample["recorded"]["reason"], row.reason.as_str());
        assert_eq!(sample["now"]["reason"], "operation_blocked");
    }
    assert!(count(&samples[0], "seq") < count(&samples[1], "seq"));

    let said = fleet.ask(&candidate).told(3);
    assert!(
        said.contains("4  allow → deny  b acquire_lock") && said.contains("4 would be decided otherwise"),
        "{said}"
    );
    assert!(said.contains("operation_blocked") && said.matches("    row ").count() == 3, "{said}");
    // Nothing was written.
    assert_eq!(fleet.server.audit_after(0).await, rows);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_lies_is_named() {
    let fleet = Fleet::at_work().await;
    let rows = fleet.server.audit_after(0).await;
    let row = rows.iter().find(|row| row.reason == "trust_below_admin").unwrap();
    fleet.tamper(row.seq, "detail", "'it was a Friday'").await;
    let report = fleet.replay().arg("--faithful").json(3);
    assert_eq!(count(&report, "asked") - count(&report, "same"), 1);
    let sample = &report["changed"][0]["samples"][0];
    assert_eq!((count(sample, "seq"), &sample["request_id"]), (row.seq, &json!(row.request_id)));
    assert_eq!(sample["differs"][0]["field"], "detail");
    assert_eq!(sample["differs"][0]["recorded"], "it was a Friday");
    let said = fleet.replay().arg("--faithful").told(3);
    assert!(said.contains(&format!("row {} ", row.seq)) && said.contains("it was a Friday"), "{said}");

    // Each column that a decision is in.
    let columns = [
        ("decision", "'allow'"),
        ("reason", "'allowed'"),
        ("engine", "'native'"),
        ("deciding", "'[]'"),
        ("violations", "'[1]'"),
        ("obligations", "'{}'"),
        ("trust_level", "4"),
    ];
    for (column, value) in columns {
        fleet.tamper(row.seq, column, value).await;
    }
    let told = fleet.replay().arg("--faithful").json(3)["changed"][0]["fields"].clone();
    for (column, _) in columns {
        assert!(told.as_array().unwrap().iter().any(|field| field == column), "{column} is not in {told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_asked_again_is_counted() {
    let fleet = Fleet::at_work().await;
    fleet.b.submit("t", json!({"task_description": "look at it. ".repeat(20_000)})).await;
    let last = fleet.server.last_seq().await;
    fleet.tamper(last - 3, "request", "'{}'").await;
    fleet.tamper(last - 4, "component", "'sha256:none'").await;
    let skipped = json!({"component_missing": 1, "identity_mismatch": 1, "long_texts": 1, "unreadable": 1});
    let faithful = fleet.replay().arg("--faithful").json(0);
    assert_eq!(faithful["skipped"], skipped);
    assert_eq!((count(&faithful, "rows"), count(&faithful, "asked")), (last, last - 4));
    let said = fleet.replay().arg("--faithful").told(0);
    for name in skipped.as_object().unwrap().keys() {
        assert!(said.contains(&format!("({name})")), "{said}");
    }
    // A candidate can be asked whatever decided before.
    let report = fleet.ask(Path::new("default")).json(0);
    assert_eq!(report["skipped"], json!({"identity_mismatch": 1, "long_texts": 1, "unreadable": 1}));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scope_narrows() {
    let fleet = Fleet::at_work().await;
    let last = fleet.server.last_seq().await;
    // Rows have the time of the store, to the microsecond.
    tokio::time::sleep(Duration::from_millis(20)).await;
    let since = fleet.server.now();
    tokio::time::sleep(Duration::from_millis(20)).await;
    for _ in 0..3 {
        fleet.b.get("/locks").await.ok();
    }
    // A store may begin with rows of another clock's time.
    let all = fleet.server.app().gate().store().view().audit_rows(0, 10_000).await.unwrap();
    let before: Vec<bool> = all.iter().map(|(row, _)| row.created_at < since.as_micros()).collect();
    let count_of =
        |rows: &[bool], wanted: bool| i64::try_from(rows.iter().filter(|is| **is == wanted).count()).unwrap();
    assert!(count_of(&before, true) > 3 && count_of(&before, false) >= 3, "{before:?}");
    let rows = |more: &[&str]| count(&fleet.ask(Path::new("default")).args(more).json(0), "rows");
    assert_eq!(rows(&[]), last + 3);
    assert_eq!(rows(&["--since", &since.to_string()]), count_of(&before, false));
    assert_eq!(rows(&["--until", &since.to_string()]), count_of(&before, true));
    assert_eq!(rows(&["--last", "5"]), 5);
    assert_eq!(rows(&["--last", "5", "--until", &since.to_string()]), 2);
    assert_eq!(rows(&["--last", "100000"]), last + 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_cannot_decide_would_change_everything() {
    let fleet = Fleet::at_work().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("traps.wasm");
    fs::write(&file, tests::hostile::traps()).unwrap();
    let report = fleet.ask(&file).json(3);
    assert_eq!((count(&report, "same"), count(&report, "asked")), (0, fleet.server.last_seq().await - 1));
    for group in report["changed"].as_array().unwrap() {
        assert_eq!(group["now"]["effect"], "unavailable", "{group:#}");
        assert_eq!(group["samples"][0]["now"]["reason"], "trap");
    }
}
