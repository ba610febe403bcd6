//! One lock key: who holds it, under which token, until when.
//!
//! The end of a lease is known to the microsecond where the service told it, and as a range where a grant was not answered. What a
//! grant tells is also the server's clock at that moment: the end less the time asked for.
//!
//! EXCL: no answer may show two holders at once, or a token that does not grow.

use super::search::{Item, Model};
use super::{Answer, Op};

const MINUTE_US: i64 = 60_000_000;

/// A lock key of a correct service.
#[derive(Debug, Clone, Copy, Default)]
pub struct LockModel;

/// A lock key at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct LockState {
    /// The last token that was given; 0 for none.
    last_token: i64,
    /// The lock, until another one takes its place: its lease may be over.
    held: Option<Held>,
    /// What the server's clock had reached at the last change, or attempt of one. These come one after the other.
    last: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Held {
    by: String,
    token: i64,
    /// The lease ends at one of these instants.
    ends: (i64, i64),
    /// Somebody looked after its end. A change that was decided before it may still come through after that look.
    is_seen_over: bool,
}

/// What a call can find, depending on what the clock shows.
struct Found {
    /// The least that the clock can have shown to see this.
    now: i64,
    /// A live lock.
    held: Option<Held>,
    /// What is stored: the same, or one whose lease is over.
    stored: Option<Held>,
}

type Steps = Result<Vec<LockState>, String>;

impl LockState {
    /// What may be found when the clock shows an instant of a range: the lease still there, or over. A change is decided by the
    /// clock of one instant, and seen by others some time later, so a look at the lock does not tell the clock of the next change.
    fn find(&self, is_look: bool, least: i64, most: i64) -> Vec<Found> {
        let least = if is_look { least } else { least.max(self.last) };
        let Some(held) = &self.held else { return vec![Found { now: least, held: None, stored: None }] };
        let mut found = Vec::new();
        if least < held.ends.1 && !(is_look && held.is_seen_over) {
            let ends = (held.ends.0.max(least.saturating_add(1)), held.ends.1);
            let held = Some(Held { ends, ..held.clone() });
            found.push(Found { now: least, stored: held.clone(), held });
        }
        if most >= held.ends.0 {
            let ends = (held.ends.0, held.ends.1.min(most));
            let stored = Some(Held { ends, is_seen_over: true, ..held.clone() });
            found.push(Found { now: least.max(held.ends.0), held: None, stored });
        }
        found
    }

    /// Nothing was changed, but something is known by it.
    fn with(&self, found: &Found, is_look: bool) -> Self {
        let last = if is_look { self.last } else { found.now };
        Self { last_token: self.last_token, held: found.stored.clone(), last }
    }
}

impl Found {
    fn is_held_by(&self, agent: &str, token: Option<i64>) -> bool {
        self.held.as_ref().is_some_and(|held| held.by == agent && token.is_none_or(|token| token == held.token))
    }

    fn words(&self) -> String {
        self.held.as_ref().map_or_else(|| "nobody held it".to_owned(), Held::words)
    }
}

impl Held {
    fn words(&self) -> String {
        let (first, last) = (instant(self.ends.0), instant(self.ends.1));
        let until = if first == last { first } else { format!("between {first} and {last}") };
        format!("{} held it under token {} until {until}", self.by, self.token)
    }
}

/// An instant in words: minutes, seconds and microseconds of its hour.
#[must_use]
pub fn instant(us: i64) -> String {
    let seconds = us.div_euclid(1_000_000);
    let (minute, second) = (seconds.div_euclid(60).rem_euclid(60), seconds.rem_euclid(60));
    format!("xx:{minute:02}:{second:02}.{:06}", us.rem_euclid(1_000_000))
}

/// The states that remain, or why there is none.
fn steps(tried: impl Iterator<Item = Result<LockState, String>>) -> Steps {
    let (mut states, mut reasons) = (Vec::new(), Vec::new());
    for step in tried {
        match step {
            Ok(state) => states.push(state),
            Err(reason) => reasons.push(reason),
        }
    }
    if states.is_empty() { Err(reasons.join("; or ")) } else { Ok(states) }
}

