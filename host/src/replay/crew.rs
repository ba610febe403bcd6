//! The threads that decide.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;

use super::ReplayError;
use super::compare::question;
use super::report::{Skipped, Tally};
use crate::engine::PolicyComponent;
use crate::store::audit::AuditRow;

/// Batches that wait for a thread: enough that none is idle, and little of the log in memory.
const WAITING_EACH: usize = 2;
/// How often the progress is told while only deciding is left.
const TELL_PERIOD: Duration = Duration::from_millis(100);

/// Rows, and whom they are asked of; none where that one is missing.
pub(super) struct Batch {
    pub(super) component: Option<Arc<PolicyComponent>>,
    pub(super) rows: Vec<AuditRow>,
}

/// Threads that decide what they are given until there is no more.
pub(super) struct Crew {
    threads: usize,
    samples: usize,
    work: mpsc::Sender<Batch>,
    tallies: mpsc::Receiver<Tally>,
    done: Arc<AtomicU64>,
}

impl Crew {
    pub(super) fn start(threads: usize, samples: usize) -> Result<Self, ReplayError> {
        let (work, waiting) = mpsc::channel(threads.saturating_mul(WAITING_EACH));
        let (ended, tallies) = mpsc::channel(threads);
        let (waiting, done) = (Arc::new(Mutex::new(waiting)), Arc::new(AtomicU64::new(0)));
        for _ in 0..threads {
            let (waiting, done, ended) = (Arc::clone(&waiting), Arc::clone(&done), ended.clone());
            let body = move || {
                let tally = decide_all(&waiting, &done, samples);
                // There is room for each; nobody listens only when the replay was given up.
                drop(ended.try_send(tally));
            };
            let started = thread::Builder::new().name("replay".to_owned()).spawn(body);
            started.map_err(|error| ReplayError::Thread(error.to_string()))?;
        }
        Ok(Self { threads, samples, work, tallies, done })
    }

    /// Waits until there is room for it.
    pub(super) async fn give(&self, batch: Batch) {
        // An error means that no thread is left, which `finish` finds.
        drop(self.work.send(batch).await);
    }

    /// So many rows are none of the crew's.
    pub(super) fn pass(&self, rows: usize) {
        self.done.fetch_add(u64::try_from(rows).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(super) fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// What all of them found, once everything is decided.
    pub(super) async fn finish(self, tell: &(dyn Fn(u64) + Sync)) -> Result<Tally, ReplayError> {
        let Self { threads, samples, work, mut tallies, done } = self;
        drop(work);
        let (mut all, mut ended) = (Tally::new(samples), 0_usize);
        while ended < threads {
            match timeout(TELL_PERIOD, tallies.recv()).await {
                Ok(Some(tally)) => {
                    all.merge(tally);
                    ended = ended.saturating_add(1);
                }
                Ok(None) => return Err(ReplayError::Thread("it ended in a panic".to_owned())),
                Err(_elapsed) => {}
            }
            tell(done.load(Ordering::Relaxed));
        }
        Ok(all)
    }
}

fn decide_all(waiting: &Mutex<mpsc::Receiver<Batch>>, done: &AtomicU64, samples: usize) -> Tally {
    let mut tally = Tally::new(samples);
    loop {
        let batch = waiting.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
        let Some(Batch { component, rows }) = batch else { return tally };
        for row in rows {
            match (question(&row), &component) {
                (Err(why), _) => tally.skip(why),
                (Ok(_), None) => tally.skip(Skipped::ComponentMissing),
                (Ok(request), Some(component)) => tally.compare(&row, &component.decide(&request)),
            }
            done.fetch_add(1, Ordering::Relaxed);
        }
    }
}
