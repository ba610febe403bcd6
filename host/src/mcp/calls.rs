//! Calls that are under way, so that a later message can cancel one.
//!
//! Over stdio the transport knows them. Over HTTP each request stands alone, and before revision 2026-07-28 a client
//! cancels with a notification in a request of its own. It is matched by the caller's agent, the session identifier
//! that the client was given and echoes, and the request identifier: so nobody cancels another agent's call, and two
//! clients of one agent, which both count their requests from 1, do not cancel each other's.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rmcp::model::RequestId;
use tokio_util::sync::CancellationToken;

/// What a call is found again by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CallId {
    pub(super) agent_id: String,
    pub(super) session: Option<String>,
    pub(super) request: RequestId,
}

/// Calls under way, of all callers of a server.
#[derive(Debug, Clone, Default)]
pub(super) struct Calls {
    open: Arc<Mutex<Open>>,
}

#[derive(Debug, Default)]
struct Open {
    /// Names calls that their clients name alike.
    last: u64,
    calls: BTreeMap<u64, (CallId, CancellationToken)>,
}

/// A call under way, until this is dropped.
#[derive(Debug)]
pub(super) struct OpenCall {
    all: Calls,
    number: u64,
    /// Cancelled when the client says so.
    pub(super) cancelled: CancellationToken,
}

impl Calls {
    pub(super) fn open(&self, id: CallId) -> OpenCall {
        let cancelled = CancellationToken::new();
        let mut open = self.lock();
        open.last = open.last.wrapping_add(1);
        let number = open.last;
        open.calls.insert(number, (id, cancelled.clone()));
        drop(open);
        OpenCall { all: self.clone(), number, cancelled }
    }

    pub(super) fn cancel(&self, id: &CallId) {
        for (_, cancelled) in self.lock().calls.values().filter(|(known, _)| known == id) {
            cancelled.cancel();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.all.lock().calls.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(agent_id: &str, session: Option<&str>, request: i64) -> CallId {
        CallId {
            agent_id: agent_id.to_owned(),
            session: session.map(str::to_owned),
            request: RequestId::Number(request),
        }
    }

    #[test]
    fn only_the_call_that_is_named_is_cancelled_and_ended_calls_are_forgotten() {
        let calls = Calls::default();
        let own = calls.open(id("a", Some("s"), 1));
        let others = [id("b", Some("s"), 1), id("a", Some("t"), 1), id("a", None, 1), id("a", Some("s"), 2)]
            .map(|id| calls.open(id));
        calls.cancel(&id("a", Some("s"), 1));
        assert!(own.cancelled.is_cancelled());
        assert!(others.iter().all(|call| !call.cancelled.is_cancelled()));
        drop((own, others));
        assert!(calls.lock().calls.is_empty());
    }
}