/// The server's clock when it counted a lease from it; it has to be possible.
fn counted_from(state: &LockState, item: &Item<'_>, expires_at: i64, ttl_minutes: i64) -> Result<i64, String> {
    let at = expires_at.saturating_sub(ttl_minutes.saturating_mul(MINUTE_US));
    if at < item.least || at > item.most {
        let (least, most) = (instant(item.least), instant(item.most));
        return Err(format!(
            "the lease was counted from {}, and the server's clock showed {least} to {most}",
            instant(at)
        ));
    }
    if at < state.last {
        let last = instant(state.last);
        return Err(format!("the lease was counted from {}, and the clock had reached {last}", instant(at)));
    }
    Ok(at)
}

impl Model for LockModel {
    type State = LockState;

    fn start(&self) -> LockState {
        LockState::default()
    }

    fn step(&self, state: &LockState, item: &Item<'_>) -> Steps {
        let agent = item.call.agent.as_str();
        match (&item.call.op, &item.call.answer) {
            (_, None) => Ok(unanswered(state, item)),
            (Op::Acquire { ttl_minutes, .. }, Some(Answer::Granted { token, expires_at })) => {
                let at = counted_from(state, item, *expires_at, *ttl_minutes)?;
                steps(
                    state
                        .find(false, at, at)
                        .into_iter()
                        .map(|found| granted(state, &found, agent, *token, *expires_at)),
                )
            }
            (Op::Acquire { ttl_minutes, .. }, Some(Answer::Refreshed { token, expires_at })) => {
                let at = counted_from(state, item, *expires_at, *ttl_minutes)?;
                let asked = (agent, None);
                steps(
                    state
                        .find(false, at, at)
                        .into_iter()
                        .map(|found| refreshed(state, &found, asked, *token, *expires_at)),
                )
            }
            (Op::Renew { ttl_minutes, token: named, .. }, Some(Answer::Refreshed { token, expires_at })) => {
                let at = counted_from(state, item, *expires_at, *ttl_minutes)?;
                let asked = (agent, Some(*named));
                steps(
                    state
                        .find(false, at, at)
                        .into_iter()
                        .map(|found| refreshed(state, &found, asked, *token, *expires_at)),
                )
            }
            (op, Some(answer)) => {
                let is_look = op.is_look();
                if item.most < state.last && !is_look {
                    return Err(format!("the clock had reached {}", instant(state.last)));
                }
                let found = state.find(is_look, item.least, item.most);
                steps(found.into_iter().map(|found| answered(state, &found, agent, op, answer)))
            }
        }
    }

    fn reached(&self, state: &LockState) -> i64 {
        state.last
    }

    fn show(&self, state: &LockState) -> String {
        let held = state.held.as_ref().map_or_else(|| "free".to_owned(), Held::words);
        format!("{held}; last token {}", state.last_token)
    }
}

fn granted(state: &LockState, found: &Found, agent: &str, token: i64, expires_at: i64) -> Result<LockState, String> {
    if let Some(held) = &found.held {
        return Err(format!("granted to {agent} while {}", held.words()));
    }
    // The service gives the next whole number: a larger one would be of a grant that nobody asked for.
    if token != state.last_token.saturating_add(1) {
        return Err(format!("token {token} was given after token {}", state.last_token));
    }
    let held = Held { by: agent.to_owned(), token, ends: (expires_at, expires_at), is_seen_over: false };
    Ok(LockState { last_token: token, held: Some(held), last: found.now })
}

fn refreshed(
    state: &LockState,
    found: &Found,
    (agent, named): (&str, Option<i64>),
    token: i64,
    expires_at: i64,
) -> Result<LockState, String> {
    if !found.is_held_by(agent, named) || !found.is_held_by(agent, Some(token)) {
        return Err(format!("refreshed for {agent} under token {token} while {}", found.words()));
    }
    let held = Held { by: agent.to_owned(), token, ends: (expires_at, expires_at), is_seen_over: false };
    Ok(LockState { held: Some(held), ..state.with(found, false) })
}

