//! A component that is asked what the one in force was asked, and decides nothing.
//!
//! One thread asks it, for at most a part of one processor's time; what does not fit into that is passed over and counted.
//! Nothing of it is on the way of a request but the copy of the request into a bounded queue.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use schemars::JsonSchema;
use serde::Serialize;

use crate::clock::{SharedClock, Time};
use crate::engine::types::{Decision, Effect, PolicyRequest};
use crate::engine::{EngineError, PolicyComponent};

/// Requests that wait to be asked.
const QUEUE_MAX: usize = 256;
/// For each moment of asking, so many of rest: a fifth of one processor at most.
const REST: u32 = 4;
/// Rests shorter than this are put together.
const REST_MIN: Duration = Duration::from_millis(5);
/// Kinds of differences that are told apart.
const KINDS_MAX: usize = 200;
/// Latest differences that are kept whole.
const SAMPLES_MAX: usize = 50;

/// What is asked beside the policy in force, if anything is.
#[derive(Debug, Default)]
pub struct Shadow {
    choice: AtomicI64,
    candidate: ArcSwapOption<Candidate>,
}

#[derive(Debug)]
struct Candidate {
    component: Arc<PolicyComponent>,
    since: Time,
    queue: SyncSender<Asked>,
    seen: Arc<Mutex<Seen>>,
}

/// A request, and what the component in force said to it.
struct Asked {
    request: PolicyRequest,
    decision: Decision,
    decision_id: String,
    component: String,
    epoch: i64,
}

/// What was seen so far, by this host, since it began to ask.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Seen {
    /// Requests that both were asked.
    pub compared: u64,
    /// Requests to which the answers differ in effect, reason or deciding rules.
    pub differing: u64,
    /// Requests that there was no time for.
    pub passed_over: u64,
    /// Requests that the candidate did not answer: it trapped, or ran out of fuel, memory or time.
    pub unanswered: u64,
    /// Differences of a kind, the most frequent first. At most 200 kinds are told apart.
    pub kinds: Vec<Kind>,
    /// The latest differences, the newest first; at most 50.
    pub samples: Vec<Sample>,
    #[serde(skip)]
    counts: BTreeMap<Kind, u64>,
    #[serde(skip)]
    latest: VecDeque<Sample>,
}

/// What differs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
pub struct Kind {
    /// The caller's profile.
    pub profile: String,
    /// The operation.
    pub operation: String,
    /// What the policy in force said: effect and reason.
    pub active: String,
    /// What the candidate says.
    pub candidate: String,
    /// How often.
    pub count: u64,
}

/// One request with two answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Sample {
    /// The row of the audit log.
    pub decision_id: String,
    /// The caller.
    pub agent_id: String,
    /// The operation.
    pub operation: String,
    /// The component in force then.
    pub component: String,
    /// The epoch then.
    pub epoch: i64,
    /// What the policy in force said: effect, reason and detail.
    pub active: String,
    /// What the candidate says.
    pub candidate: String,
    /// Rules that decided in force.
    pub active_deciding: Vec<String>,
    /// Rules that decided in the candidate.
    pub candidate_deciding: Vec<String>,
}

impl Shadow {
    /// Which choice of the store this is; 0 before any.
    pub(super) fn choice(&self) -> i64 {
        self.choice.load(Ordering::Acquire)
    }

    /// The component that is asked, with since when and what was seen.
    #[must_use]
    pub fn seen(&self) -> Option<(String, Time, Seen)> {
        let candidate = self.candidate.load_full()?;
        let mut seen = lock(&candidate.seen).clone();
        seen.kinds = seen.counts.iter().map(|(kind, count)| Kind { count: *count, ..kind.clone() }).collect();
        seen.kinds.sort_by_key(|kind| std::cmp::Reverse(kind.count));
        seen.samples = seen.latest.iter().rev().cloned().collect();
        Some((candidate.component.digest().to_owned(), candidate.since, seen))
    }

