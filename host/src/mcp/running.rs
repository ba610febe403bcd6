//! The calls that run now, so that a client can take one back.
//!
//! A client of the revisions with `initialize` takes a call back by a notification, which comes as a request of its own.
//! It finds the call by the agent, the client's label and the call's identifier: the key decides which agent that is, so
//! nobody reaches another's call. Newer clients close the response instead.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

/// Names a call.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct CallName {
    /// The agent, by the key of the request.
    pub(super) agent_id: String,
    /// The client's label, as it was given at `initialize`; tells clients that share a key apart.
    pub(super) label: Option<String>,
    /// The call's JSON-RPC identifier, as JSON text, so that 1 is not "1".
    pub(super) id: String,
}

/// The calls that run. One entry per response that is not finished, so it never holds more than there are connections.
#[derive(Debug, Clone, Default)]
pub(super) struct Running(Arc<Mutex<Calls>>);

#[derive(Debug, Default)]
struct Calls {
    by_name: HashMap<CallName, Vec<(u64, CancellationToken)>>,
    next: u64,
}

/// A call that runs; forgotten when it is dropped.
#[derive(Debug)]
pub(super) struct Entered {
    running: Running,
    name: CallName,
    number: u64,
    /// Cancelled when the client takes the call back.
    pub(super) taken_back: CancellationToken,
}

impl Running {
    /// A call begins.
    pub(super) fn enter(&self, name: CallName) -> Entered {
        let taken_back = CancellationToken::new();
        let mut calls = self.lock();
        let number = calls.next;
        calls.next = number.wrapping_add(1);
        calls.by_name.entry(name.clone()).or_default().push((number, taken_back.clone()));
        drop(calls);
        Entered { running: self.clone(), name, number, taken_back }
    }

    /// Takes a call back. Where several go by the name it is not known which one is meant, so none is.
    pub(super) fn take_back(&self, name: &CallName) -> bool {
        match self.lock().by_name.get(name).map(Vec::as_slice) {
            Some([(_, call)]) => {
                call.cancel();
                true
            }
            _ => false,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Calls> {
        // Every change leaves the map whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut calls = self.running.lock();
        if let Some(same) = calls.by_name.get_mut(&self.name) {
            same.retain(|(number, _)| *number != self.number);
            if same.is_empty() {
                calls.by_name.remove(&self.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(agent_id: &str, label: Option<&str>, id: &str) -> CallName {
        CallName { agent_id: agent_id.to_owned(), label: label.map(str::to_owned), id: id.to_owned() }
    }

    #[test]
    fn a_call_is_taken_back_by_its_own_agent_and_client_only() {
        let running = Running::default();
        let call = running.enter(name("a", Some("x"), "1"));
        for other in
            [name("b", Some("x"), "1"), name("a", None, "1"), name("a", Some("y"), "1"), name("a", Some("x"), "\"1\"")]
        {
            assert!(!running.take_back(&other));
        }
        assert!(!call.taken_back.is_cancelled());
        assert!(running.take_back(&name("a", Some("x"), "1")));
        assert!(call.taken_back.is_cancelled());
    }

    #[test]
    fn of_several_that_share_a_name_none_is_taken_back_and_none_is_kept() {
        let running = Running::default();
        let calls = [running.enter(name("a", None, "1")), running.enter(name("a", None, "1"))];
        assert!(!running.take_back(&name("a", None, "1")));
        drop(calls);
        assert!(running.lock().by_name.is_empty());
    }
}
