//! Who waits for what: told after each commit that may have set something free, so that nobody polls the store.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::futures::Notified;
use tokio::sync::{Mutex as AsyncMutex, MutexGuard as AsyncMutexGuard, Notify};

use crate::command::action::Wakes;

/// The signals of one process.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    tasks: Notify,
    waits: Mutex<BTreeMap<String, usize>>,
    locks: Mutex<BTreeMap<String, Arc<Waiters>>>,
}

/// Those who wait for one lock.
#[derive(Debug, Default)]
struct Waiters {
    freed: Notify,
    turn: AsyncMutex<()>,
}

/// A place among those who wait for a lock, until it is dropped.
#[derive(Debug)]
pub(crate) struct LockSignal {
    all: Arc<Signals>,
    key: String,
    waiters: Arc<Waiters>,
}

/// Most calls of one agent that wait at once; each holds a connection and some memory. Further ones do not wait.
const WAITS_PER_AGENT_MAX: usize = 64;

/// A call that may wait, until this is dropped.
#[derive(Debug)]
pub(crate) struct WaitPlace {
    all: Arc<Signals>,
    agent_id: String,
}

impl Signals {
    /// Lets one more call of an agent wait; none when as many of its calls wait as may.
    pub(crate) fn wait_place(self: &Arc<Self>, agent_id: &str) -> Option<WaitPlace> {
        let mut waits = self.waits();
        let waiting = waits.entry(agent_id.to_owned()).or_default();
        if *waiting >= WAITS_PER_AGENT_MAX {
            return None;
        }
        *waiting = waiting.saturating_add(1);
        Some(WaitPlace { all: Arc::clone(self), agent_id: agent_id.to_owned() })
    }

    fn waits(&self) -> MutexGuard<'_, BTreeMap<String, usize>> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Told when tasks may have become claimable. Whoever waits registers before looking.
    pub(crate) fn tasks(&self) -> Notified<'_> {
        self.tasks.notified()
    }

    /// A place among those who wait for the lock of `key`.
    pub(crate) fn lock(self: &Arc<Self>, key: &str) -> LockSignal {
        let waiters = Arc::clone(self.waited_for().entry(key.to_owned()).or_default());
        LockSignal { all: Arc::clone(self), key: key.to_owned(), waiters }
    }

    /// Wakes those who wait for what is named.
    pub(crate) fn wake(&self, wakes: &Wakes) {
        match wakes {
            Wakes::Nothing => {}
            Wakes::Tasks => self.tasks.notify_waiters(),
            Wakes::Lock(key) => {
                if let Some(waiters) = self.waited_for().get(key) {
                    waiters.freed.notify_waiters();
                }
            }
            Wakes::All => {
                self.tasks.notify_waiters();
                self.waited_for().values().for_each(|waiters| waiters.freed.notify_waiters());
            }
        }
    }

    fn waited_for(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Waiters>>> {
        self.locks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for WaitPlace {
    fn drop(&mut self) {
        let mut waits = self.all.waits();
        if let Some(waiting) = waits.get_mut(&self.agent_id) {
            *waiting = waiting.saturating_sub(1);
            if *waiting == 0 {
                waits.remove(&self.agent_id);
            }
        }
    }
}

impl LockSignal {
    /// Told when the lock may have become free. Whoever waits registers before looking.
    pub(crate) fn freed(&self) -> Notified<'_> {
        self.waiters.freed.notified()
    }

    /// The turn to look at the lock and to try it. All are woken at once, and one after the other looks: the first
    /// finds it free and takes it, the others find it held and need not try. First come, first served.
    pub(crate) async fn turn(&self) -> AsyncMutexGuard<'_, ()> {
        self.waiters.turn.lock().await
    }
}

impl Drop for LockSignal {
    fn drop(&mut self) {
        let mut waited_for = self.all.waited_for();
        // The map's and this one: nobody else waits. New ones come only under the lock that is held here.
        if Arc::strong_count(&self.waiters) <= 2 {
            waited_for.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_agent_cannot_take_all_places_to_wait() {
        let signals = Arc::<Signals>::default();
        let places: Vec<_> = (0..WAITS_PER_AGENT_MAX).map(|_| signals.wait_place("a").unwrap()).collect();
        assert!(signals.wait_place("a").is_none() && signals.wait_place("b").is_some());
        drop(places);
        assert!(signals.wait_place("a").is_some() && signals.waits().is_empty());
    }

    #[test]
    fn a_key_is_forgotten_with_the_last_who_waits_for_it() {
        let signals = Arc::<Signals>::default();
        let (first, second) = (signals.lock("a"), signals.lock("a"));
        drop(first);
        assert_eq!(signals.waited_for().len(), 1);
        drop(second);
        assert!(signals.waited_for().is_empty());
    }
}
