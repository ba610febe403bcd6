//! A log as a behaviour of the specification in `formal/`: each audit row as one step of `Trace.tla`.
//!
//! The specification knows numbers where the log has names, and only the order of instants. So agents, keys, tasks, components
//! and profiles are numbered as they appear, tokens of claims as they are given, and each instant is its place among all that
//! the log names. Whatever the specification has no word for (handoffs, memories, keys, sessions) is a step that must be
//! decided rightly and changes nothing that it knows.

mod step;
mod tla;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::Value;

use crate::clock::Time;
use crate::store::audit::AuditRow;

pub use step::{Step, TraceError};

/// Names by number, in the order of their appearance.
#[derive(Debug, Default)]
struct Names {
    numbers: HashMap<String, usize>,
}

impl Names {
    /// The number of a name, from 1.
    fn number(&mut self, name: &str) -> usize {
        let next = self.numbers.len().saturating_add(1);
        *self.numbers.entry(name.to_owned()).or_insert(next)
    }

    fn len(&self) -> usize {
        self.numbers.len()
    }

    fn known(&self) -> impl Iterator<Item = &String> {
        self.numbers.keys()
    }
}

/// A log, ready to be written for the model checker.
#[derive(Debug, Default)]
pub struct Trace {
    steps: Vec<Step>,
    instants: BTreeSet<i64>,
}

impl Trace {
    /// Takes the next row.
    ///
    /// # Errors
    /// When the row does not hold what its kind of row holds.
    pub fn push(&mut self, row: &AuditRow) -> Result<(), TraceError> {
        let step = Step::of(row)?;
        self.instants.insert(step.at);
        self.instants.extend(step.instants());
        self.steps.push(step);
        Ok(())
    }

    /// How many rows were taken.
    #[must_use]
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Whether none was.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// The module `Log`, which `formal/validate` holds against the specification.
    #[must_use]
    pub fn to_tla(&self) -> String {
        tla::module(self)
    }

    /// The instants that the log names, each with its place from 1.
    fn places(&self) -> BTreeMap<i64, usize> {
        self.instants.iter().enumerate().map(|(at, instant)| (*instant, at.saturating_add(1))).collect()
    }
}

/// An instant as the log writes it into results and parameters.
fn instant(value: Option<&Value>) -> Option<i64> {
    Time::parse(value?.as_str()?).ok().map(Time::as_micros)
}
