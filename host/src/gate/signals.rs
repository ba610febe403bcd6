//! Who waits for what: told after each commit that may have set something free, so that nobody polls the store.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::command::action::Wakes;

/// The signals of one process.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    tasks: Notify,
    locks: Mutex<BTreeMap<String, Arc<Notify>>>,
}

/// A place among those who wait for a lock, until it is dropped.
#[derive(Debug)]
pub(crate) struct LockSignal {
    all: Arc<Signals>,
    key: String,
    freed: Arc<Notify>,
}

impl Signals {
    /// Told when tasks may have become claimable. Whoever waits registers before looking.
    pub(crate) fn tasks(&self) -> Notified<'_> {
        self.tasks.notified()
    }

    /// A place among those who wait for the lock of `key`.
    pub(crate) fn lock(self: &Arc<Self>, key: &str) -> LockSignal {
        let freed = Arc::clone(self.waited_for().entry(key.to_owned()).or_default());
        LockSignal { all: Arc::clone(self), key: key.to_owned(), freed }
    }

    pub(super) fn wake(&self, wakes: &Wakes) {
        match wakes {
            Wakes::Nothing => {}
            Wakes::Tasks => self.tasks.notify_waiters(),
            Wakes::Lock(key) => {
                if let Some(freed) = self.waited_for().get(key) {
                    freed.notify_waiters();
                }
            }
            Wakes::All => {
                self.tasks.notify_waiters();
                self.waited_for().values().for_each(|freed| freed.notify_waiters());
            }
        }
    }

    fn waited_for(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Notify>>> {
        self.locks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LockSignal {
    /// Told when the lock may have become free. Whoever waits registers before looking.
    pub(crate) fn freed(&self) -> Notified<'_> {
        self.freed.notified()
    }
}

impl Drop for LockSignal {
    fn drop(&mut self) {
        let mut waited_for = self.all.waited_for();
        // The map's and this one: nobody else waits. New ones come only under the lock that is held here.
        if Arc::strong_count(&self.freed) <= 2 {
            waited_for.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
