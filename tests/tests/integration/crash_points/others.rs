//! Steps that no single request passes: a first start, background work, the numbers of the log, a decision that went stale
//! under its request, and bursts, where a step is one of many requests at once.

use std::collections::BTreeSet;
use std::time::Duration;

use portreeve::clock::{Clock as _, SystemClock, Time};
use serde_json::{Value, json};

use super::chain::{Ran, commit_step};
use super::control::{Control, Step};
use super::world::World;
use crate::crash::{assert_invariants, assert_kept, work};
use crate::harness::cli::cli;
use crate::harness::process::Process;
use crate::harness::state::{connect, scalar};
use crate::harness::{Client, Request, postgres};

fn step(name: &str, nth: usize) -> Step {
    Step { name: name.to_owned(), nth }
}

// ------------------------------------------------------------- the first start

/// A folder, or a database, that nobody has served.
async fn bare() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    if postgres::is_chosen() {
        postgres::clone(dir.path(), postgres::Kind::Bare).await;
    }
    dir
}

/// A service that died in its first start starts: with one policy in force, one admin, and a key for it.
pub(super) async fn first_starts() -> Ran {
    let dir = bare().await;
    let control = Control::new(dir.path());
    control.trace();
    let server = Process::start_crashing(dir.path(), control.path()).await;
    // The last of them follows being ready by nothing.
    let steps: Vec<Step> = control.steps();
    drop(server);
    let of_start = |step: &&Step| {
        ["start.", "policy."].iter().any(|part| step.name.starts_with(part))
            || [commit_step(), "gate.committed", "sqlite.before-commit", "postgres.before-call"].contains(&&*step.name)
    };
    let mut ran = Ran::default();
    for step in steps.iter().filter(of_start) {
        let dir = bare().await;
        let control = Control::new(dir.path());
        control.arm(step);
        let status = Process::crash_at_start(dir.path(), control.path()).await;
        control.assert_died(status, step);
        // The key of an admin that is there, and that nobody wrote down, is gone with the process.
        let words: &[&str] = if postgres::is_chosen() { &["--new-admin-key"] } else { &[] };
        let server = Process::start_with(dir.path(), words).await;
        assert_eq!(server.admin.get("/profiles/me").await.done()["profile"]["name"], "admin", "{step:?}");
        let mut db = connect(dir.path()).await;
        for (table, count) in [("components", 1), ("activations", 1), ("agents", 2)] {
            let there = scalar(&mut db, &format!("SELECT count(*) FROM {table}")).await;
            assert_eq!(there, count, "{table} after {step:?}");
        }
        server.agent("a", "codex_local").await.acquire("src/a.rs").await.done();
        assert_invariants(dir.path()).await;
        assert_eq!(cli(["audit", "verify"]).on(dir.path()).json(0)["valid"], true);
        ran.whole += 1;
    }
    ran.steps = steps.into_iter().map(|step| step.name).collect();
    ran
}

// ------------------------------------------------------------- background work

/// A task whose time is over is failed once, by the service that died in it or by the next.
pub(super) async fn expiries() -> Ran {
    let mut world = World::start().await;
    world.control.trace();
    let (id, _) = lapsing(&world, 1).await;
    ended(&world, &id).await;
    world.control.wait_for("background.lapse-handled").await;
    let steps: Vec<Step> = world.control.steps();
    world.control.disarm();
    let begun = steps.iter().position(|step| step.name == "background.lapse-seen").unwrap();
    let mut ran = Ran::default();
    let in_background = |step: &&Step| !step.name.starts_with("http.") && !step.name.contains("numbers");
    let mut tried = BTreeSet::new();
    for step in steps[begun..].iter().filter(in_background).filter(|step| !step.name.contains("rows-hashed")) {
        if !tried.insert(&step.name) {
            continue;
        }
        let id = armed_in_time(&mut world, step).await;
        let status = world.take_server().dies().await;
        world.control.assert_died(status, step);
        let failed = format!("SELECT count(*) FROM work_queue WHERE task_id = '{id}' AND status = 'failed'");
        let mut db = connect(world.data()).await;
        let failed = scalar(&mut db, &failed).await;
        assert_eq!(failed, rows_about(&world, &id).await, "{step:?}: failed, and no row that says so, or the reverse");
        world.assert_whole().await;
        world.restart().await;
        ended(&world, &id).await;
        assert_eq!(rows_about(&world, &id).await, 1, "{step:?}");
        ran.whole += usize::from(failed == 1);
        ran.none += usize::from(failed == 0);
    }
    ran.steps = steps[begun..].iter().map(|step| step.name.clone()).collect();
    ran
}

