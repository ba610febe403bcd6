//! The audit log of a run is a behaviour of the specification, and a log that was tampered with is not.
//!
//! EXCL, CLAIM, GATE, DENY, AUDIT, REPLAY, REVOKE, TRUST: as far as the log tells, row by row.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use portreeve::store::audit::AuditRow;
use portreeve::trace::Trace;
use serde_json::{Value, json};

use crate::harness::cli::cli;
use crate::harness::{Client, Server, Setup, postgres};
use crate::swap::{built, edited, upload};
use crate::tidy::root;

/// What `formal/validate` says of some logs, by file: none for one that is accepted, else the row and the reason.
fn validate(logs: &[PathBuf]) -> BTreeMap<String, Option<(i64, String)>> {
    let output = Command::new(root().join("formal/validate")).arg("--json").args(logs).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let found: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));
    let all = found.iter().all(|entry| entry["accepted"] == true);
    assert_eq!(output.status.code(), Some(i32::from(!all)), "{said}");
    let name =
        |entry: &Value| Path::new(entry["log"].as_str().unwrap()).file_stem().unwrap().to_str().unwrap().to_owned();
    let rejection = |entry: &Value| Some((entry["row"].as_i64()?, entry["reason"].as_str()?.to_owned()));
    found.iter().map(|entry| (name(entry), rejection(entry))).collect()
}

async fn claim(client: &Client, lease_seconds: i64) -> Value {
    client.post("/work/claim", json!({"lease_seconds": lease_seconds})).await.done()
}

async fn end(client: &Client, claim: &Value, success: bool) {
    let body = json!({"task_id": claim["task_id"], "claim_token": claim["claim_token"], "success": success});
    client.post("/work/complete", body).await.done();
}

/// Something of everything that the specification speaks of, and of what it does not.
async fn run(server: &Server) {
    let (a, b) = (server.agent("a", "codex_local").await, server.agent("b", "codex_remote").await);
    let take = |file: &str, minutes: i64| json!({"file_path": file, "ttl_minutes": minutes});
    a.post("/locks/acquire", take("x", 10)).await.done();
    b.post("/locks/acquire", take("x", 10)).await.refused("locked_by_other");
    a.post("/locks/acquire", take("x", 20)).await.done();
    a.post("/locks/renew", json!({"file_path": "x", "fencing_token": 1, "ttl_minutes": 30})).await.done();
    b.post("/locks/release", json!({"file_path": "x"})).await.refused("lock_not_found_or_not_owner");
    b.post("/locks/acquire", take("y", 5)).await.done();
    server.advance(6 * 60).await;
    a.post("/locks/acquire", take("y", 5)).await.done();
    b.post("/locks/release", json!({"file_path": "y", "fencing_token": 1}))
        .await
        .refused("lock_not_found_or_not_owner");
    a.release("x").await.done();
    b.post_once("/locks/acquire", "once", take("z", 5)).await.done();
    b.post_once("/locks/acquire", "once", take("z", 5)).await.done();

    let first = server.admin.submit("t", json!({"max_attempts": 2})).await;
    let second = server.admin.submit("t", json!({"depends_on": [first]})).await;
    let third = server.admin.submit("t", json!({"depends_on": [second]})).await;
    end(&b, &claim(&b, 60).await, false).await;
    claim(&a, 60).await;
    server.advance(60).await;
    // The last attempt is over, and takes with it what waited for it.
    a.post("/work/claim", json!({})).await.refused("no_tasks_available");
    assert_eq!(server.admin.task(&third).await["status"], "failed");
    server.admin.submit("t", json!({})).await;
    let held = claim(&b, 600).await;
    b.post(
        "/work/heartbeat",
        json!({"task_id": held["task_id"], "claim_token": held["claim_token"], "lease_seconds": 900}),
    )
    .await
    .done();
    end(&b, &held, true).await;
    let fifth = server.admin.submit("t", json!({})).await;
    server.admin.post("/work/cancel", json!({"task_id": fifth})).await.done();
    server.admin.post("/work/cancel", json!({"task_id": fifth})).await.refused("task_already_final");

    b.post("/handoffs/write", json!({"summary": "half done"})).await.done();
    a.post("/discovery/register", json!({"session_id": "s"})).await.done();
    a.post("/locks/acquire", take("left", 60)).await.done();
    server.advance(20 * 60).await;
    b.post("/locks/acquire", take("kept", 60)).await.done();
    let cleaned = server.admin.post("/discovery/cleanup", json!({"stale_threshold_minutes": 15})).await.done();
    assert_eq!(cleaned["locks_released"], 1, "{cleaned}");
    server.suspend("b", true).await;
    b.acquire("w").await.denied("suspended");
    server.suspend("b", false).await;
    b.acquire("w").await.done();
    server.admin.delete("/locks/w").await.ok();
    let bytes = built(&edited("bundle.toml", "version = \"0.1.0\"", "version = \"0.1.1\""));
    let digest = server.admin.send(upload(bytes)).await.done()["digest"].as_str().unwrap().to_owned();
    server.admin.post(&format!("/components/{digest}/activate"), json!({"expected_epoch": 1})).await.done();
    server
        .admin
        .post(&format!("/components/{digest}/activate"), json!({"expected_epoch": 1}))
        .await
        .refused("epoch_moved");
    a.acquire("v").await.done();
    b.post("/locks/acquire", json!({"file_path": "v", "agent_id": "a"})).await.denied("identity_mismatch");
}

