//! Is there an order? Just-in-time linearization (Lowe, "Testing for linearizability", 2017) of Wing and Gong's search.
//!
//! Events are gone through in the order of time. What is kept is the set of *configurations* that explain all answers so far: a
//! state, and which of the open calls have taken effect in it. When a call returns, each configuration is continued in all ways in
//! which open calls take effect, this one as the last; only those that answer what was answered survive. When none does there is no
//! order.
//!
//! A call without an answer stays open until it is settled, and may take effect or not. Of two configurations of one state the one in
//! which fewer of these took effect can do whatever the other can, so only that one is kept.
//!
//! A call that only the log tells of returned when the log was read, and took effect long before. By which clock it was decided is known:
//! a configuration whose clock went past that without it is given up, and what has taken effect in all that are left is done.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt::Write as _;
use std::hash::Hash;

use super::{Answer, Call};

/// More configurations than this at one moment are not looked through: the history has to be made smaller.
const CONFIGURATIONS_MAX: usize = 40_000;

/// What something does, one call after the other.
pub trait Model {
    /// All there is to know of it.
    type State: Clone + Eq + Hash;

    /// Before any call.
    fn start(&self) -> Self::State;

    /// The states after a call that was answered so, if `window` is what the server's clock can have shown. Without an answer:
    /// those in which it changed something.
    ///
    /// # Errors
    /// Why it cannot have been answered so in this state.
    fn step(&self, state: &Self::State, item: &Item<'_>) -> Result<Vec<Self::State>, String>;

    /// What the server's clock has reached in this state. No change that was decided before that comes after it.
    fn reached(&self, state: &Self::State) -> i64;

    /// A state in words.
    fn show(&self, state: &Self::State) -> String;
}

/// A call, and what the server's clock can have shown while it took effect.
#[derive(Debug, Clone, Copy)]
pub struct Item<'h> {
    /// The call.
    pub call: &'h Call,
    /// The least that the server's clock can have shown.
    pub least: i64,
    /// The most.
    pub most: i64,
}

/// Why there is no order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stuck {
    /// The call that has no explanation, by its place in the list.
    pub at: usize,
    /// Why not, for each of the states that were possible before.
    pub reasons: Vec<String>,
    /// Those states.
    pub before: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Configuration<S> {
    state: S,
    /// Open calls that have taken effect.
    done: BTreeSet<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// First of what happens at one instant: calls that touch are concurrent.
    Invoked,
    Returned,
    Settled,
}

