//! The proof that policy allowed one change. Nothing else opens the store for writing.
//!
//! GATE: the store takes a permit by value, and only the gate makes one, from an allowance of exactly this command.
//!
//! A permit cannot be put together outside of the gate:
//!
//! ```compile_fail
//! use portreeve::command::locks::LockAcquire;
//! let forged: portreeve::gate::Permit<LockAcquire> =
//!     portreeve::gate::Permit { evidence: todo!(), command: std::marker::PhantomData };
//! ```
//!
//! nor minted by calling the gate's own constructor:
//!
//! ```compile_fail
//! use portreeve::command::locks::LockAcquire;
//! fn forge(evidence: portreeve::gate::Evidence) -> portreeve::gate::Permit<LockAcquire> {
//!     portreeve::gate::Permit::mint(evidence)
//! }
//! ```
//!
//! nor copied, to be used twice:
//!
//! ```compile_fail
//! use portreeve::command::locks::LockAcquire;
//! fn twice(permit: portreeve::gate::Permit<LockAcquire>) -> [portreeve::gate::Permit<LockAcquire>; 2] {
//!     [permit.clone(), permit]
//! }
//! ```
//!
//! A write to the store does not compile without one,
//!
//! ```compile_fail
//! use portreeve::{command::locks::LockAcquire, store::Store};
//! async fn write(store: Store, command: LockAcquire) {
//!     let _ = store.commit((), command, None).await;
//! }
//! ```
//!
//! nor with the permit of another command:
//!
//! ```compile_fail
//! use portreeve::{command::locks::{LockAcquire, LockRelease}, gate::Permit, store::Store};
//! async fn write(store: Store, permit: Permit<LockRelease>, command: LockAcquire) {
//!     let _ = store.commit(permit, command, None).await;
//! }
//! ```
//!
//! With the right one it does (so the examples above fail for the reason they name):
//!
//! ```
//! use portreeve::{command::locks::LockAcquire, gate::Permit, store::Store};
//! async fn write(store: Store, permit: Permit<LockAcquire>, command: LockAcquire) {
//!     let _ = store.commit(permit, command, None).await;
//! }
//! ```

use std::marker::PhantomData;

use serde_json::Value;

use crate::authn::Principal;
use crate::clock::Time;
use crate::engine::types::{Decision, Obligations};

/// How a decision fell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The component allowed it.
    Allow,
    /// The component, or a rule of the host about identity, denied it.
    Deny,
    /// There was no answer from the component; the gate denied it.
    Unavailable,
}

impl Verdict {
    /// The name in the audit log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Unavailable => "unavailable",
        }
    }
}

/// Everything that a decision was made from and what it was: the first half of an audit row.
#[derive(Debug, Clone)]
pub struct Evidence {
    pub(crate) decision_id: String,
    pub(crate) request_id: String,
    pub(crate) started_at: Time,
    pub(crate) who: Principal,
    pub(crate) command: &'static str,
    pub(crate) operation: &'static str,
    pub(crate) resource: String,
    pub(crate) parameters: Value,
    pub(crate) request: Value,
    pub(crate) verdict: Verdict,
    pub(crate) reason: String,
    pub(crate) detail: String,
    /// None where the component was not asked or did not answer.
    pub(crate) decision: Option<Decision>,
    pub(crate) component: String,
    pub(crate) epoch: i64,
    pub(crate) fuel: u64,
    /// Decided as a repeat under an idempotency key, without the texts: good for the first answer, not for a change.
    pub(crate) as_repeat: bool,
}

/// Policy allowed `C`, for this principal and this resource, under this epoch. Used up by the write.
#[derive(Debug)]
#[must_use = "a permit that is dropped leaves its decision without an audit row"]
pub struct Permit<C> {
    evidence: Evidence,
    command: PhantomData<fn() -> C>,
}

impl<C> Permit<C> {
    pub(super) fn mint(evidence: Evidence) -> Self {
        Self { evidence, command: PhantomData }
    }

    pub(crate) fn evidence(&self) -> &Evidence {
        &self.evidence
    }

    /// Who was allowed.
    #[must_use]
    pub fn who(&self) -> &Principal {
        &self.evidence.who
    }

    /// Limits that the store enforces inside the transaction.
    #[must_use]
    pub fn obligations(&self) -> Obligations {
        self.evidence.decision.as_ref().map(|decision| decision.obligations.clone()).unwrap_or_default()
    }

    /// The trust that the component resolved.
    #[must_use]
    pub fn trust_level(&self) -> i64 {
        self.evidence.decision.as_ref().map_or(0, |decision| i64::from(decision.trust_level))
    }

    /// Identifier of the decision and of its audit row.
    #[must_use]
    pub fn decision_id(&self) -> &str {
        &self.evidence.decision_id
    }
}

/// A decision that was not an allowance, to be recorded. Like a permit, only the gate makes one.
#[derive(Debug)]
#[must_use = "a refusal that is dropped leaves its decision without an audit row"]
pub struct Refusal {
    evidence: Evidence,
}

impl Refusal {
    pub(super) const fn new(evidence: Evidence) -> Self {
        Self { evidence }
    }

    pub(crate) const fn evidence(&self) -> &Evidence {
        &self.evidence
    }
}
