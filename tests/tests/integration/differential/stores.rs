//! The embedded store and PostgreSQL: the same steps, the same answers, the same log.
//!
//! Compared while the suite runs on the embedded store; a run on PostgreSQL would only compare the same two again.

use std::sync::atomic::{AtomicUsize, Ordering};

use portreeve::command::catalogue::CATALOGUE;
use proptest::strategy::{Strategy, ValueTree as _};
use proptest_state_machine::ReferenceStateMachine as _;
use serde_json::{Value, json};

use super::{requests, side_by_side};
use crate::harness::masks::Masks;
use crate::harness::state::{audit_json, connect};
use crate::harness::{Server, postgres};
use crate::samples::{Scene, sample_of};
use crate::stateful::{Act, Machine, Op, RUNTIME, Run, any_seed, number, runner};

/// Steps of one pair of stores, of which some are left out: making a pair takes as long as some hundred.
const STEPS: usize = 410;

/// The log of a run, without what the background does at moments of its own.
async fn log_of(server: &Server, masks: &mut Masks) -> Vec<Value> {
    let mut db = connect(server.data()).await;
    let rows = audit_json(&mut db, 0).await;
    db.close().await;
    rows.iter().filter(|row| row["agent_id"] != "system").map(|row| masks.row(row)).collect()
}

/// The steps that are compared. A service takes as long to start, or to try a component, as for a hundred others: the stateful
/// tests have enough of those.
fn compared(script: &[Op]) -> Vec<&Op> {
    let mut activations = 0;
    let keeps = |op: &&Op| match op.act {
        Act::Restart => false,
        Act::Activate { .. } => {
            activations += 1;
            activations % 5 == 1
        }
        _ => true,
    };
    script.iter().filter(keeps).collect()
}

/// Takes the steps on both. The first step that they answer differently, or the first row of their logs that differs.
async fn differ(script: &[Op]) -> Result<(), String> {
    let (mut left, mut right) = (Run::on_sqlite().await, Run::on_postgres().await);
    let mut masks = [Masks::held(), Masks::held()];
    let mut found = None;
    for (n, op) in compared(script).into_iter().enumerate() {
        let (of_left, of_right) = tokio::join!(left.whole(op), right.whole(op));
        let answers = [masks[0].value(&of_left), masks[1].value(&of_right)];
        if let Some(shown) = side_by_side(["SQLite", "Postgres"], [&answers[0], &answers[1]]) {
            found = Some(format!("step {n}: {op}\n{shown}"));
            break;
        }
    }
    if found.is_none() {
        let mut masks = [Masks::held(), Masks::held()];
        let logs = [log_of(left.server(), &mut masks[0]).await, log_of(right.server(), &mut masks[1]).await];
        let shown = side_by_side(["SQLite", "Postgres"], [&json!(logs[0]), &json!(logs[1])]);
        found = shown.map(|shown| format!("their logs, of {} and {} rows:\n{shown}", logs[0].len(), logs[1].len()));
    }
    drop((left.stop().await, right.stop().await));
    found.map_or(Ok(()), Err)
}

#[test]
fn stores_agree_about_random_steps() {
    assert!(!postgres::is_chosen(), "both stores are here while the suite runs on the embedded one");
    let seed = number("PORTREEVE_SEED").unwrap_or_else(any_seed);
    let pairs = requests().div_ceil(5 * 400);
    let asked = AtomicUsize::new(0);
    println!("stores: PORTREEVE_SEED={seed}, {pairs} pairs of {STEPS} steps");
    let begun = std::time::Instant::now();
    let half = |first: usize| {
        for n in (first..pairs).step_by(2) {
            asked.fetch_add(compare(seed.wrapping_add(u64::try_from(n).unwrap())), Ordering::Relaxed);
        }
    };
    // Two at once: while one waits for its disk the other goes on.
    std::thread::scope(|scope| {
        let other = scope.spawn(|| half(1));
        half(0);
        other.join().unwrap();
    });
    let figures = json!({
        "layer": "differential", "name": "stores", "seed": seed, "requests": asked.load(Ordering::Relaxed), "pairs": pairs,
        "seconds": begun.elapsed().as_secs(), "result": "passed",
    });
    tests::figures::write("differential-stores", &figures);
}

/// One pair: how many steps it took. What it disagrees about is shrunk before it is shown.
fn compare(seed: u64) -> usize {
    let strategy = Machine::sequential_strategy(STEPS);
    let mut tree = strategy.new_tree(&mut runner(seed, 1)).unwrap();
    let (_, script, counter) = tree.current();
    drop(counter);
    let Err(mut why) = RUNTIME.block_on(differ(&script)) else { return compared(&script).len() };
    for _ in 0..200 {
        if !tree.simplify() {
            break;
        }
        let (_, smaller, _) = tree.current();
        match RUNTIME.block_on(differ(&smaller)) {
            Err(reason) => why = reason,
            Ok(()) if tree.complicate() => {}
            Ok(()) => break,
        }
    }
    let (_, script, _) = tree.current();
    let lines: String = script.iter().map(|op| format!("    {op}\n")).collect();
    panic!("PORTREEVE_SEED={seed}: the stores disagree after\n{lines}\n{why}");
}

/// Every operation of the catalogue for every profile, once on each store.
#[tokio::test(flavor = "multi_thread")]
async fn stores_agree_about_every_operation_for_every_profile() {
    assert!(!postgres::is_chosen(), "both stores are here while the suite runs on the embedded one");
    let profiles = [
        "admin",
        "claude_code_local",
        "claude_code_remote",
        "claude_code_reviewer",
        "codex_local",
        "codex_remote",
        "evaluator",
        "suspended",
    ];
    let mut count = 0_usize;
    for profile in profiles {
        let scenes =
            [Scene::set(Server::start().await, profile).await, Scene::set(Server::on_postgres().await, profile).await];
        let mut masks = [Masks::held(), Masks::held()];
        for entry in CATALOGUE {
            let sample = sample_of(entry);
            for input in [&sample.input, &sample.bad] {
                let mut seen = Vec::new();
                for (scene, masks) in scenes.iter().zip(&mut masks) {
                    let reply = scene.actor.send(scene.request(entry, input)).await;
                    seen.push(json!({"status": reply.status, "body": masks.value(&reply.body)}));
                }
                if let Some(shown) = side_by_side(["SQLite", "Postgres"], [&seen[0], &seen[1]]) {
                    panic!("{profile} {}: {input}\n{shown}", entry.name);
                }
                count += 1;
            }
        }
        for scene in scenes {
            drop(scene.server.stop().await);
        }
    }
    tests::figures::write(
        "differential-operations",
        &json!({"layer": "differential", "name": "operations", "requests": count, "result": "passed"}),
    );
}
