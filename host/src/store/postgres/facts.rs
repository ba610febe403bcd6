//! What is remembered of keys, so that a request of a known agent costs no look.
//!
//! It may be old: another host may have revoked the key or suspended its agent. That is found out by the facts version,
//! which every function of the database checks under the agent's lock; then the facts are read anew. Time only bounds
//! how long something old is carried along.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::authn::StoredKey;

/// Most lookups that are remembered; then all are forgotten, which only costs looks.
const LOOKUPS_MAX: usize = 10_000;
/// How long one is remembered.
const KEPT: Duration = Duration::from_secs(60);

/// Keys by the hash that finds them.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    kept: Arc<Mutex<Kept>>,
}

#[derive(Debug, Default)]
struct Kept {
    by_lookup: HashMap<Vec<u8>, (Instant, Vec<StoredKey>)>,
    /// Moves when anything is forgotten: what was read before that may be what was forgotten.
    generation: u64,
}

/// When a look began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Generation(u64);

impl Facts {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The keys of a lookup, if they are remembered; else when the look for them begins.
    pub(super) fn get(&self, lookup: &[u8]) -> Result<Vec<StoredKey>, Generation> {
        let kept = self.kept();
        match kept.by_lookup.get(lookup) {
            Some((at, keys)) if at.elapsed() < KEPT => Ok(keys.clone()),
            _ => Err(Generation(kept.generation)),
        }
    }

    /// Remembers what a look found, unless anything was forgotten since it began. That there is no such key is not
    /// remembered: it may be made.
    pub(super) fn put(&self, begun: Generation, lookup: &[u8], keys: &[StoredKey]) {
        let mut kept = self.kept();
        if keys.is_empty() || kept.generation != begun.0 {
            return;
        }
        if kept.by_lookup.len() >= LOOKUPS_MAX {
            kept.by_lookup.clear();
        }
        kept.by_lookup.insert(lookup.to_owned(), (Instant::now(), keys.to_vec()));
    }

    fn forget(&self, is_old: impl Fn(&StoredKey) -> bool) {
        let mut kept = self.kept();
        kept.generation = kept.generation.wrapping_add(1);
        kept.by_lookup.retain(|_, (_, keys)| !keys.iter().any(&is_old));
    }

    /// Forgets an agent's keys.
    pub(super) fn forget_agent(&self, agent_id: &str) {
        self.forget(|key| key.facts.agent_id == agent_id);
    }

    /// Forgets one key.
    pub(super) fn forget_key(&self, key_id: &str) {
        self.forget(|key| key.key_id == key_id);
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        self.forget(|_| true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::AgentFacts;

    fn key(key_id: &str, agent_id: &str) -> StoredKey {
        let facts = AgentFacts {
            agent_id: agent_id.to_owned(),
            agent_type: "t".to_owned(),
            profile: "p".to_owned(),
            archetype: None,
            suspended: false,
            facts_version: 1,
        };
        StoredKey { key_id: key_id.to_owned(), key_hash: vec![1], facts }
    }

    #[test]
    fn what_is_forgotten_is_looked_for_again() {
        let facts = Facts::default();
        for (lookup, key) in [(b"1", key("k1", "a")), (b"2", key("k2", "a")), (b"3", key("k3", "b"))] {
            let begun = facts.get(lookup).unwrap_err();
            facts.put(begun, lookup, &[key]);
        }
        assert_eq!(facts.get(b"1").unwrap()[0].key_id, "k1");
        facts.forget_key("k1");
        assert!(facts.get(b"1").is_err() && facts.get(b"2").is_ok());
        facts.forget_agent("a");
        assert!(facts.get(b"2").is_err() && facts.get(b"3").is_ok());
        facts.clear();
        assert!(facts.get(b"3").is_err());
    }

    #[test]
    fn a_look_that_began_before_something_was_forgotten_is_not_remembered() {
        let facts = Facts::default();
        let begun = facts.get(b"1").unwrap_err();
        facts.forget_agent("a");
        facts.put(begun, b"1", &[key("k1", "a")]);
        assert!(facts.get(b"1").is_err());
        let begun = facts.get(b"1").unwrap_err();
        facts.put(begun, b"1", &[]);
        assert!(facts.get(b"1").is_err(), "that there is no key is not remembered");
    }

    #[test]
    fn no_more_than_so_many_are_remembered() {
        let facts = Facts::default();
        let lookups: Vec<[u8; 8]> = (0..=LOOKUPS_MAX).map(|n| u64::try_from(n).unwrap().to_be_bytes()).collect();
        for lookup in &lookups {
            let begun = facts.get(lookup).unwrap_err();
            facts.put(begun, lookup, &[key("k", "a")]);
        }
        assert!(facts.get(&lookups[0]).is_err(), "there is room again");
        assert!(facts.get(&lookups[LOOKUPS_MAX]).is_ok());
    }
}
