//! What the agents of one run share: the server, the files, and what they know of each other.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::history::Class;
use super::material::Material;
use super::op::Op;
use crate::clock::SharedClock;

/// Tasks that the agents remember, to depend on, look at and meddle with.
const TASKS_MAX: usize = 256;

/// What the agents of a run share.
#[derive(Debug)]
pub(super) struct World {
    /// Where the service is: one host, or several on one store.
    pub(super) urls: Vec<String>,
    pub(super) http: reqwest::Client,
    pub(super) material: Material,
    pub(super) clock: SharedClock,
    pub(super) counts: Counts,
    stop: AtomicBool,
    board: Mutex<Board>,
}

/// Counts for the progress line.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) calls: AtomicU64,
    pub(super) changes: AtomicU64,
    pub(super) denied: AtomicU64,
    pub(super) conflicts: AtomicU64,
}

/// What agents know of each other, as they would by talking.
#[derive(Debug, Default)]
pub(super) struct Board {
    /// Who holds which file under which token, as far as they told.
    pub(super) held: BTreeMap<usize, (String, i64)>,
    /// Tasks that were submitted lately, with their submitters.
    pub(super) tasks: VecDeque<(String, String)>,
    /// The shelf where edits are put: a store that keeps the newest token of each file and refuses older ones.
    shelf: BTreeMap<usize, (i64, String)>,
}

impl World {
    pub(super) fn new(urls: Vec<String>, http: reqwest::Client, material: Material, clock: SharedClock) -> Self {
        let (counts, stop, board) = (Counts::default(), AtomicBool::new(false), Mutex::default());
        Self { urls, http, material, clock, counts, stop, board }
    }

    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    pub(super) fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn count(&self, op: Op, class: &Class) {
        let add = |counter: &AtomicU64| counter.fetch_add(1, Ordering::Relaxed);
        add(&self.counts.calls);
        match class {
            Class::Allowed if op.mutates() => add(&self.counts.changes),
            Class::Denied(_) | Class::Unauthenticated => add(&self.counts.denied),
            Class::Conflict(_) => add(&self.counts.conflicts),
            _ => 0,
        };
    }
}

impl Board {
    pub(super) fn remember_task(&mut self, task_id: &str, submitter: &str) {
        if self.tasks.len() >= TASKS_MAX {
            self.tasks.pop_front();
        }
        self.tasks.push_back((task_id.to_owned(), submitter.to_owned()));
    }

    /// Puts an edit on the shelf under its token; false when a newer token was there before.
    pub(super) fn shelve(&mut self, file: usize, token: i64, digest: String) -> bool {
        let newest = self.shelf.get(&file).map_or(0, |(token, _)| *token);
        let fine = token >= newest;
        if fine {
            self.shelf.insert(file, (token, digest));
        }
        fine
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shelf_refuses_what_comes_under_an_older_token() {
        let mut board = Board::default();
        assert!(board.shelve(1, 3, "a".to_owned()));
        assert!(board.shelve(1, 3, "b".to_owned()));
        assert!(!board.shelve(1, 2, "c".to_owned()));
        assert!(board.shelve(2, 1, "d".to_owned()));
    }
}