    /// Asks another component from now on, or none. What the one before has seen is gone.
    pub(super) fn choose(&self, choice: i64, component: Option<Arc<PolicyComponent>>, clock: &SharedClock) {
        let candidate = component.map(|component| {
            let (queue, asked) = sync_channel(QUEUE_MAX);
            let seen = Arc::new(Mutex::new(Seen::default()));
            let (asking, noted) = (Arc::clone(&component), Arc::clone(&seen));
            // Without a thread nothing is asked, and the queue's end is gone: all is passed over, and counted.
            let started = thread::Builder::new().name("shadow".to_owned()).spawn(move || ask(&asking, &asked, &noted));
            if let Err(error) = started {
                tracing::error!(error = %error, "there is no thread to ask the shadow on");
            }
            tracing::info!(component = component.digest(), "asked beside the policy in force from now on");
            Arc::new(Candidate { component, since: clock.now(), queue, seen })
        });
        // With the sender goes the thread.
        self.candidate.store(candidate);
        self.choice.store(choice, Ordering::Release);
    }

    /// Whether requests are wanted at all.
    pub(super) fn is_on(&self) -> bool {
        self.candidate.load().is_some()
    }

    /// Hands in a request that was decided.
    pub(super) fn offer(
        &self,
        request: PolicyRequest,
        decision: &Decision,
        (decision_id, component, epoch): (&str, &str, i64),
    ) {
        let candidate = self.candidate.load();
        let Some(candidate) = candidate.as_ref().filter(|candidate| candidate.component.digest() != component) else {
            return;
        };
        let asked = Asked {
            request,
            decision: decision.clone(),
            decision_id: decision_id.to_owned(),
            component: component.to_owned(),
            epoch,
        };
        if candidate.queue.try_send(asked).is_err() {
            lock(&candidate.seen).passed_over += 1;
            metrics::counter!("portreeve_shadow_passed_over_total").increment(1);
        }
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

fn ask(component: &PolicyComponent, queue: &Receiver<Asked>, seen: &Mutex<Seen>) {
    let mut tired = Duration::ZERO;
    while let Ok(asked) = queue.recv() {
        let started = Instant::now();
        let answer = component.decide(&asked.request).map(|decided| decided.decision);
        note(&mut lock(seen), &asked, answer);
        tired = tired.saturating_add(started.elapsed().saturating_mul(REST));
        if tired >= REST_MIN {
            thread::sleep(tired);
            tired = Duration::ZERO;
        }
    }
}

fn note(seen: &mut Seen, asked: &Asked, answer: Result<Decision, EngineError>) {
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => {
            tracing::warn!(error = %error, operation = asked.request.operation, "the shadow did not answer");
            metrics::counter!("portreeve_shadow_unanswered_total", "cause" => error.code()).increment(1);
            seen.unanswered += 1;
            return;
        }
    };
    seen.compared += 1;
    metrics::counter!("portreeve_shadow_compared_total").increment(1);
    let said = |decision: &Decision| (decision.effect, decision.reason.clone(), decision.deciding.clone());
    if said(&answer) == said(&asked.decision) {
        return;
    }
    seen.differing += 1;
    let what = if answer.effect == asked.decision.effect { "reason" } else { "effect" };
    metrics::counter!("portreeve_shadow_differences_total", "what" => what).increment(1);
    let word = |decision: &Decision| {
        let effect = if decision.effect == Effect::Allow { "allow" } else { "deny" };
        format!("{effect} {}", decision.reason)
    };
    let (active, candidate) = (word(&asked.decision), word(&answer));
    let kind = Kind {
        profile: asked.request.principal.profile.clone(),
        operation: asked.request.operation.clone(),
        active: active.clone(),
        candidate: candidate.clone(),
        count: 0,
    };
    if seen.counts.contains_key(&kind) || seen.counts.len() < KINDS_MAX {
        *seen.counts.entry(kind).or_default() += 1;
    }
    if seen.latest.len() == SAMPLES_MAX {
        seen.latest.pop_front();
    }
    seen.latest.push_back(Sample {
        decision_id: asked.decision_id.clone(),
        agent_id: asked.request.principal.agent_id.clone(),
        operation: asked.request.operation.clone(),
        component: asked.component.clone(),
        epoch: asked.epoch,
        active: format!("{active}: {}", asked.decision.detail),
        candidate: format!("{candidate}: {}", answer.detail),
        active_deciding: asked.decision.deciding.clone(),
        candidate_deciding: answer.deciding,
    });
}