/// Submits a task whose time is over soon, and arms the step before it is. On a busy machine that may take longer than
/// thought: then the service, which may have passed the step or not, is killed, and the next task has more time.
async fn armed_in_time(world: &mut World, step: &Step) -> String {
    for seconds in [1, 4, 16] {
        let (id, at) = lapsing(world, seconds).await;
        // The submission has passed the step as well: only from here on it counts.
        world.control.arm(&Step { nth: 1, ..step.clone() });
        if now() < at {
            return id;
        }
        world.take_server().kill();
        world.restart().await;
    }
    panic!("{step:?}: not armed within 16 seconds");
}

fn now() -> Time {
    SystemClock::default().now()
}

/// Submits a task that fails after so many seconds. Its name, and when that is.
async fn lapsing(world: &World, seconds: i64) -> (String, Time) {
    let at = now().plus_seconds(seconds);
    (world.worker().submit("lapsing", json!({"deadline": at.to_string()})).await, at)
}

/// Waits until a task failed for its time.
async fn ended(world: &World, id: &str) {
    for _ in 0..400 {
        let mut db = connect(world.data()).await;
        let failed = format!("SELECT count(*) FROM work_queue WHERE task_id = '{id}' AND status = 'failed'");
        if scalar(&mut db, &failed).await == 1 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("the task {id} is not failed after ten seconds");
}

/// Rows of background work that say they changed a task.
async fn rows_about(world: &World, id: &str) -> i64 {
    let mut db = connect(world.data()).await;
    let sql = format!(
        "SELECT count(*) FROM audit_log WHERE command = 'task_expire' AND outcome = 'ok'
         AND CAST(changes AS text) LIKE '%{id}%'"
    );
    scalar(&mut db, &sql).await
}

// ------------------------------------------------------------- the numbers of the log

/// Rows that were committed get their numbers, whoever died over giving them.
pub(super) async fn numbers() -> Ran {
    let mut ran = Ran::default();
    if !postgres::is_chosen() {
        return ran;
    }
    let mut world = World::start().await;
    let names = [
        "postgres.numbers-taken",
        "postgres.rows-hashed",
        "postgres.before-numbers-commit",
        "postgres.numbers-committed",
    ];
    for (n, name) in names.into_iter().cycle().take(12).enumerate() {
        let paths: Vec<String> = (0..5).map(|file| format!("src/{n}/{file}.rs")).collect();
        let worker = world.worker();
        world.control.arm(&step(name, 1));
        let mut told = Vec::new();
        for path in &paths {
            // A host that numbers may be gone before the last of them.
            let asked = Request::new("POST", "/locks/acquire").json(&json!({"file_path": path}));
            told.push(worker.try_send(asked).await.filter(|reply| reply.status == 200).map(|reply| reply.body));
        }
        let status = world.take_server().dies().await;
        world.control.assert_died(status, &step(name, 1));
        world.assert_whole().await;
        world.restart().await;
        for (path, told) in paths.iter().zip(told) {
            let Some(told) = told else { continue };
            let lock = &world.worker().get(&format!("/locks/status/{path}")).await.ok()["lock"];
            assert_eq!(lock["fencing_token"], told["fencing_token"], "{path} after {name}");
        }
        ran.whole += 1;
        ran.steps.push(name.to_owned());
    }
    ran
}

// ------------------------------------------------------------- many at once

/// The service dies when a decision is found to be old, while facts change under those who ask.
pub(super) async fn stale_decisions() -> Ran {
    let mut world = World::start().await;
    let mut ran = Ran::default();
    let stale = step("gate.decision-stale", 1);
    for round in 0..4 {
        let (worker, admin) = (world.worker(), world.admin());
        world.control.arm(&Step { nth: 1 + round, ..stale.clone() });
        let server = world.take_server();
        let asking = (0..4_u64).map(|client| tokio::spawn(ask(worker.clone(), client)));
        let asking: Vec<_> = asking.collect();
        let moving = tokio::spawn(move_facts(admin));
        let status = server.dies().await;
        world.control.assert_died(status, &stale);
        moving.await.unwrap();
        let told: Vec<(String, Value)> =
            futures::future::join_all(asking).await.into_iter().flat_map(Result::unwrap).collect();
        world.assert_whole().await;
        world.restart().await;
        for (path, grant) in &told {
            let lock = &world.worker().get(&format!("/locks/status/{path}")).await.ok()["lock"];
            assert_eq!(lock["fencing_token"], grant["fencing_token"], "{path} was granted");
        }
        ran.whole += 1;
    }
    ran.steps.push(stale.name);
    ran
}

/// Acquires one file after the other, until nobody answers. What was granted.
async fn ask(client: Client, number: u64) -> Vec<(String, Value)> {
    let mut granted = Vec::new();
    for n in 0_u64.. {
        // Few enough for one profile's limit, with those of the rounds before.
        let path = format!("stale/{number}/{}.rs", n % 10);
        let asked = Request::new("POST", "/locks/acquire").json(&json!({"file_path": path}));
        match client.try_send(asked).await {
            Some(reply) if reply.status == 200 => granted.push((path, reply.body)),
            // Nobody is refused: each profile of these may.
            Some(reply) => assert_eq!(reply.status, 503, "{}", reply.body),
            None => break,
        }
    }
    granted
}

/// Changes the worker's facts without changing what it may, until nobody answers.
async fn move_facts(admin: Client) {
    for profile in ["claude_code_remote", "claude_code_local"].iter().cycle() {
        let asked = Request::new("POST", "/agents/worker/profile").json(&json!({"profile": profile}));
        if admin.try_send(asked).await.is_none() {
            return;
        }
    }
}

/// Steps in the midst of a burst, each at a time that is late enough for many to be under way.
const IN_A_BURST: [(&str, usize); 11] = [
    ("sqlite.key-changed", 61),
    ("sqlite.audit-written", 83),
    ("sqlite.savepoint-released", 71),
    ("sqlite.before-commit", 40),
    ("sqlite.committed", 37),
    ("sqlite.caller-answered", 90),
    ("postgres.before-call", 90),
    ("postgres.call-committed", 77),
    ("gate.committed", 80),
    ("gate.waiters-woken", 66),
    ("http.answer-made", 99),
];

/// Of a batch that shares a commit all are there or none, and who was answered is there.
pub(super) async fn bursts() -> Ran {
    let mut world = World::start().await;
    let mut clients = Vec::new();
    for n in 0..8 {
        clients.push(world.agent(&format!("burst-{n}"), "codex_local").await);
    }
    let own = if postgres::is_chosen() { "sqlite." } else { "postgres." };
    let mut ran = Ran::default();
    let steps = IN_A_BURST.into_iter().filter(|(name, _)| !name.starts_with(own));
    for (round, (name, nth)) in steps.enumerate() {
        let step = step(name, nth);
        world.control.arm(&step);
        let server = world.take_server();
        let round = u64::try_from(round).unwrap();
        let burst: Vec<_> = clients.iter().map(|client| tokio::spawn(work(server.again(client), round))).collect();
        let status = server.dies().await;
        world.control.assert_died(status, &step);
        let told: Vec<_> = futures::future::join_all(burst).await.into_iter().map(Result::unwrap).collect();
        world.assert_whole().await;
        world.restart().await;
        for (told, client) in told.iter().zip(&clients) {
            ran.answered += assert_kept(told, world.server(), client).await;
        }
        ran.whole += 1;
        ran.steps.push(name.to_owned());
    }
    assert!(ran.answered > 100, "{} acknowledged changes are too few to mean something", ran.answered);
    ran
}
