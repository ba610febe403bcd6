//! Locks.
//!
//! EXCL: at most one holder, a token that only grows, leases by the service's clock.

use serde_json::{Value, json};

use super::super::op::KEYS;
use super::{Answer, Lock, Model, name, time};

const NOT_OWNER: &str = "lock_not_found_or_not_owner";

fn session_id(session: Option<u8>) -> Value {
    session.map_or(Value::Null, |n| json!(format!("session-{n}")))
}

fn granted(action: &str, key: usize, lock: &Lock) -> Answer {
    Answer::ok(json!({
        "success": true,
        "action": action,
        "file_path": KEYS[key],
        "expires_at": time(lock.expires_at),
        "reason": null,
        "locked_by": name(lock.holder),
        "lock_reason": session_id(lock.session),
        "fencing_token": lock.token,
    }))
}

fn not_owner(key: usize) -> Answer {
    Answer::ok(json!({
        "success": false,
        "action": "blocked",
        "file_path": KEYS[key],
        "expires_at": null,
        "reason": NOT_OWNER,
        "locked_by": null,
        "lock_reason": null,
        "fencing_token": null,
    }))
}

impl Model {
    fn live(&self, key: usize) -> Option<&Lock> {
        self.locks.get(&key).filter(|lock| self.now < lock.expires_at)
    }

    fn own(&self, who: usize, key: usize, token: Option<i64>) -> bool {
        self.live(key).is_some_and(|lock| lock.holder == who && token.is_none_or(|token| token == lock.token))
    }

    pub(super) fn acquire(&mut self, who: usize, key: usize, ttl: i64, session: Option<u8>) -> Answer {
        if ttl > self.ttl_most(who) {
            return Answer::invalid("ttl_out_of_range");
        }
        let (now, expires_at) = (self.now, self.now + ttl * 60);
        match self.live(key).cloned() {
            Some(lock) if lock.holder == who => {
                let lock = Lock { session: session.or(lock.session), refreshed_at: now, expires_at, ..lock };
                let answer = granted("refreshed", key, &lock);
                self.locks.insert(key, lock);
                answer
            }
            Some(lock) => Answer::ok(json!({
                "success": false,
                "action": "blocked",
                "file_path": KEYS[key],
                "expires_at": time(lock.expires_at),
                "reason": "locked_by_other",
                "locked_by": name(lock.holder),
                "lock_reason": session_id(lock.session),
                "fencing_token": null,
            })),
            None => {
                let held = self.locks.values().filter(|lock| lock.holder == who && now < lock.expires_at).count();
                if held >= self.locks_most(who) {
                    return Answer::denied("lock_limit_reached");
                }
                let token = self.tokens.get(&key).unwrap_or(&0) + 1;
                self.tokens.insert(key, token);
                let lock = Lock { holder: who, token, session, locked_at: now, refreshed_at: now, expires_at };
                let answer = granted("acquired", key, &lock);
                self.locks.insert(key, lock);
                answer
            }
        }
    }

    pub(super) fn renew(&mut self, who: usize, key: usize, token: i64, ttl: i64) -> Answer {
        if ttl > self.ttl_most(who) {
            return Answer::invalid("ttl_out_of_range");
        }
        let now = self.now;
        if !self.own(who, key, Some(token)) {
            return not_owner(key);
        }
        let lock = self.locks.get_mut(&key).unwrap();
        (lock.refreshed_at, lock.expires_at) = (now, now + ttl * 60);
        granted("refreshed", key, lock)
    }

    pub(super) fn release(&mut self, who: usize, key: usize, token: Option<i64>) -> Answer {
        let is_own = self.own(who, key, token);
        if is_own {
            self.locks.remove(&key);
        }
        Answer::ok(json!({
            "success": is_own,
            "action": if is_own { "released" } else { "none" },
            "file_path": KEYS[key],
            "reason": (!is_own).then_some(NOT_OWNER),
        }))
    }

    pub(super) fn verify(&self, key: usize, token: i64) -> Answer {
        let reason = match self.locks.get(&key) {
            None => Some("not_locked"),
            Some(lock) if lock.token != token => Some("token_superseded"),
            Some(_) if self.live(key).is_none() => Some("lease_expired"),
            Some(_) => None,
        };
        Answer::ok(json!({"valid": reason.is_none(), "reason": reason}))
    }

    fn entry(&self, key: usize) -> Value {
        self.live(key).map_or(Value::Null, |lock| {
            json!({
                "file_path": KEYS[key],
                "locked_by": name(lock.holder),
                "locked_at": time(lock.locked_at),
                "expires_at": time(lock.expires_at),
                "reason": session_id(lock.session),
                "fencing_token": lock.token,
            })
        })
    }

    pub(super) fn status(&self, key: usize) -> Answer {
        let lock = self.entry(key);
        Answer::ok(json!({"locked": lock.is_object(), "lock": lock}))
    }

    pub(super) fn held(&self, of: Option<usize>) -> Answer {
        let mut keys: Vec<usize> = (0..KEYS.len()).collect();
        keys.sort_by_key(|key| KEYS[*key]);
        let held =
            keys.into_iter().filter(|key| self.live(*key).is_some_and(|lock| of.is_none_or(|of| of == lock.holder)));
        Answer::ok(json!({"items": held.map(|key| self.entry(key)).collect::<Vec<_>>()}))
    }

    pub(super) fn force(&mut self, key: usize) -> Answer {
        let prior = self.live(key).cloned();
        if prior.is_some() {
            self.locks.remove(&key);
        }
        Answer::ok(json!({
            "released": prior.is_some(),
            "prior_holder_agent_id": prior.as_ref().map(|lock| name(lock.holder)),
            "prior_acquired_at": prior.as_ref().map(|lock| time(lock.locked_at)),
        }))
    }

    /// Locks that a cleanup takes from an agent that is gone: not refreshed since, taken under no session or one of its own.
    pub(super) fn locks_left(&self, agent: usize, cutoff: i64) -> Vec<usize> {
        let own = |session: u8| self.sessions.get(&session).is_some_and(|known| known.agent == agent);
        let is_left =
            |lock: &&Lock| lock.holder == agent && lock.refreshed_at <= cutoff && lock.session.is_none_or(own);
        (0..KEYS.len()).filter(|key| self.live(*key).as_ref().is_some_and(is_left)).collect()
    }
}
