//! Which component decides, under which epoch.

use std::sync::Arc;

use arc_swap::ArcSwap;
use serde_json::json;
use tokio::sync::Mutex;

use super::{Circumstances, Gate};
use crate::authn;
use crate::clock::SharedClock;
use crate::command::policy::ComponentActivate;
use crate::engine::{Engine, EngineError, PolicyComponent, Stage};
use crate::error::Error;
use crate::store::{Activation, Store, StoreError};

/// The component that decides and the epoch it decides in.
#[derive(Debug, Clone)]
pub struct Active {
    /// Counts activations, from 1; 0 while the first one is decided.
    pub epoch: i64,
    /// What decides.
    pub component: Arc<PolicyComponent>,
}

/// The policy in force, which follows the store's epoch.
#[derive(Debug)]
pub struct Policy {
    engine: Engine,
    active: ArcSwap<Active>,
    following: Mutex<()>,
}

/// Why a service has no policy to start with. Without one it does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The engine or the component cannot be used.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The active component does not let the service activate another.
    #[error("the new component was not activated: {0}")]
    Refused(Error),
    /// The component's own tests fail.
    #[error("the component fails {failed} of its own tests; first: {first}")]
    Tests {
        /// How many.
        failed: usize,
        /// Name of the first, with what was expected and what came.
        first: String,
    },
}

impl Policy {
    /// The policy in force now.
    #[must_use]
    pub fn active(&self) -> Arc<Active> {
        self.active.load_full()
    }

    /// Puts `wanted` in force over `store`: at once where it is active already,
    /// else by an activation that the component in force until now decides about.
    ///
    /// # Errors
    /// When there is no usable component, or the activation was refused.
    pub async fn start(
        engine: Engine,
        wanted: Arc<PolicyComponent>,
        store: &Store,
        clock: &SharedClock,
        progress: &(dyn Fn(Stage) + Sync),
    ) -> Result<Arc<Self>, StartError> {
        let current = store.view().activation().await?;
        let active = match &current {
            Some(now) if now.digest == wanted.digest() => Active { epoch: now.epoch, component: Arc::clone(&wanted) },
            Some(now) => {
                let component = load_stored(&engine, store, now, progress).await?;
                Active { epoch: now.epoch, component }
            }
            None => Active { epoch: 0, component: Arc::clone(&wanted) },
        };
        let is_active = current.is_some() && active.component.digest() == wanted.digest();
        let policy = Arc::new(Self { engine, active: ArcSwap::from_pointee(active), following: Mutex::new(()) });
        if !is_active {
            policy.activate(&wanted, store, clock).await?;
        }
        Ok(policy)
    }

    /// The policy that `store` says is in force, without putting another in its place.
    ///
    /// # Errors
    /// When there is none, or it cannot be used.
    pub async fn resume(
        engine: Engine,
        store: &Store,
        progress: &(dyn Fn(Stage) + Sync),
    ) -> Result<Arc<Self>, StartError> {
        let now = store.view().activation().await?;
        let now = now.ok_or(StoreError::Damaged("no policy is in force on it; `portreeve serve` puts one in force"))?;
        let component = load_stored(&engine, store, &now, progress).await?;
        let active = ArcSwap::from_pointee(Active { epoch: now.epoch, component });
        Ok(Arc::new(Self { engine, active, following: Mutex::new(()) }))
    }

    async fn activate(
        self: &Arc<Self>,
        wanted: &Arc<PolicyComponent>,
        store: &Store,
        clock: &SharedClock,
    ) -> Result<(), StartError> {
        self_test(wanted).await?;
        let gate = Gate::new(store.clone(), Arc::clone(self), Arc::clone(clock));
        let system = authn::system(store).await?;
        let circumstances = Circumstances {
            request_id: crate::command::new_id(),
            started_at: clock.now(),
            idempotency_key: None,
            parameters: json!({"digest": wanted.digest(), "version": wanted.manifest().version}),
        };
        gate.run(&system, ComponentActivate::of(wanted), &circumstances).await.map_err(StartError::Refused)?;
        self.follow(store).await.map_err(StartError::Refused)
    }

    /// Loads what the store says is active, when that is not what decides here.
    ///
    /// # Errors
    /// [`Error::StorageUnavailable`], or [`Error::PolicyUnavailable`] when the stored component cannot be used.
    pub async fn follow(&self, store: &Store) -> Result<(), Error> {
        // One request follows, the others wait and find it done.
        let _one = self.following.lock().await;
        let Some(now) = store.view().activation().await? else { return Ok(()) };
        let active = self.active();
        if active.epoch == now.epoch {
            return Ok(());
        }
        let component = if active.component.digest() == now.digest {
            Arc::clone(&active.component)
        } else {
            load_stored(&self.engine, store, &now, &|_| {}).await.map_err(|error| {
                tracing::error!(error = %error, epoch = now.epoch, "cannot follow the active component");
                Error::PolicyUnavailable { code: "policy_unavailable".to_owned(), decision_id: String::new() }
            })?
        };
        tracing::info!(epoch = now.epoch, component = component.digest(), "policy in force");
        self.active.store(Arc::new(Active { epoch: now.epoch, component }));
        Ok(())
    }
}

async fn load_stored(
    engine: &Engine,
    store: &Store,
    now: &Activation,
    progress: &(dyn Fn(Stage) + Sync),
) -> Result<Arc<PolicyComponent>, StartError> {
    let bytes = store.view().component_bytes(&now.digest).await?;
    let bytes = bytes.ok_or(StoreError::Damaged("the active component is not stored"))?;
    if crate::engine::digest_of(&bytes) != now.digest {
        return Err(StoreError::Damaged("the active component's bytes are not those of its digest").into());
    }
    // Compiling takes seconds; the other tasks of this thread move on.
    Ok(tokio::task::block_in_place(|| engine.load_component(bytes, progress))?)
}

/// A component that fails the tests it carries is never activated.
async fn self_test(component: &Arc<PolicyComponent>) -> Result<(), StartError> {
    let tested = Arc::clone(component);
    let ran = tokio::task::spawn_blocking(move || tested.run_tests()).await;
    let report = ran.map_err(|error| EngineError::Trap(error.to_string()))??;
    match report.failures.first() {
        None => Ok(()),
        Some(first) => Err(StartError::Tests {
            failed: report.failures.len(),
            first: format!("{}: expected {}, got {}", first.name, first.expected, first.actual),
        }),
    }
}
