//! One task of the queue: where it stands, who works on it, how many attempts have ended.
//!
//! What time does, it does by itself: a claim whose lease ran out goes back to the queue, or fails with its last attempt. Here it is
//! done by whoever looks next, since before that nobody can tell.
//!
//! Tasks that wait for others, have a deadline or ask something of their claimant are not submitted: one that is pending can be claimed
//! by whoever asks for its type, and nobody may be told that there is none.
//!
//! CLAIM: no answer may show two claims at once, a report of another, or a final status that changed.

use super::locks::instant;
use super::search::{Item, Model};
use super::{Answer, Op};

const SECOND_US: i64 = 1_000_000;

/// A task of a correct service.
#[derive(Debug, Clone, Copy)]
pub struct TaskModel {
    /// Attempts that it may take.
    pub max_attempts: i64,
}

/// A task at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TaskState {
    place: Place,
    /// Attempts that ended.
    attempts: i64,
    /// What the server's clock had reached at the last change, or attempt of one. These come one after the other.
    last: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Place {
    /// Not there yet.
    Nowhere,
    Pending,
    Claimed(Claim),
    /// Completed, failed or cancelled.
    Over(&'static str),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Claim {
    by: String,
    /// None where the claim was not answered: then nobody knows it.
    token: Option<String>,
    /// The lease ends at one of these instants.
    ends: (i64, i64),
}

type Steps = Result<Vec<TaskState>, String>;

impl TaskState {
    /// The task when the clock shows an instant of a range: as it is, or after its lease. That a lease ended is a change, which comes
    /// after the others; a look at the task tells nothing of the clock of the next change.
    fn find(&self, model: TaskModel, is_look: bool, least: i64, most: i64) -> Vec<Self> {
        let least = if is_look { least } else { least.max(self.last) };
        let last = if is_look { self.last } else { least };
        let Place::Claimed(claim) = &self.place else { return vec![Self { last, ..self.clone() }] };
        let mut found = Vec::new();
        if least < claim.ends.1 {
            let ends = (claim.ends.0.max(least.saturating_add(1)), claim.ends.1);
            let place = Place::Claimed(Claim { ends, ..claim.clone() });
            found.push(Self { place, last, ..self.clone() });
        }
        if most >= claim.ends.0 {
            found.push(self.ended(model, last.max(claim.ends.0)));
        }
        found
    }

    /// An attempt ended without success.
    fn ended(&self, model: TaskModel, last: i64) -> Self {
        let attempts = self.attempts.saturating_add(1).min(model.max_attempts);
        let place = if attempts >= model.max_attempts { Place::Over("failed") } else { Place::Pending };
        Self { place, attempts, last }
    }

    fn claim_of(&self, agent: &str, token: &str) -> Option<&Claim> {
        match &self.place {
            Place::Claimed(claim) if claim.by == agent && claim.token.as_deref() == Some(token) => Some(claim),
            _ => None,
        }
    }

    fn words(&self) -> String {
        let attempts = self.attempts;
        match &self.place {
            Place::Nowhere => "it was not there".to_owned(),
            Place::Pending => format!("it was pending after {attempts} attempt(s)"),
            Place::Over(status) => format!("it was {status} after {attempts} attempt(s)"),
            Place::Claimed(claim) => {
                let (first, last) = (instant(claim.ends.0), instant(claim.ends.1));
                let until = if first == last { first } else { format!("between {first} and {last}") };
                let token = claim.token.as_deref().unwrap_or("nobody knows");
                format!("{} held it under token {token} until {until}, after {attempts} attempt(s)", claim.by)
            }
        }
    }
}

fn steps(tried: impl Iterator<Item = Result<TaskState, String>>) -> Steps {
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
fn counted_from(state: &TaskState, item: &Item<'_>, expires_at: i64, lease_seconds: i64) -> Result<i64, String> {
    let at = expires_at.saturating_sub(lease_seconds.saturating_mul(SECOND_US));
    if at < item.least || at > item.most {
        let (least, most) = (instant(item.least), instant(item.most));
        return Err(format!(
            "the lease was counted from {}, and the server's clock showed {least} to {most}",
            instant(at)
        ));
    }
    if at < state.last {
        return Err(format!(
            "the lease was counted from {}, and the clock had reached {}",
            instant(at),
            instant(state.last)
        ));
    }
    Ok(at)
}

impl Model for TaskModel {
    type State = TaskState;

    fn start(&self) -> TaskState {
        TaskState { place: Place::Nowhere, attempts: 0, last: 0 }
    }

    fn step(&self, state: &TaskState, item: &Item<'_>) -> Steps {
        let agent = item.call.agent.as_str();
        match (&item.call.op, &item.call.answer) {
            (_, None) => Ok(unanswered(*self, state, item)),
            (Op::Claim { lease_seconds, .. }, Some(Answer::Claimed { claim_token, expires_at, attempt, .. })) => {
                let at = counted_from(state, item, *expires_at, *lease_seconds)?;
                let claim =
                    Claim { by: agent.to_owned(), token: Some(claim_token.clone()), ends: (*expires_at, *expires_at) };
                steps(state.find(*self, false, at, at).into_iter().map(|found| claimed(found, &claim, *attempt)))
            }
            (Op::Heartbeat { lease_seconds, claim_token, .. }, Some(Answer::Beat { expires_at })) => {
                let at = counted_from(state, item, *expires_at, *lease_seconds)?;
                steps(state.find(*self, false, at, at).into_iter().map(
                    |found| match found.claim_of(agent, claim_token) {
                        Some(claim) => {
                            let place = Place::Claimed(Claim { ends: (*expires_at, *expires_at), ..claim.clone() });
                            Ok(TaskState { place, ..found })
                        }
                        None => Err(format!(
                            "the lease of {agent}'s claim {claim_token} was made longer while {}",
                            found.words()
                        )),
                    },
                ))
            }
            (op, Some(answer)) => {
                // Whoever finds nothing to claim has only looked at the tasks.
                let is_look = op.is_look() || *answer == Answer::NothingToClaim;
                if item.most < state.last && !is_look {
                    return Err(format!("the clock had reached {}", instant(state.last)));
                }
                let found = state.find(*self, is_look, item.least, item.most).into_iter();
                steps(found.map(|found| answered(*self, found, agent, op, answer)))
            }
        }
    }

    fn reached(&self, state: &TaskState) -> i64 {
        state.last
    }

    fn show(&self, state: &TaskState) -> String {
        state.words()
    }
}

fn claimed(found: TaskState, claim: &Claim, attempt: i64) -> Result<TaskState, String> {
    if found.place != Place::Pending {
        return Err(format!("claimed by {} while {}", claim.by, found.words()));
    }
    if attempt != found.attempts.saturating_add(1) {
        return Err(format!("claimed as attempt {attempt} while {}", found.words()));
    }
    Ok(TaskState { place: Place::Claimed(claim.clone()), ..found })
}

/// Answers that do not tell the clock.
fn answered(model: TaskModel, found: TaskState, agent: &str, op: &Op, answer: &Answer) -> Result<TaskState, String> {
    let wrong = |what: String| Err(format!("{what} while {}", found.words()));
    match (op, answer) {
        (Op::Submit { .. }, Answer::Submitted { .. }) => {
            if found.place != Place::Nowhere {
                return wrong("submitted".to_owned());
            }
            Ok(TaskState { place: Place::Pending, ..found })
        }
        // There was a moment of the call at which this task could not be claimed.
        (Op::Claim { .. }, Answer::NothingToClaim) => {
            if found.place == Place::Pending {
                return wrong(format!("{agent} was told that there is nothing to claim"));
            }
            Ok(found)
        }
        (Op::Heartbeat { claim_token, .. } | Op::Complete { claim_token, .. }, Answer::NotHeld) => {
            if found.claim_of(agent, claim_token).is_some() {
                return wrong(format!("{agent} was told that it does not hold claim {claim_token}"));
            }
            Ok(found)
        }
        (Op::Complete { claim_token, success, .. }, Answer::Ended { status }) => {
            if found.claim_of(agent, claim_token).is_none() {
                return wrong(format!("the report of {agent}'s claim {claim_token} counted"));
            }
            let next = reported(model, &found, *success);
            if name(&next.place) != status {
                wrong(format!("a report of success {success} made it {status}"))
            } else {
                Ok(next)
            }
        }
        (Op::Cancel { .. }, Answer::Ended { status }) if status == "cancelled" => {
            if !matches!(found.place, Place::Pending | Place::Claimed(_)) {
                return wrong("cancelled".to_owned());
            }
            Ok(cancelled(model, &found))
        }
        (Op::Cancel { .. }, Answer::AlreadyFinal) if matches!(found.place, Place::Over(_)) => Ok(found),
        (Op::Cancel { .. }, Answer::AlreadyFinal) => wrong("said to be final".to_owned()),
        (Op::Cancel { .. } | Op::Get { .. }, Answer::Missing) if found.place == Place::Nowhere => Ok(found),
        (Op::Cancel { .. } | Op::Get { .. }, Answer::Missing) => wrong("said to be missing".to_owned()),
        (Op::Get { .. }, Answer::Task { status, attempts, by, expires_at }) => {
            let shown = || format!("shown as {status} after {attempts} attempt(s)");
            if name(&found.place) != status || found.attempts != *attempts {
                return wrong(shown());
            }
            let Place::Claimed(claim) = &found.place else { return Ok(found) };
            let ends = expires_at.filter(|at| claim.ends.0 <= *at && *at <= claim.ends.1);
            match ends {
                Some(at) if by.as_deref() == Some(claim.by.as_str()) => {
                    let place = Place::Claimed(Claim { ends: (at, at), ..claim.clone() });
                    Ok(TaskState { place, ..found })
                }
                _ => {
                    let (by, until) =
                        (by.as_deref().unwrap_or("nobody"), expires_at.map_or("ever".to_owned(), instant));
                    wrong(format!("{} by {by} until {until}", shown()))
                }
            }
        }
        _ => Err(format!("`{answer:?}` is no answer to `{op:?}`")),
    }
}

fn name(place: &Place) -> &'static str {
    match place {
        Place::Nowhere => "nowhere",
        Place::Pending => "pending",
        Place::Claimed(_) => "claimed",
        Place::Over(status) => status,
    }
}

fn reported(model: TaskModel, found: &TaskState, success: bool) -> TaskState {
    if success {
        TaskState { place: Place::Over("completed"), attempts: found.attempts.saturating_add(1), last: found.last }
    } else {
        found.ended(model, found.last)
    }
}

/// A claim that is taken from its holder was an attempt.
fn cancelled(model: TaskModel, found: &TaskState) -> TaskState {
    let spent = i64::from(matches!(found.place, Place::Claimed(_)));
    let attempts = found.attempts.saturating_add(spent).min(model.max_attempts);
    TaskState { place: Place::Over("cancelled"), attempts, last: found.last }
}

/// What a call without an answer may have changed.
fn unanswered(model: TaskModel, state: &TaskState, item: &Item<'_>) -> Vec<TaskState> {
    if item.most < state.last {
        return Vec::new();
    }
    let agent = item.call.agent.as_str();
    let leased = |found: &TaskState, token: Option<String>, lease_seconds: i64| {
        let lease = lease_seconds.saturating_mul(SECOND_US);
        let ends = (found.last.saturating_add(lease), item.most.max(found.last).saturating_add(lease));
        let place = Place::Claimed(Claim { by: agent.to_owned(), token, ends });
        Some(TaskState { place, ..found.clone() })
    };
    let changed = |found: &TaskState| match &item.call.op {
        Op::Submit { .. } if found.place == Place::Nowhere => {
            Some(TaskState { place: Place::Pending, ..found.clone() })
        }
        Op::Claim { lease_seconds, .. } if found.place == Place::Pending => leased(found, None, *lease_seconds),
        Op::Heartbeat { claim_token, lease_seconds, .. } => {
            let claim = found.claim_of(agent, claim_token)?;
            leased(found, claim.token.clone(), *lease_seconds)
        }
        Op::Complete { claim_token, success, .. } => {
            found.claim_of(agent, claim_token)?;
            Some(reported(model, found, *success))
        }
        Op::Cancel { .. } if matches!(found.place, Place::Pending | Place::Claimed(_)) => Some(cancelled(model, found)),
        _ => None,
    };
    state.find(model, false, item.least, item.most).iter().filter_map(changed).collect()
}
