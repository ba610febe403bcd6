//! Locks as one thing at a time: every answer about a lock in the log is the one that this model gives.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};

use super::log::{Entry, time};
use super::{Invariant, Ledger};
use crate::clock::Time;
use crate::store::StoredLock;

/// A lock, as the log tells.
#[derive(Debug, Clone)]
struct Lock {
    agent_id: String,
    token: i64,
    expires_at: Time,
}

/// All locks, as the log tells.
#[derive(Debug, Default)]
pub(super) struct LockModel {
    locks: HashMap<String, Lock>,
    fences: BTreeMap<String, i64>,
    /// Who was granted what.
    pub(super) grants: HashMap<(String, i64), String>,
}

impl LockModel {
    pub(super) fn step(&mut self, entry: &Entry<'_>, ledger: &mut Ledger) {
        let key = entry.text("file_path").or_else(|| entry.text("path")).unwrap_or_default().to_owned();
        let (ok, refused) = (entry.is("ok"), entry.is("refused"));
        if !ok && !refused {
            return;
        }
        let now = time(entry.row);
        let agent_id = entry.row.agent_id.as_str();
        let live = self.locks.get(&key).filter(|lock| now < lock.expires_at).cloned();
        let token = entry.int("fencing_token");
        let own = live.as_ref().filter(|lock| lock.agent_id == agent_id && token.is_none_or(|t| t == lock.token));
        let due = match entry.row.command.as_str() {
            "lock_acquire" => live.as_ref().is_none_or(|lock| lock.agent_id == agent_id),
            "lock_renew" | "lock_release" => own.is_some(),
            "lock_force_release" => live.is_some(),
            _ => return,
        };
        ledger.check(Invariant::Excl, due == ok, || format!("{}, though the lock was {live:?}", entry.said()));
        if !ok {
            return;
        }
        match entry.row.command.as_str() {
            "lock_acquire" | "lock_renew" => {
                let kept = live.as_ref().filter(|lock| lock.agent_id == agent_id);
                self.hold(entry, &key, kept, ledger);
            }
            _ => {
                let freed = vec![("file_locks".to_owned(), key.clone(), Value::Null)];
                changed(entry, &freed, ledger);
                self.locks.remove(&key);
            }
        }
    }

    fn hold(&mut self, entry: &Entry<'_>, key: &str, kept: Option<&Lock>, ledger: &mut Ledger) {
        let token = entry.result.get("fencing_token").and_then(Value::as_i64).unwrap_or(0);
        let mut due = vec![("file_locks".to_owned(), key.to_owned(), json!(token))];
        if let Some(lock) = kept {
            ledger.check(Invariant::Excl, token == lock.token, || {
                format!("{}: a refresh changed the token", entry.said())
            });
        } else {
            let last = self.fences.insert(key.to_owned(), token).unwrap_or(0);
            ledger.check(Invariant::Excl, token > last, || format!("{}: token {token} after {last}", entry.said()));
            self.grants.insert((key.to_owned(), token), entry.row.agent_id.clone());
            due.push(("lock_fences".to_owned(), key.to_owned(), json!(token)));
        }
        changed(entry, &due, ledger);
        let expires_at = time(entry.row).plus_minutes(entry.int("ttl_minutes").unwrap_or(0));
        self.locks.insert(key.to_owned(), Lock { agent_id: entry.row.agent_id.clone(), token, expires_at });
    }

    pub(super) fn compare(&self, locks: &[StoredLock], fences: &[(String, i64)], ledger: &mut Ledger) {
        for stored in locks {
            let told = self.locks.get(&stored.lock_key);
            let same = told.is_some_and(|lock| {
                (lock.agent_id.as_str(), lock.token, lock.expires_at)
                    == (stored.agent_id.as_str(), stored.fencing_token, stored.expires_at)
            });
            ledger.check(Invariant::Gate, same, || format!("stored {stored:?}, the log says {told:?}"));
        }
        ledger.check(Invariant::Gate, locks.len() == self.locks.len(), || {
            format!("{} locks are stored, the log says {}", locks.len(), self.locks.len())
        });
        let same = fences.iter().map(|(key, token)| (key, token)).eq(self.fences.iter());
        ledger.check(Invariant::Gate, same, || "fences are not as the log says".to_owned());
    }
}

/// The row names exactly these changes.
fn changed(entry: &Entry<'_>, due: &[(String, String, Value)], ledger: &mut Ledger) {
    let named = |(table, key, version): &(String, String, Value)| {
        entry.changes.iter().any(|c| c.table == *table && c.key == *key && c.version == *version)
    };
    let same = due.len() == entry.changes.len() && due.iter().all(named);
    ledger.check(Invariant::Gate, same, || format!("{}: changed {:?}, not {due:?}", entry.said(), entry.changes));
}
