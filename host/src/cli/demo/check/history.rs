//! What the clients saw, by their own clocks: spans that may not overlap, and answers that need an explanation.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use super::super::history::{Class, History, Surprise, Taken};
use super::super::operator::Suspension;
use super::super::worker::SUSPENDED;
use super::log::Log;
use super::{Evidence, Invariant, Ledger};

/// When somebody certainly held something.
#[derive(Debug, Clone)]
struct Span<'a> {
    agent_id: &'a str,
    what: &'a str,
    /// A fencing token, or a claim's number.
    token: i64,
    from: Instant,
    until: Instant,
}

pub(super) fn check(evidence: &Evidence<'_>, log: &Log, ledger: &mut Ledger) {
    let history = evidence.history;
    let taken = by_name(&history.taken);
    let path = |file: usize| evidence.material.files.get(file).map_or("", |source| source.path.as_str());
    let locks = history.grants.iter().map(|grant| {
        let until = grant.released.unwrap_or(grant.expires).min(grant.expires);
        let until = cut(&taken, path(grant.file), grant.asked, until);
        let (agent_id, what) = (grant.agent_id.as_str(), path(grant.file));
        Span { agent_id, what, token: grant.token, from: grant.granted, until }
    });
    exclusive(locks.collect(), Invariant::Excl, ledger);
    let claims = history.claims.iter().zip(0_i64..).map(|(claim, token)| {
        let until = claim.ended.unwrap_or(claim.expires).min(claim.expires);
        let until = cut(&taken, &claim.task_id, claim.claimed, until);
        Span { agent_id: &claim.agent_id, what: &claim.task_id, token, from: claim.claimed, until }
    });
    exclusive(claims.collect(), Invariant::Claim, ledger);
    for grant in &history.grants {
        let told = log.locks.grants.get(&(path(grant.file).to_owned(), grant.token));
        ledger.check(Invariant::Excl, told == Some(&grant.agent_id), || format!("{grant:?}, the log says {told:?}"));
    }
    for lost in &history.lost {
        let name = path(lost.file);
        let asked = history.grants.iter().find(|grant| grant.file == lost.file && grant.token == lost.token);
        let explained = asked.is_some_and(|grant| {
            let gone = taken.get(name).into_iter().flatten().any(|taken| taken.answered >= grant.asked);
            gone || Instant::now() >= grant.expires
        });
        ledger.check(Invariant::Excl, explained, || {
            format!("the holder of {name} under {} found that {}", lost.token, lost.what)
        });
    }
    completed_once(history, log, ledger);
    if let Some(suspension) = evidence.suspension {
        suspended(history, suspension, ledger);
    }
}

fn by_name(taken: &[Taken]) -> HashMap<&str, Vec<&Taken>> {
    let mut by_name: HashMap<&str, Vec<&Taken>> = HashMap::new();
    for taken in taken {
        by_name.entry(&taken.what).or_default().push(taken);
    }
    by_name
}

/// A span ends no later than when somebody else may have ended it.
fn cut(taken: &HashMap<&str, Vec<&Taken>>, what: &str, asked: Instant, until: Instant) -> Instant {
    let ends = taken.get(what).into_iter().flatten().filter(|taken| taken.answered >= asked).map(|taken| taken.sent);
    ends.min().map_or(until, |end| end.min(until))
}

/// No two spans of one thing overlap. Empty ones say nothing.
fn exclusive(spans: Vec<Span<'_>>, invariant: Invariant, ledger: &mut Ledger) {
    let mut by_name: BTreeMap<&str, Vec<Span<'_>>> = BTreeMap::new();
    for span in spans.into_iter().filter(|span| span.from < span.until) {
        by_name.entry(span.what).or_default().push(span);
    }
    for spans in by_name.values_mut() {
        spans.sort_by_key(|span| span.from);
        let mut longest: Option<&Span<'_>> = None;
        for span in spans.iter() {
            let apart = longest.is_none_or(|before| before.until <= span.from);
            ledger.check(invariant, apart, || {
                let other = longest.map(|before| (before.agent_id, before.token));
                format!("{} and {other:?} held {} at once ({})", span.agent_id, span.what, span.token)
            });
            if longest.is_none_or(|before| before.until < span.until) {
                longest = Some(span);
            }
        }
    }
}