/// The whole log of a service.
pub(crate) async fn rows_of(server: &Server) -> Vec<AuditRow> {
    server.last_seq().await;
    let rows = server.app().gate().store().view().audit_rows(0, 10_000).await.unwrap();
    rows.into_iter().map(|(row, _)| row).collect()
}

/// Demands that logs are behaviours of the specification, and tells how many rows that were.
pub(crate) fn assert_all_are_behaviours(logs: &[Vec<AuditRow>]) -> usize {
    let dir = tempfile::tempdir().unwrap();
    let paths: Vec<PathBuf> =
        logs.iter().enumerate().map(|(n, rows)| written(dir.path(), &format!("log_{n}"), rows)).collect();
    for (name, said) in validate(&paths) {
        if let Some((row, reason)) = said {
            let kept = dir.keep();
            panic!("{}: {name}, row {row}: {reason}", kept.display());
        }
    }
    logs.iter().map(Vec::len).sum()
}

fn written(dir: &Path, name: &str, rows: &[AuditRow]) -> PathBuf {
    let mut trace = Trace::default();
    for row in rows {
        trace.push(row).unwrap();
    }
    let path = dir.join(format!("{name}.tla"));
    std::fs::write(&path, trace.to_tla()).unwrap();
    path
}

/// A way to tamper with a log: its name, a row to do it to, what is done, and a part of what has to be said.
type Tampering = (&'static str, fn(&AuditRow) -> bool, fn(&mut AuditRow), &'static str);

fn replace(text: &mut String, from: &str, to: &str) {
    assert!(text.contains(from), "`{from}` is not in {text}");
    *text = text.replace(from, to);
}

fn is(row: &AuditRow, command: &str, outcome: &str) -> bool {
    row.command == command && row.outcome == outcome
}

