//! Random runs through the public surface, each answer held against a model: locks, tasks, sessions, memories, handoffs, the
//! policy in force and who is trusted with what, over time and over restarts.
//!
//! The first of the two tests takes the seed that is written here, and demands that every outcome of every operation that
//! there is comes up; the second one takes `PORTREEVE_SEED`, or any. A run that fails is shrunk to the shortest script that
//! still fails, which is printed as it can be read. `PORTREEVE_CASES` makes both longer.

mod drive;
mod generate;
mod model;
mod op;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::rc::Rc;

use proptest::strategy::{BoxedStrategy, Just, Strategy};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use proptest_state_machine::ReferenceStateMachine;
use serde_json::json;

use crate::harness::postgres;
use crate::trace;

pub(crate) use drive::{RUNTIME, Run, projected};
pub(crate) use model::{Answer, Model};
pub(crate) use op::{Act, Op};

/// Steps of one run at most.
const STEPS: usize = 120;
/// The seed of the runs that have to reach everything, and how many that takes: no variable changes them.
const SEED: u64 = 20_261_127;
const KNOWN: u32 = 96;
/// Runs with any seed.
const ANY: u32 = 32;
/// Runs whose logs are held against the specification.
const TRACED: u32 = 6;

/// The model as a machine that proptest drives.
pub(crate) struct Machine;

impl ReferenceStateMachine for Machine {
    type State = Model;
    type Transition = Op;

    fn init_state() -> BoxedStrategy<Model> {
        Just(Model::default()).boxed()
    }

    fn transitions(model: &Model) -> BoxedStrategy<Op> {
        generate::steps(model)
    }

    fn apply(mut model: Model, op: &Op) -> Model {
        model.step(op);
        model
    }

    fn preconditions(model: &Model, op: &Op) -> bool {
        model.knows(op)
    }
}

/// A number of the environment.
pub(crate) fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is `{text}`, which is no number")))
}

/// A seed that nobody chose.
pub(crate) fn any_seed() -> u64 {
    u64::try_from(uuid::Uuid::new_v4().as_u128() & 0xffff_ffff).unwrap()
}

pub(crate) fn runner(seed: u64, cases: u32) -> TestRunner {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 2000, ..Config::default() };
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}

