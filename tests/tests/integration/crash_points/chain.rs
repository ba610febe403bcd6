//! One kind of request, died in at each of its steps, one after the other, on one store that lives through it all.
//!
//! What is there afterwards is not left open. Before the commit there is nothing of the request; from the commit on all of
//! it is there, whether or not anybody was answered.

use serde_json::Value;

use super::control::Step;
use super::kinds::{Case, Ends, Kind};
use super::world::{Look, World};
use crate::harness::{Reply, Request, postgres};
use crate::stateful::number;

/// Steps of work that goes on beside the request.
const BESIDE: [&str; 4] =
    ["postgres.numbers-taken", "postgres.rows-hashed", "postgres.before-numbers-commit", "postgres.numbers-committed"];

/// Steps that requests of every kind pass, or of nearly every.
const SHARED: [&str; 9] = [
    "http.request-arrived",
    "http.key-found",
    "http.input-read",
    "http.answer-made",
    "gate.subject-read",
    "gate.before-component",
    "gate.after-component",
    "gate.permit-minted",
    "gate.checked",
];

/// What became of one chain.
#[derive(Debug, Default)]
pub(super) struct Ran {
    pub(super) steps: Vec<String>,
    pub(super) whole: usize,
    pub(super) none: usize,
    /// Of those that are whole: how often the answer came through before the end.
    pub(super) answered: usize,
}

/// The step from which on a request is committed.
pub(super) fn commit_step() -> &'static str {
    if postgres::is_chosen() { "postgres.call-committed" } else { "sqlite.committed" }
}

fn last_step() -> &'static str {
    "http.answer-made"
}

pub(super) async fn run(kind: Kind) -> Ran {
    let mut world = World::start().await;
    let steps = trace(&mut world, kind).await;
    let committed = steps.iter().position(|step| step.name == commit_step()).expect("everything is recorded");
    let commits = steps.iter().filter(|step| step.name == commit_step()).count();
    assert_eq!(commits, 1, "{kind:?}: one request, one transaction: {steps:?}");
    let mut ran = Ran::default();
    for (n, step) in steps.iter().enumerate().filter(|(n, step)| is_tried(kind, *n, step)) {
        if kind.is_once() {
            world = World::start().await;
        }
        let is_whole = n >= committed;
        // The steps of the commit and of what follows it differ in order from run to run, never in being behind it.
        let died = die(&mut world, kind, n + 1, step, is_whole).await;
        ran.whole += usize::from(is_whole);
        ran.none += usize::from(!is_whole);
        ran.answered += usize::from(died);
        ran.steps.push(step.name.clone());
    }
    ran
}

/// Steps that all requests pass alike are tried with a third of the kinds each, unless all are asked for: a death takes as long
/// as a start. Together every step is tried, which is what the test demands in the end.
fn is_tried(kind: Kind, n: usize, step: &Step) -> bool {
    !SHARED.contains(&step.name.as_str())
        || (n + kind as usize).is_multiple_of(3)
        || number("PORTREEVE_CRASH_ALL").is_some()
}

/// Lets the request through once, and lists the steps that it passes.
async fn trace(world: &mut World, kind: Kind) -> Vec<Step> {
    let case = kind.prepare(world, 0).await;
    let before = world.look(&case).await;
    if kind.is_on_broken_table() {
        world.break_handoffs().await;
    }
    world.control.trace();
    let reply = case.client.send(request(&case, "key-0", "traced")).await;
    // Who is answered is answered a moment before that step is noted.
    for name in [last_step()].into_iter().chain((!postgres::is_chosen()).then_some("sqlite.caller-answered")) {
        world.control.wait_for(name).await;
    }
    world.control.disarm();
    if kind.is_on_broken_table() {
        world.mend_handoffs().await;
    }
    assert_reply(kind, &case, &reply);
    let after = world.look(&case).await;
    assert_moved(kind, &case, &before, &after, true);
    assert_eq!(world.outcomes("traced").await, [case.ends.outcome()], "{kind:?}");
    world.control.steps().into_iter().filter(|step| !BESIDE.contains(&step.name.as_str())).collect()
}

pub(super) fn request(case: &Case, key: &str, request_id: &str) -> Request {
    case.request.clone().header("idempotency-key", key).header("x-request-id", request_id)
}