/// Answers that do not tell the clock.
fn answered(state: &LockState, found: &Found, agent: &str, op: &Op, answer: &Answer) -> Result<LockState, String> {
    let same = || Ok(state.with(found, op.is_look()));
    let wrong = |what: &str| Err(format!("{what} while {}", found.words()));
    match (op, answer) {
        (Op::Acquire { .. }, Answer::Blocked { by, expires_at }) => {
            if by == agent {
                wrong(&format!("{agent} was blocked by itself"))
            } else {
                seen(state, found, false, by, None, *expires_at)
            }
        }
        (Op::Renew { token, .. }, Answer::NotOwner) if found.is_held_by(agent, Some(*token)) => {
            wrong(&format!("{agent} was told that it does not hold it"))
        }
        (Op::Release { token, .. }, Answer::NotOwner) if found.is_held_by(agent, *token) => {
            wrong(&format!("{agent} was told that it does not hold it"))
        }
        (Op::Renew { .. } | Op::Release { .. }, Answer::NotOwner) => same(),
        (Op::Release { token, .. }, Answer::Released) => {
            if !found.is_held_by(agent, *token) {
                return wrong(&format!("released by {agent}"));
            }
            Ok(LockState { held: None, ..state.with(found, op.is_look()) })
        }
        (Op::Verify { token, .. }, Answer::Verified { valid }) => {
            let is_valid = found.held.as_ref().is_some_and(|held| held.token == *token);
            if is_valid == *valid { same() } else { wrong(&format!("token {token} was told to be valid: {valid},")) }
        }
        (Op::Status { .. }, Answer::Held { by, token, expires_at }) => {
            seen(state, found, true, by, Some(*token), *expires_at)
        }
        (Op::Status { .. }, Answer::Free) => {
            if found.held.is_none() {
                same()
            } else {
                wrong("shown as free")
            }
        }
        (Op::ForceRelease { .. }, Answer::Forced { by }) => {
            if found.held.as_ref().map(|held| &held.by) != by.as_ref() {
                return wrong(&format!("taken by force from {}", by.as_deref().unwrap_or("nobody")));
            }
            Ok(LockState { held: None, ..state.with(found, op.is_look()) })
        }
        _ => Err(format!("`{answer:?}` is no answer to `{op:?}`")),
    }
}

/// Somebody was told who holds it and until when.
fn seen(
    state: &LockState,
    found: &Found,
    is_look: bool,
    by: &str,
    token: Option<i64>,
    expires_at: i64,
) -> Result<LockState, String> {
    let shown = || format!("{by} was shown as the holder until {}", instant(expires_at));
    let held = found.held.as_ref().filter(|held| {
        held.by == by
            && token.is_none_or(|token| token == held.token)
            && held.ends.0 <= expires_at
            && expires_at <= held.ends.1
    });
    let Some(held) = held else { return Err(format!("{} while {}", shown(), found.words())) };
    let held = Held { ends: (expires_at, expires_at), ..held.clone() };
    Ok(LockState { held: Some(held), ..state.with(found, is_look) })
}

/// What a call without an answer may have changed.
fn unanswered(state: &LockState, item: &Item<'_>) -> Vec<LockState> {
    if item.most < state.last {
        return Vec::new();
    }
    let agent = item.call.agent.as_str();
    let leased = |found: &Found, token: i64, ttl_minutes: i64| {
        let ttl = ttl_minutes.saturating_mul(MINUTE_US);
        let ends = (found.now.saturating_add(ttl), item.most.max(found.now).saturating_add(ttl));
        Some(Held { by: agent.to_owned(), token, ends, is_seen_over: false })
    };
    let changed = |found: &Found| match &item.call.op {
        Op::Acquire { ttl_minutes, .. } => match &found.held {
            None => {
                let token = state.last_token.saturating_add(1);
                Some(LockState { last_token: token, held: leased(found, token, *ttl_minutes), last: found.now })
            }
            Some(held) if held.by == agent => {
                Some(LockState { held: leased(found, held.token, *ttl_minutes), ..state.with(found, false) })
            }
            Some(_) => None,
        },
        Op::Renew { token, ttl_minutes, .. } if found.is_held_by(agent, Some(*token)) => {
            Some(LockState { held: leased(found, *token, *ttl_minutes), ..state.with(found, false) })
        }
        Op::Release { token, .. } if found.is_held_by(agent, *token) => {
            Some(LockState { held: None, ..state.with(found, false) })
        }
        Op::ForceRelease { .. } if found.held.is_some() => Some(LockState { held: None, ..state.with(found, false) }),
        _ => None,
    };
    state.find(false, item.least, item.most).iter().filter_map(changed).collect()
}
