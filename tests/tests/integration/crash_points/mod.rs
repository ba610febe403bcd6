//! The process dies at every step between request and answer, one after the other: what was acknowledged is there, of what
//! was not all is there or nothing, the log is whole, and a repeat under the same key makes it happen once.
//!
//! The steps are in the program itself (`host/src/crash.rs`), in a build of another name that no release is made of. Each
//! kind of request is let through once, which lists its steps, and then dies at each of them; at those that all requests pass a
//! third of the kinds do, unless all are asked for. A step that nobody died at fails the test, and so does a process that ended otherwise than by that step.
//!
//! GATE, DENY, AUDIT, REVOKE: whatever the process dies of, a change and its row are both there or both not.

mod chain;
mod control;
mod database;
mod kinds;
mod others;
mod sources;
mod world;

use std::collections::BTreeSet;
use std::time::Instant;

use futures::StreamExt;
use futures::future::BoxFuture;
use portreeve::crash::NAMES;
use serde_json::json;

use crate::harness::postgres;
use chain::Ran;
use kinds::Kind;

/// Stores that die at a time. More than processors: half of the time is waiting for a process to be ready.
const AT_ONCE: usize = 4;

/// The steps of the backend that the tests run on.
fn steps_here() -> BTreeSet<&'static str> {
    let others = if postgres::is_chosen() { "sqlite." } else { "postgres." };
    NAMES.into_iter().filter(|name| !name.starts_with(others)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 6)]
async fn every_step_between_request_and_answer_can_be_the_last() {
    let begun = Instant::now();
    // Built before anything is timed, by whoever comes first.
    tokio::task::spawn_blocking(crate::harness::process::crash_binary).await.unwrap();
    let mut parts: Vec<(String, BoxFuture<'static, Ran>)> = vec![
        ("Expiry".to_owned(), Box::pin(others::expiries())),
        ("FirstStart".to_owned(), Box::pin(others::first_starts())),
        ("DatabaseDeath".to_owned(), Box::pin(database::deaths())),
        ("Numbers".to_owned(), Box::pin(others::numbers())),
    ];
    for kind in Kind::ALL {
        parts.push((format!("{kind:?}"), Box::pin(chain::run(kind))));
    }
    parts.push(("StaleDecision".to_owned(), Box::pin(others::stale_decisions())));
    parts.push(("Burst".to_owned(), Box::pin(others::bursts())));

    let running = parts.into_iter().map(|(name, part)| async move {
        let ran = tokio::spawn(part).await;
        (name, ran)
    });
    let ran: Vec<(String, _)> = futures::stream::iter(running).buffer_unordered(AT_ONCE).collect().await;

    let failed: Vec<&str> = ran.iter().filter(|(_, ran)| ran.is_err()).map(|(name, _)| name.as_str()).collect();
    assert!(failed.is_empty(), "these did not live through it; what they said stands above: {failed:?}");
    let ran: Vec<(String, Ran)> = ran.into_iter().map(|(name, ran)| (name, ran.unwrap())).collect();
    let reached: BTreeSet<&str> = ran.iter().flat_map(|(_, ran)| ran.steps.iter().map(String::as_str)).collect();
    assert_eq!(reached, steps_here(), "steps that nothing reaches, or that nobody knows");
    let sum = |count: fn(&Ran) -> usize| ran.iter().map(|(_, ran)| count(ran)).sum::<usize>();
    let (whole, none) = (sum(|ran| ran.whole), sum(|ran| ran.none));
    let backend = if postgres::is_chosen() { "postgres" } else { "sqlite" };
    let figures = json!({
        "layer": "crash", "backend": backend, "result": "passed",
        "points": reached.len(), "kinds": Kind::ALL.len(), "cases": whole + none, "whole": whole, "none": none,
        "answered": sum(|ran| ran.answered), "seconds": begun.elapsed().as_secs(),
    });
    tests::figures::write(&format!("crash-{backend}"), &figures);
}
