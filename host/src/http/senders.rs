//! Whose turn it is to send a file. Each is held whole before anybody has decided whether its sender may send one, and takes as
//! long to arrive as its sender likes; so few are taken at once, and one of each agent.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use crate::error::{Error, Result};

/// Files that are held at once.
const FILES_AT_ONCE: usize = 4;

static TURNS: Semaphore = Semaphore::const_new(FILES_AT_ONCE);

/// The turns of agents that send something, or wait to.
static SENDERS: Mutex<BTreeMap<String, Weak<Semaphore>>> = Mutex::new(BTreeMap::new());

/// A turn; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    _own: OwnedSemaphorePermit,
    _one_of_all: SemaphorePermit<'static>,
}

/// Waits for the agent's turn: for its own first, so that who sends many holds one of those that all share.
pub(super) async fn turn(agent_id: &str) -> Result<Turn> {
    let closed = |_| Error::StorageUnavailable;
    let own = of(agent_id).acquire_owned().await.map_err(closed)?;
    let one_of_all = TURNS.acquire().await.map_err(closed)?;
    Ok(Turn { _own: own, _one_of_all: one_of_all })
}

fn of(agent_id: &str) -> Arc<Semaphore> {
    let mut senders = SENDERS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(turn) = senders.get(agent_id).and_then(Weak::upgrade) {
        return turn;
    }
    senders.retain(|_, turn| turn.strong_count() > 0);
    let turn = Arc::new(Semaphore::new(1));
    senders.insert(agent_id.to_owned(), Arc::downgrade(&turn));
    turn
}