/// A task is completed once, and by whom the log says.
fn completed_once(history: &History, log: &Log, ledger: &mut Ledger) {
    let mut completed = BTreeMap::new();
    for claim in history.claims.iter().filter(|claim| claim.completed) {
        let before = completed.insert(claim.task_id.as_str(), claim.agent_id.as_str());
        let told = log.tasks.completed.get(&claim.task_id);
        ledger.check(Invariant::Claim, before.is_none() && told == Some(&claim.agent_id), || {
            format!("{} completed {}, before it {before:?}, in the log {told:?}", claim.agent_id, claim.task_id)
        });
    }
}

/// What the suspended agent sent after the acknowledgement, and had answered before the resume, was refused.
fn suspended(history: &History, suspension: &Suspension, ledger: &mut Ledger) {
    let before_resume = |at: Instant| suspension.resumed.is_none_or(|(sent, _)| at < sent);
    let of_agent = history.records.iter().filter(|record| record.agent_id == suspension.agent_id);
    for record in of_agent.filter(|record| record.sent > suspension.acknowledged && before_resume(record.answered)) {
        let done = matches!(record.class, Class::Allowed | Class::Conflict(_) | Class::Replayed);
        ledger.check(Invariant::Revoke, !done, || {
            format!("{} of the suspended {} was {}", record.op.name(), record.agent_id, record.class.text())
        });
    }
}

/// Surprises that the suspension does not explain.
pub(super) fn anomalies(evidence: &Evidence<'_>) -> Vec<Surprise> {
    let explained = |surprise: &&Surprise| {
        let Some(suspension) = evidence.suspension else { return false };
        let after = suspension.asked <= surprise.answered;
        let before = suspension.resumed.is_none_or(|(_, answered)| surprise.sent <= answered);
        surprise.agent_id == suspension.agent_id
            && after
            && before
            && surprise.class == Class::Denied(SUSPENDED.to_owned())
    };
    evidence.history.surprises.iter().filter(|surprise| !explained(surprise)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Ledger;
    use super::*;

    fn broken(spans: &[(&'static str, u64, u64)]) -> u64 {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let spans = spans.iter().map(|&(agent_id, from, until)| Span {
            agent_id,
            what: "x",
            token: 1,
            from: at(from),
            until: at(until),
        });
        let mut ledger = Ledger::new();
        exclusive(spans.collect(), Invariant::Excl, &mut ledger);
        ledger.findings.iter().map(|(_, finding)| finding.broken).sum()
    }

    #[test]
    fn two_holders_at_once_are_found() {
        assert_eq!(broken(&[("a", 0, 10), ("b", 10, 20), ("a", 20, 30)]), 0);
        assert_eq!(broken(&[("a", 0, 10), ("b", 9, 20)]), 1);
        // A short span inside of a long one does not hide the next.
        assert_eq!(broken(&[("a", 0, 100), ("b", 10, 20), ("c", 30, 40)]), 2);
        assert_eq!(broken(&[("a", 0, 10), ("b", 5, 5)]), 0);
    }

    #[test]
    fn a_lock_that_was_taken_away_ends_when_that_was_asked_for() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let taken = [Taken { what: "x".to_owned(), sent: at(50), answered: at(60) }];
        let taken = by_name(&taken);
        assert_eq!(cut(&taken, "x", at(0), at(100)), at(50));
        assert_eq!(cut(&taken, "x", at(61), at(100)), at(100));
        assert_eq!(cut(&taken, "y", at(0), at(100)), at(100));
    }
}