const TAMPERINGS: [Tampering; 17] = [
    ("a_number_left_out", |row| is(row, "lock_acquire", "ok"), |row| row.seq += 1, "a row is missing"),
    (
        "a_denial_made_an_act",
        |row| is(row, "lock_acquire", "denied") && row.reason == "suspended",
        |row| row.outcome = "ok".to_owned(),
        "was not allowed was carried out",
    ),
    (
        "an_allowance_for_the_suspended",
        |row| is(row, "lock_acquire", "denied") && row.reason == "suspended",
        |row| (row.decision, row.outcome) = ("allow".to_owned(), "failed".to_owned()),
        "the caller is suspended",
    ),
    ("another_epoch", |row| row.epoch == 2, |row| row.epoch = 1, "an epoch that was over"),
    ("an_epoch_to_come", |row| is(row, "lock_acquire", "ok"), |row| row.epoch = 9, "still to come"),
    (
        "older_facts",
        |row| row.agent_id == "b" && row.facts_version == 3 && row.outcome == "ok",
        |row| row.facts_version = 2,
        "facts about the caller that were over",
    ),
    (
        "another_component",
        |row| row.epoch == 2 && is(row, "lock_acquire", "ok"),
        |row| row.component.push('0'),
        "a component that was not in force",
    ),
    (
        "more_trust",
        |row| row.agent_id == "b" && row.facts_version == 3 && is(row, "lock_acquire", "ok"),
        |row| row.trust_level = 4,
        "another trust",
    ),
    (
        "another_token",
        |row| is(row, "lock_acquire", "ok") && row.resource.ends_with(":y"),
        |row| replace(&mut row.changes, "\"version\":1", "\"version\":7"),
        "gives other tokens",
    ),
    (
        "a_lock_of_somebody_else",
        |row| is(row, "lock_acquire", "refused"),
        |row| {
            row.outcome = "ok".to_owned();
            row.changes = r#"[{"table":"file_locks","key":"x","version":2}]"#.to_owned();
            row.result = row.result.replace("\"expires_at\":null", "\"expires_at\":\"2031-05-01T13:00:00Z\"");
        },
        "although something stood against it",
    ),
    (
        "a_release_that_was_refused",
        |row| is(row, "lock_release", "ok"),
        |row| (row.outcome, row.changes) = ("refused".to_owned(), "[]".to_owned()),
        "although nothing stood against it",
    ),
    (
        "a_change_without_its_doing",
        |row| is(row, "handoff_write", "ok"),
        |row| {
            row.changes =
                r#"[{"table":"work_queue","key":"t","version":{"status":"completed","attempt_count":1}}]"#.to_owned()
        },
        "other tasks",
    ),
    (
        "a_longer_lease",
        |row| is(row, "lock_acquire", "ok"),
        |row| replace(&mut row.parameters, "\"ttl_minutes\":10", "\"ttl_minutes\":9"),
        "a longer or a shorter lease",
    ),
    (
        "a_lock_that_a_note_frees",
        |row| is(row, "handoff_write", "ok"),
        |row| row.changes = r#"[{"table":"file_locks","key":"z","version":null}]"#.to_owned(),
        "other locks",
    ),
    (
        "a_lock_of_somebody_who_is_there",
        |row| is(row, "session_cleanup", "ok"),
        |row| row.changes = r#"[{"table":"file_locks","key":"kept","version":null}]"#.to_owned(),
        "other locks",
    ),
    (
        "one_attempt_more",
        |row| is(row, "task_complete", "ok") && row.result.contains("completed"),
        |row| replace(&mut row.changes, "\"attempt_count\":1", "\"attempt_count\":2"),
        "other tasks",
    ),
    (
        "before_its_time",
        |row| is(row, "lock_release", "ok"),
        |row| row.created_at -= 3_600_000_000,
        "before what it builds on",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_a_run_is_a_behaviour_of_the_specification_and_a_tampered_one_is_not() {
    let server = Server::start().await;
    run(&server).await;
    let (rows, dir) = (rows_of(&server).await, tempfile::tempdir().unwrap());
    // What a denial looks like that was out of date when it should be recorded: it is decided again, and changes nothing.
    let mut denied_late = rows.clone();
    let denial =
        denied_late.iter_mut().find(|row| is(row, "lock_acquire", "denied") && row.reason == "suspended").unwrap();
    denial.facts_version -= 1;
    (denial.outcome, denial.result) = ("failed".to_owned(), json!({"error": "stale_decision"}).to_string());
    let mut logs = vec![written(dir.path(), "whole", &rows), written(dir.path(), "denied_late", &denied_late)];
    let mut expected = BTreeMap::new();
    for (name, chosen, tamper, reason) in TAMPERINGS {
        let mut rows = rows.clone();
        let row = rows.iter_mut().find(|row| chosen(row)).unwrap_or_else(|| panic!("{name}: there is no such row"));
        let seq = row.seq;
        tamper(row);
        logs.push(written(dir.path(), name, &rows));
        expected.insert(name, (seq, reason));
    }
    let said = validate(&logs);
    assert_eq!((&said["whole"], &said["denied_late"]), (&None, &None));
    for (name, (seq, reason)) in expected {
        let (row, why) = said[name].clone().unwrap_or_else(|| panic!("{name} is accepted"));
        assert_eq!(row, seq, "{name}: {why}");
        assert!(why.contains(reason), "{name}: {why}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_exported_row_by_row_and_for_the_model_checker() {
    let server = Server::start_with(Setup::default()).await;
    server.admin.acquire("a").await.done();
    let rows = rows_of(&server).await;
    let dir = server.stop().await;
    let file = |name: &str| dir.path().join(name);
    let export = |format: &str| cli(["audit", "export", "--format", format, "-o"]).arg(file(format)).on(dir.path());
    let database = postgres::known(dir.path()).map(|name| postgres::service_url(&name));
    for format in ["jsonl", "tla"] {
        let mut command = export(format);
        if let Some(url) = &database {
            command = command.env("PORTREEVE_DATABASE_URL", url);
        }
        assert!(command.told(0).contains(&format!("{} row(s)", rows.len())));
    }
    let lines = std::fs::read_to_string(file("jsonl")).unwrap();
    let read: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        read.iter().map(|row| row["seq"].as_i64().unwrap()).collect::<Vec<_>>(),
        rows.iter().map(|row| row.seq).collect::<Vec<_>>()
    );
    assert!(read.iter().all(|row| row["leaf_hash"].as_str().unwrap().len() == 64));
    let mut trace = Trace::default();
    rows.iter().for_each(|row| trace.push(row).unwrap());
    assert_eq!(std::fs::read_to_string(file("tla")).unwrap(), trace.to_tla());
    assert!(
        cli(["audit", "export", "--format", "tla", "--url", "http://127.0.0.1:1"])
            .told(1)
            .contains("reads the store itself")
    );
}

/// Agents of several profiles at once; on a server they work at three hosts, one of which is killed every few seconds.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_a_demo_is_a_behaviour_of_the_specification() {
    let dir = tempfile::tempdir().unwrap();
    let (kept, log) = (dir.path().join("kept"), dir.path().join("demo.tla"));
    let mut demo = cli(["demo", "--agents", "8", "--seconds", "8", "--repo"]).arg(root());
    let mut export = cli(["audit", "export", "--format", "tla", "-o"]).arg(&log);
    if postgres::is_chosen() {
        let url = postgres::service_url(&postgres::bare().await);
        demo = demo.args(&["--hosts", "3", "--kill-every", "3", "--database", &url]);
        export = export.env("PORTREEVE_DATABASE_URL", url);
    } else {
        demo = demo.arg("--keep").arg(&kept);
        export = export.on(&kept);
    }
    demo.told(0);
    export.told(0);
    let rows = std::fs::read_to_string(&log).unwrap().matches("[seq |-> ").count();
    assert!(rows > 300, "{rows} rows are too few to mean something");
    let begun = std::time::Instant::now();
    assert_eq!(validate(&[log])["demo"], None);
    let (hosts, backend) = if postgres::is_chosen() { (3, "postgres") } else { (1, "sqlite") };
    let figures = json!({
        "layer": "traces", "name": "demo", "backend": backend, "hosts": hosts, "rows_validated": rows,
        "seconds": begun.elapsed().as_secs(), "result": "passed",
    });
    tests::figures::write(&format!("trace-demo-{backend}"), &figures);
}
