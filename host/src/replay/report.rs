//! What a replay came to.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::compare::{Difference, differences, effect_word};
use crate::engine::types::Effect;
use crate::engine::{Decided, EngineError};
use crate::store::audit::AuditRow;

/// The effect of a component that has no answer, as the log has it.
const UNAVAILABLE: &str = "unavailable";

/// Why a row was not asked again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Skipped {
    /// The host refused a body that named another agent; no component was asked.
    IdentityMismatch,
    /// The component had no answer.
    Unavailable,
    /// The log keeps long texts as digest and length.
    LongTexts,
    /// What the row keeps as its request is none.
    Unreadable,
    /// The store does not hold the component that decided.
    ComponentMissing,
}

/// All that a replay found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Digest of the component that was asked; none where each row was asked of the one that decided it.
    pub candidate: Option<String>,
    /// Rows of the log that were looked at.
    pub rows: u64,
    /// Of them, requests that were asked again.
    pub asked: u64,
    /// Decisions that are as the log has them.
    pub same: u64,
    /// Of the others, those that were allowed and are not now.
    pub no_longer_allowed: u64,
    /// And those that are allowed now and were not.
    pub newly_allowed: u64,
    /// Decisions that are not, by who asked for what, and which rules decided. Changed effects are first, then the most.
    pub changed: Vec<Group>,
    /// Rows that were not asked again, by the reason.
    pub skipped: BTreeMap<Skipped, u64>,
    /// Threads that decided.
    pub threads: usize,
    /// What it took.
    pub seconds: f64,
}

impl Report {
    /// How many decisions are not as the log has them.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.asked.saturating_sub(self.same)
    }
}

/// An effect, and the rules that led to it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Side {
    /// `allow`, `deny`, or `unavailable` where the component had no answer.
    pub effect: String,
    /// Identifiers of the rules that decided.
    pub deciding: Vec<String>,
}

/// Decisions that changed alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Group {
    /// Who asked.
    pub agent_id: String,
    /// For what.
    pub operation: String,
    /// What the log has.
    pub recorded: Side,
    /// What is decided now.
    pub now: Side,
    /// Columns that differ, in any of them.
    pub fields: BTreeSet<&'static str>,
    /// How many.
    pub count: u64,
    /// The oldest of them.
    pub samples: Vec<Sample>,
}

/// A decision that changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sample {
    /// Position in the log.
    pub seq: i64,
    /// The request.
    pub request_id: String,
    /// What it was about.
    pub resource: String,
    /// What the log has.
    pub recorded: Answer,
    /// What is decided now.
    pub now: Answer,
    /// Each column that differs.
    pub differs: Vec<Difference>,
}

/// An answer in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// `allow`, `deny` or `unavailable`.
    pub effect: String,
    /// The reason code.
    pub reason: String,
    /// The reason in words.
    pub detail: String,
}

/// Who asked for what, what the log has, and what is decided now.
type Key = (String, String, Side, Side);

/// What a thread found so far.
#[derive(Debug, Default)]
pub(super) struct Tally {
    samples: usize,
    asked: u64,
    same: u64,
    groups: BTreeMap<Key, Group>,
    skipped: BTreeMap<Skipped, u64>,
}

impl Tally {
    pub(super) fn new(samples: usize) -> Self {
        Self { samples, ..Self::default() }
    }

    pub(super) fn skip(&mut self, why: Skipped) {
        add(self.skipped.entry(why).or_default(), 1);
    }

    pub(super) fn compare(&mut self, row: &AuditRow, decided: &Result<Decided, EngineError>) {
        add(&mut self.asked, 1);
        let (now, deciding, differs) = match decided {
            Ok(Decided { decision, .. }) => {
                let differs = differences(row, decision);
                if differs.is_empty() {
                    add(&mut self.same, 1);
                    return;
                }
                let effect = effect_word(decision.effect).to_owned();
                let (reason, detail) = (decision.reason.clone(), decision.detail.clone());
                (Answer { effect, reason, detail }, decision.deciding.clone(), differs)
            }
            Err(error) => {
                let now = Answer {
                    effect: UNAVAILABLE.to_owned(),
                    reason: error.code().to_owned(),
                    detail: error.to_string(),
                };
                let recorded = row.decision.clone();
                let differs = vec![Difference { field: "decision", recorded, now: UNAVAILABLE.to_owned() }];
                (now, Vec::new(), differs)
            }
        };
        let recorded = Answer { effect: row.decision.clone(), reason: row.reason.clone(), detail: row.detail.clone() };
        self.add(Group {
            agent_id: row.agent_id.clone(),
            operation: row.operation.clone(),
            recorded: Side {
                effect: row.decision.clone(),
                // Text that is no list is told as it stands.
                deciding: serde_json::from_str(&row.deciding).unwrap_or_else(|_| vec![row.deciding.clone()]),
            },
            now: Side { effect: now.effect.clone(), deciding },
            fields: differs.iter().map(|difference| difference.field).collect(),
            count: 1,
            samples: vec![Sample {
                seq: row.seq,
                request_id: row.request_id.clone(),
                resource: row.resource.clone(),
                recorded,
                now,
                differs,
            }],
        });
    }

    fn add(&mut self, group: Group) {
        let key = (group.agent_id.clone(), group.operation.clone(), group.recorded.clone(), group.now.clone());
        let known = match self.groups.entry(key) {
            Entry::Vacant(place) => place.insert(Group { samples: Vec::new(), count: 0, ..group.clone() }),
            Entry::Occupied(known) => known.into_mut(),
        };
        add(&mut known.count, group.count);
        known.fields.extend(group.fields);
        // Threads end in any order; the oldest are the same each time.
        known.samples.extend(group.samples);
        known.samples.sort_by_key(|sample| sample.seq);
        known.samples.truncate(self.samples);
    }

    /// Takes in what another thread found.
    pub(super) fn merge(&mut self, other: Self) {
        add(&mut self.asked, other.asked);
        add(&mut self.same, other.same);
        other.groups.into_values().for_each(|group| self.add(group));
        for (why, count) in other.skipped {
            add(self.skipped.entry(why).or_default(), count);
        }
    }

    pub(super) fn report(self, candidate: Option<String>, threads: usize, seconds: f64) -> Report {
        let mut changed: Vec<Group> = self.groups.into_values().collect();
        changed.sort_by_key(|group| (group.recorded.effect == group.now.effect, std::cmp::Reverse(group.count)));
        let allow = effect_word(Effect::Allow);
        let count = |was: bool, is: bool| {
            let alike =
                changed.iter().filter(|one| (one.recorded.effect == allow, one.now.effect == allow) == (was, is));
            alike.fold(0_u64, |sum, group| sum.saturating_add(group.count))
        };
        let (no_longer_allowed, newly_allowed) = (count(true, false), count(false, true));
        let rows = self.skipped.values().fold(self.asked, |sum, count| sum.saturating_add(*count));
        Report {
            candidate,
            rows,
            asked: self.asked,
            same: self.same,
            no_longer_allowed,
            newly_allowed,
            changed,
            skipped: self.skipped,
            threads,
            seconds,
        }
    }
}

fn add(sum: &mut u64, count: u64) {
    *sum = sum.saturating_add(count);
}
