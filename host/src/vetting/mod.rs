//! What a component goes through before it decides: is it one, is it fit to decide, and do the operator's gates let it in.
//!
//! Nothing here puts a component in force; what it finds is evidence, which the activation's row of the audit log keeps.

mod config;
mod fitness;
mod gates;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::Semaphore;

pub use config::{FILE as GATES_FILE, GatesError};
pub use fitness::{Flaw, Tested, check_operations, examine};
pub use gates::{Gates, Refused, Weighed};

use crate::engine::{EngineError, PolicyComponent};
use crate::gate::Policy;
use crate::store::View;

/// How long somebody waits for others whose components are looked at.
const TURN_TIMEOUT: Duration = Duration::from_secs(120);
/// Components whose tests are remembered.
const TESTED_MAX: usize = 256;

/// Looks at components for a service.
#[derive(Debug)]
pub struct Vetting {
    policy: Arc<Policy>,
    gates: Gates,
    /// What the same component comes to is the same: nothing that it is asked here depends on anything else.
    tested: Mutex<BTreeMap<String, Tested>>,
    /// Compiling and testing take seconds of all processors, and what is handed in can be made to take long: one such at a time.
    uploads: Semaphore,
    /// What is to be put in force does not wait for what somebody else hands in.
    activations: Semaphore,
}

impl Vetting {
    /// With the policy in force, and the gates of the service's configuration.
    #[must_use]
    pub fn new(policy: Arc<Policy>, gates: Gates) -> Self {
        Self { policy, gates, tested: Mutex::default(), uploads: Semaphore::new(1), activations: Semaphore::new(1) }
    }

    /// The gates in force.
    #[must_use]
    pub const fn gates(&self) -> &Gates {
        &self.gates
    }

    /// The policy in force.
    #[must_use]
    pub(crate) const fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    /// Looks at bytes that somebody hands in: compiles them, and tries what they decide.
    ///
    /// # Errors
    /// [`Flaw`], when they are no component, or one that is not fit to decide.
    pub(crate) async fn admit(&self, bytes: Arc<[u8]>) -> Result<Arc<PolicyComponent>, Flaw> {
        let turn = tokio::time::timeout(TURN_TIMEOUT, self.uploads.acquire()).await;
        let _turn = turn.map_err(|_| Flaw::Engine(EngineError::Overloaded))?;
        let component = self.policy.load(bytes).await?;
        self.test(&component).await?;
        Ok(component)
    }

    /// Weighs a stored component that is to take the place of the one in force.
    ///
    /// # Errors
    /// [`Refused`] when a gate is in the way; nothing is in force by it.
    pub(crate) fn weigh<'a>(
        &'a self,
        candidate: &'a Arc<PolicyComponent>,
        active: &'a Arc<PolicyComponent>,
        accept_changes: u64,
        view: &'a View,
    ) -> BoxFuture<'a, Result<Weighed, Refused>> {
        Box::pin(async move {
            let turn = tokio::time::timeout(TURN_TIMEOUT, self.activations.acquire()).await;
            let _turn = turn.map_err(|_| Refused::from(Flaw::Engine(EngineError::Overloaded)))?;
            let tested = self.test(candidate).await.map_err(Refused::from)?;
            self.gates.weigh(candidate, tested, active, accept_changes, &self.policy, view).await
        })
    }

    async fn test(&self, component: &Arc<PolicyComponent>) -> Result<Tested, Flaw> {
        if let Some(tested) = self.lock_tested().get(component.digest()) {
            return Ok(tested.clone());
        }
        let (asked, in_force) = (Arc::clone(component), self.policy.active());
        let tested = tokio::task::spawn_blocking(move || examine(&asked, in_force.component.digest())).await;
        let tested = tested.map_err(|error| Flaw::Engine(EngineError::Trap(error.to_string())))??;
        let mut all = self.lock_tested();
        if all.len() >= TESTED_MAX {
            all.clear();
        }
        all.insert(component.digest().to_owned(), tested.clone());
        Ok(tested)
    }

    fn lock_tested(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Tested>> {
        self.tested.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