/// How often each outcome of each operation came up.
#[derive(Debug, Default)]
struct Reached(BTreeMap<(&'static str, String), u32>);

impl Reached {
    fn table(&self) -> String {
        let mut text = String::new();
        let mut last = "";
        for ((name, outcome), count) in &self.0 {
            let shown = if *name == last { "" } else { name };
            writeln!(text, "{shown:<20} {count:>5} {outcome}").unwrap();
            last = name;
        }
        text
    }

    fn names(&self) -> String {
        let mut all = BTreeMap::<&str, Vec<&str>>::new();
        for (name, outcome) in self.0.keys() {
            all.entry(name).or_default().push(outcome);
        }
        all.into_iter().map(|(name, outcomes)| format!("{name}: {}\n", outcomes.join(", "))).collect()
    }
}

/// What one run came to.
struct Ran {
    outcomes: Vec<(&'static str, String)>,
    steps: usize,
    rows: Vec<portreeve::store::audit::AuditRow>,
}

/// Takes the steps of a script. An answer that is not the model's ends it, with the script up to there.
async fn run(script: &[Op]) -> Result<Ran, String> {
    let (mut run, mut model) = (Run::start().await, Model::default());
    let (mut told, mut outcomes) = (String::new(), Vec::new());
    for op in script {
        let expected = model.step(op);
        let answer = run.step(op).await;
        let seen = Answer { body: projected(&answer.body, &expected.body), ..answer };
        writeln!(told, "{:>8} {op}\n{:>12} {}", format!("T+{}", model.now), "→", seen.outcome()).unwrap();
        if seen != expected {
            return Err(format!(
                "{told}\nexpected {} {:#}\nanswered {} {:#}",
                expected.status, expected.body, seen.status, seen.body
            ));
        }
        if op.act.operation().is_some() {
            outcomes.push((op.act.name(), seen.outcome()));
        }
    }
    let rows = trace::rows_of(run.server()).await;
    check_log(&rows, &outcomes).map_err(|what| format!("{told}\n{what}"))?;
    drop(run.stop().await);
    Ok(Ran { outcomes, steps: script.len(), rows })
}

/// Every step has one row of its own name, and the rows are numbered without a gap.
fn check_log(rows: &[portreeve::store::audit::AuditRow], outcomes: &[(&'static str, String)]) -> Result<(), String> {
    let numbered = rows.iter().zip(1_i64..).all(|(row, n)| row.seq == n);
    if !numbered {
        return Err("the log has a gap".to_owned());
    }
    for name in outcomes.iter().map(|(name, _)| *name).collect::<std::collections::BTreeSet<_>>() {
        let steps = outcomes.iter().filter(|(known, _)| *known == name).count();
        let logged = rows.iter().filter(|row| row.command == name && row.agent_id != "system").count();
        // A claim is decided about each task that it finds, and a look at the queue is part of letting time pass.
        let is_right = match name {
            "task_claim" | "task_list" => logged >= steps,
            _ => logged == steps,
        };
        if !is_right {
            return Err(format!("{steps} steps of {name} have {logged} rows"));
        }
    }
    Ok(())
}

/// Runs of one seed, and a record of what was found.
fn runs(what: &str, seed: u64, cases: u32, expected: Option<&str>) {
    println!("{what}: PORTREEVE_SEED={seed}, {cases} runs");
    let (reached, traces) = (Rc::new(RefCell::new(Reached::default())), Rc::new(RefCell::new(Vec::new())));
    let steps = RefCell::new(0_usize);
    let strategy = Machine::sequential_strategy(STEPS / 2..=STEPS);
    let begun = std::time::Instant::now();
    let result = runner(seed, cases).run(&strategy, |(_, script, _)| {
        let ran = RUNTIME.block_on(run(&script)).map_err(TestCaseError::fail)?;
        *steps.borrow_mut() += ran.steps;
        for outcome in ran.outcomes {
            *reached.borrow_mut().0.entry(outcome).or_default() += 1;
        }
        if traces.borrow().len() < usize::try_from(TRACED).unwrap() {
            traces.borrow_mut().push(ran.rows);
        }
        Ok(())
    });
    if let Err(error) = result {
        let proptest::test_runner::TestError::Fail(why, (_, script, _)) = &error else { panic!("{error}") };
        let lines: String = script.iter().map(|op| format!("    {op}\n")).collect();
        panic!("PORTREEVE_SEED={seed}: the shortest script that fails:\n{lines}\nas it ran:\n{why}");
    }
    let reached = reached.borrow();
    println!("{}", reached.table());
    let rows = trace::assert_all_are_behaviours(&traces.borrow());
    if let Some(expected) = expected {
        assert_same_lines(&reached.names(), expected);
    }
    let backend = if postgres::is_chosen() { "postgres" } else { "sqlite" };
    let figures = json!({
        "layer": "stateful", "name": what, "backend": backend, "seed": seed, "runs": cases, "steps": *steps.borrow(),
        "outcomes": reached.0.len(), "rows_validated": rows, "seconds": begun.elapsed().as_secs(), "result": "passed",
    });
    tests::figures::write(&format!("stateful-{what}-{backend}"), &figures);
}

/// Two texts, line by line, so that what differs is seen.
fn assert_same_lines(found: &str, expected: &str) {
    let missing: Vec<&str> = expected.lines().filter(|line| !found.lines().any(|known| known == *line)).collect();
    let new: Vec<&str> = found.lines().filter(|line| !expected.lines().any(|known| known == *line)).collect();
    assert!(missing.is_empty() && new.is_empty(), "outcomes that should be reached: {missing:#?}\nthat were: {new:#?}");
}

/// All that every operation of a run can come to.
const OUTCOMES: &str = include_str!("outcomes.txt");

#[test]
fn every_outcome_of_every_operation_is_as_the_model_says() {
    runs("known", SEED, KNOWN, Some(OUTCOMES));
}

#[test]
fn a_run_that_nobody_chose_is_as_the_model_says() {
    let cases = number("PORTREEVE_CASES").map_or(ANY, |cases| u32::try_from(cases).unwrap());
    runs("any", number("PORTREEVE_SEED").unwrap_or_else(any_seed), cases, None);
}
