//! A lock: who holds a key, until when, under which fencing token.
//!
//! Fencing tokens are those of Lamport clocks for locks (as in Chubby's
//! sequencers): they strictly increase per key over all grants, so that a
//! holder that slept past its lease can be told from the one that came after.

use serde::Serialize;

use super::lock_key::LockKey;
use crate::clock::Time;

/// A lock as it is stored. It is held while `now < expires_at`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Lock {
    /// What is locked.
    pub lock_key: LockKey,
    /// Who holds it.
    pub agent_id: String,
    /// The holder's type.
    pub agent_type: String,
    /// The session that took it, as the caller named it.
    pub session_id: Option<String>,
    /// Why, in the holder's words.
    pub reason: Option<String>,
    /// Strictly increases per key over all grants.
    pub fencing_token: i64,
    /// When the present holder was granted it.
    pub locked_at: Time,
    /// From this instant on it is free.
    pub expires_at: Time,
}

/// What a holder asks for.
#[derive(Debug, Clone)]
pub struct Claimant {
    /// Who asks.
    pub agent_id: String,
    /// The type of who asks.
    pub agent_type: String,
    /// Its session, as it named it.
    pub session_id: Option<String>,
    /// Why, in its words.
    pub reason: Option<String>,
}

/// What became of an attempt to acquire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acquired {
    /// A new grant with a new token.
    Granted(Lock),
    /// The same holder again: new expiry, same token.
    Refreshed(Lock),
    /// Someone else holds it; nothing changes.
    Blocked(Lock),
}

impl Lock {
    /// Whether the lock is held at `now`.
    #[must_use]
    pub fn is_live(&self, now: Time) -> bool {
        now < self.expires_at
    }

    /// Whether `agent_id` holds it at `now`, under `token` if one is given.
    #[must_use]
    pub fn is_held_by(&self, agent_id: &str, token: Option<i64>, now: Time) -> bool {
        self.is_live(now) && self.agent_id == agent_id && token.is_none_or(|t| t == self.fencing_token)
    }
}

/// Decides an attempt to acquire `key` until `expires_at`.
///
/// EXCL: while somebody's lease is live nobody else is granted the key, and every grant has a higher token than all before.
///
/// `last_token` is the highest token ever given for the key (0 for none).
#[must_use]
pub fn acquire(
    current: Option<Lock>,
    last_token: i64,
    key: &LockKey,
    who: Claimant,
    now: Time,
    expires_at: Time,
) -> Acquired {
    match current.filter(|lock| lock.is_live(now)) {
        Some(lock) if lock.agent_id == who.agent_id => Acquired::Refreshed(Lock {
            reason: who.reason.or(lock.reason),
            session_id: who.session_id.or(lock.session_id),
            expires_at,
            ..lock
        }),
        Some(lock) => Acquired::Blocked(lock),
        None => Acquired::Granted(Lock {
            lock_key: key.clone(),
            agent_id: who.agent_id,
            agent_type: who.agent_type,
            session_id: who.session_id,
            reason: who.reason,
            fencing_token: last_token.saturating_add(1),
            locked_at: now,
            expires_at,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(agent_id: &str) -> Claimant {
        Claimant { agent_id: agent_id.to_owned(), agent_type: "t".to_owned(), session_id: None, reason: None }
    }

    fn at(seconds: i64) -> Time {
        Time::from_micros(0).plus_seconds(seconds)
    }

    #[test]
    fn a_lock_frees_at_its_expiry_and_the_next_token_is_higher() {
        let key = LockKey::parse("a").unwrap();
        let Acquired::Granted(first) = acquire(None, 0, &key, who("x"), at(0), at(60)) else { panic!() };
        assert!(matches!(acquire(Some(first.clone()), 1, &key, who("y"), at(59), at(90)), Acquired::Blocked(_)));
        let Acquired::Granted(second) = acquire(Some(first.clone()), 1, &key, who("y"), at(60), at(90)) else {
            panic!()
        };
        assert!(second.fencing_token > first.fencing_token);
        // The old holder's own return after expiry is a new grant as well.
        let Acquired::Granted(third) = acquire(Some(second), 2, &key, who("x"), at(90), at(99)) else { panic!() };
        assert_eq!(third.fencing_token, 3);
    }

    #[test]
    fn the_holder_refreshes_under_the_same_token_and_keeps_its_reason() {
        let key = LockKey::parse("a").unwrap();
        let first = Claimant { reason: Some("why".to_owned()), ..who("x") };
        let Acquired::Granted(lock) = acquire(None, 7, &key, first, at(0), at(60)) else { panic!() };
        let Acquired::Refreshed(again) = acquire(Some(lock.clone()), 8, &key, who("x"), at(30), at(120)) else {
            panic!()
        };
        assert_eq!((again.fencing_token, again.reason.as_deref()), (8, Some("why")));
        assert_eq!(again.expires_at, at(120));
        assert!(!lock.is_held_by("x", Some(7), at(1)));
    }

    #[test]
    fn a_lock_is_held_by_its_holder_under_its_token_while_it_lives() {
        let key = LockKey::parse("a").unwrap();
        let Acquired::Granted(lock) = acquire(None, 7, &key, who("x"), at(0), at(60)) else { panic!() };
        assert!(lock.is_held_by("x", Some(8), at(59)) && lock.is_held_by("x", None, at(0)));
        assert!(!lock.is_held_by("x", Some(9), at(1)) && !lock.is_held_by("y", None, at(1)));
        assert!(!lock.is_held_by("x", Some(8), at(60)));
    }

    #[test]
    fn what_the_holder_says_anew_replaces_what_it_said() {
        let key = LockKey::parse("a").unwrap();
        let said = |word: &str| Claimant {
            session_id: Some(format!("session {word}")),
            reason: Some(format!("reason {word}")),
            ..who("x")
        };
        let Acquired::Granted(lock) = acquire(None, 0, &key, said("one"), at(0), at(60)) else { panic!() };
        assert_eq!((lock.session_id.as_deref(), lock.locked_at), (Some("session one"), at(0)));
        let Acquired::Refreshed(again) = acquire(Some(lock.clone()), 1, &key, said("two"), at(30), at(90)) else {
            panic!()
        };
        assert_eq!(again.session_id.as_deref(), Some("session two"));
        assert_eq!(again.reason.as_deref(), Some("reason two"));
        assert_eq!((again.locked_at, again.expires_at), (at(0), at(90)));
        let Acquired::Refreshed(silent) = acquire(Some(again), 1, &key, who("x"), at(31), at(91)) else { panic!() };
        assert_eq!(silent.session_id.as_deref(), Some("session two"));
        let Acquired::Blocked(held) = acquire(Some(lock.clone()), 1, &key, who("y"), at(30), at(90)) else { panic!() };
        assert_eq!(held, lock);
    }
}