/// One death, and what follows it. Whether the caller was answered.
async fn die(world: &mut World, kind: Kind, n: usize, step: &Step, is_whole: bool) -> bool {
    let what = format!("{kind:?} at {} ({})", step.name, step.nth);
    let case = kind.prepare(world, n).await;
    let (key, first, second) = (format!("key-{n}"), format!("first-{n}"), format!("second-{n}"));
    let before = world.look(&case).await;
    if kind.is_on_broken_table() {
        world.break_handoffs().await;
    }
    world.control.arm(step);
    let server = world.take_server();
    let answer = case.client.try_send(request(&case, &key, &first)).await;
    let status = server.dies().await;
    world.control.assert_died(status, step);
    if kind.is_on_broken_table() {
        world.mend_handoffs().await;
    }

    let after = world.look(&case).await;
    let rows = world.outcomes(&first).await;
    assert_moved(kind, &case, &before, &after, is_whole);
    let expected: &[&str] = if is_whole { &[case.ends.outcome()] } else { &[] };
    assert_eq!(rows, expected, "{what}");
    assert!(answer.is_none() || is_whole, "{what}: answered, and nothing is there: {answer:?}");
    world.assert_whole().await;

    world.restart().await;
    if kind.is_on_broken_table() {
        world.break_handoffs().await;
    }
    let client = world.again(&case.client);
    let again = client.send(request(&case, &key, &second)).await;
    if kind.is_on_broken_table() {
        world.mend_handoffs().await;
    }
    assert_reply(kind, &case, &again);
    assert_once(&what, world, &case, (&after, is_whole), &again, [&first, &second]).await;
    if let Some(answer) = &answer {
        assert_reply(kind, &case, answer);
        if case.ends.is_kept() {
            assert_eq!(without_key(answer), without_key(&again), "{what}: an answer that was given is another now");
        }
    }
    answer.is_some()
}

/// A new key is shown once, and not to who repeats.
fn without_key(reply: &Reply) -> Value {
    let mut body = reply.body.clone();
    if let Some(fields) = body.as_object_mut() {
        fields.remove("key");
    }
    body
}

#[track_caller]
pub(super) fn assert_reply(kind: Kind, case: &Case, reply: &Reply) {
    assert_eq!(reply.status, case.ends.status(), "{kind:?}: {}", reply.body);
    if let (Ends::Done | Ends::Refused, Some(success)) = (case.ends, reply.body.get("success")) {
        assert_eq!(*success, Value::from(case.ends == Ends::Done), "{kind:?}: {}", reply.body);
    }
}

/// All of a request is there, or nothing.
#[track_caller]
pub(super) fn assert_moved(kind: Kind, case: &Case, before: &Look, after: &Look, is_whole: bool) {
    let changes = is_whole && case.ends.is_kept();
    assert_eq!(before.state != after.state, changes, "{kind:?}: the state, {before:?}, {after:?}");
    let violates = is_whole && case.violates;
    assert_eq!(after.violations > before.violations, violates, "{kind:?}: violations");
    if let Some((sql, many)) = &case.effect {
        assert_eq!(before.effect, 0, "{kind:?}: {sql}");
        assert_eq!(after.effect, if is_whole { *many } else { 0 }, "{kind:?}: {sql}");
    }
}

/// After a repeat the request has happened once, whichever of the two it was that did it.
pub(super) async fn assert_once(
    what: &str,
    world: &World,
    case: &Case,
    (died, is_whole): (&Look, bool),
    again: &Reply,
    [first, second]: [&str; 2],
) {
    let now = world.look(case).await;
    let is_replay = is_whole && case.ends.is_kept();
    assert_eq!(again.header("idempotency-replayed").is_some(), is_replay, "{what}: {}", again.body);
    let outcome = if is_replay { "replayed" } else { case.ends.outcome() };
    assert_eq!(world.outcomes(second).await, [outcome], "{what}");
    if is_replay || !case.ends.is_kept() {
        assert_eq!(now.state, died.state, "{what}: the repeat changed something");
    }
    if let Some((sql, many)) = &case.effect {
        assert_eq!(now.effect, *many, "{what}: {sql}");
    }
    let done = [world.outcomes(first).await, world.outcomes(second).await].concat();
    if case.ends == Ends::Done {
        assert_eq!(done.iter().filter(|outcome| *outcome == "ok").count(), 1, "{what}: {done:?}");
    }
}