/// Looks for an order. Returns the most configurations that there were at one moment.
///
/// # Errors
/// The first call that no order explains.
pub fn search<M: Model>(model: &M, items: &[Item<'_>]) -> Result<usize, Stuck> {
    let mut open = BTreeSet::new();
    let mut now = HashSet::from([Configuration { state: model.start(), done: BTreeSet::new() }]);
    let mut most = 1;
    for (_, event, index) in events(items) {
        match event {
            Event::Invoked => {
                open.insert(index);
            }
            Event::Settled => {
                // The last moment at which it can have taken effect, or it never will.
                let done = after(model, items, &open, &now, index)?;
                open.remove(&index);
                now = pruned(now.into_iter().map(|config| without(config, index)).chain(done), items);
                most = most.max(now.len());
            }
            // Done long before.
            Event::Returned if !open.contains(&index) => {}
            Event::Returned => {
                let next = after(model, items, &open, &now, index)?;
                if next.is_empty() {
                    return Err(stuck(model, items, &now, index));
                }
                open.remove(&index);
                now = caught_up(model, items, &mut open, next)?;
                most = most.max(now.len());
            }
        }
    }
    Ok(most)
}

/// What happens when, without calls that tell nothing: without an answer and without an effect.
fn events(items: &[Item<'_>]) -> Vec<(i64, Event, usize)> {
    let mut events = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let call = item.call;
        match &call.answer {
            Some(Answer::Failed) => continue,
            None if call.op.is_look() => continue,
            Some(_) => events.push((call.returned_us, Event::Returned, index)),
            None => events.extend(call.settled_us.map(|at| (at, Event::Settled, index))),
        }
        events.push((call.invoked_us, Event::Invoked, index));
    }
    events.sort_unstable();
    events
}

fn without<S>(mut config: Configuration<S>, index: usize) -> Configuration<S> {
    config.done.remove(&index);
    config
}

/// Gives up the configurations that are too late for an open call of the log, and is done with those of the log's calls that have
/// taken effect in all the others.
fn caught_up<M: Model>(
    model: &M,
    items: &[Item<'_>],
    open: &mut BTreeSet<usize>,
    now: HashSet<Configuration<M::State>>,
) -> Result<HashSet<Configuration<M::State>>, Stuck> {
    let is_logged = |index: &usize| items.get(*index).is_some_and(|item| item.call.is_logged());
    let logged: Vec<usize> = open.iter().copied().filter(is_logged).collect();
    if logged.is_empty() {
        return Ok(now);
    }
    let too_late_for = |config: &Configuration<M::State>| {
        let reached = model.reached(&config.state);
        let is_missed =
            |index: &usize| !config.done.contains(index) && items.get(*index).is_some_and(|item| item.most < reached);
        logged.iter().copied().find(is_missed)
    };
    let mut left: HashSet<Configuration<M::State>> =
        now.iter().filter(|config| too_late_for(config).is_none()).cloned().collect();
    if left.is_empty() {
        let first = now.iter().filter_map(too_late_for).min().unwrap_or_default();
        return Err(stuck(model, items, &now, first));
    }
    for index in logged {
        if left.iter().all(|config| config.done.contains(&index)) {
            open.remove(&index);
            left = left.into_iter().map(|config| without(config, index)).collect();
        }
    }
    Ok(left)
}

/// All configurations in which the call has taken effect with its answer.
fn after<M: Model>(
    model: &M,
    items: &[Item<'_>],
    open: &BTreeSet<usize>,
    now: &HashSet<Configuration<M::State>>,
    returned: usize,
) -> Result<HashSet<Configuration<M::State>>, Stuck> {
    let mut found = HashSet::new();
    let mut seen = now.clone();
    let mut left: Vec<Configuration<M::State>> = now.iter().cloned().collect();
    while let Some(config) = left.pop() {
        if config.done.contains(&returned) {
            found.insert(without(config, returned));
            continue;
        }
        for &index in open.iter().filter(|index| !config.done.contains(*index)) {
            let Some(item) = items.get(index) else { continue };
            for state in model.step(&config.state, item).unwrap_or_default() {
                let mut done = config.done.clone();
                done.insert(index);
                let next = Configuration { state, done };
                if index == returned {
                    found.insert(without(next, returned));
                } else if seen.insert(next.clone()) {
                    left.push(next);
                }
            }
        }
        if seen.len() > CONFIGURATIONS_MAX {
            let reasons = vec![format!("more than {CONFIGURATIONS_MAX} possibilities: too much without an answer")];
            return Err(Stuck { at: returned, reasons, before: Vec::new() });
        }
    }
    Ok(pruned(found.into_iter(), items))
}

/// Without configurations that can do no more than another one.
fn pruned<S: Clone + Eq + Hash>(
    all: impl Iterator<Item = Configuration<S>>,
    items: &[Item<'_>],
) -> HashSet<Configuration<S>> {
    type Sets = Vec<BTreeSet<usize>>;
    let mut groups: HashMap<(S, BTreeSet<usize>), Sets> = HashMap::new();
    for config in all {
        let is_answered = |index: &usize| items.get(*index).is_some_and(|item| item.call.answer.is_some());
        let (answered, unanswered): (BTreeSet<usize>, BTreeSet<usize>) =
            config.done.iter().partition(|i| is_answered(i));
        let sets = groups.entry((config.state, answered)).or_default();
        if sets.iter().any(|known| known.is_subset(&unanswered)) {
            continue;
        }
        sets.retain(|known| !unanswered.is_subset(known));
        sets.push(unanswered);
    }
    let configurations = groups.into_iter().flat_map(|((state, answered), sets)| {
        sets.into_iter()
            .map(move |set| Configuration { state: state.clone(), done: answered.union(&set).copied().collect() })
    });
    configurations.collect()
}

fn stuck<M: Model>(model: &M, items: &[Item<'_>], now: &HashSet<Configuration<M::State>>, at: usize) -> Stuck {
    let (mut reasons, mut before) = (BTreeSet::new(), BTreeSet::new());
    for config in now {
        let mut shown = model.show(&config.state);
        if !config.done.is_empty() {
            let ids = config.done.iter().filter_map(|index| items.get(*index)).map(|item| item.call.id.as_str());
            let _ = write!(shown, ", with {}", ids.collect::<Vec<_>>().join(" and "));
        }
        before.insert(shown);
        if let Some(Err(reason)) = items.get(at).map(|item| model.step(&config.state, item)) {
            reasons.insert(reason);
        }
    }
    Stuck { at, reasons: reasons.into_iter().collect(), before: before.into_iter().collect() }
}
