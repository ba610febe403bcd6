//! Which component decides, under which epoch, and which one is asked beside it.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use futures::future::BoxFuture;
use serde_json::{Value, json};
use tokio::sync::Mutex as AsyncMutex;

use super::shadow::Shadow;
use super::{Circumstances, Gate};
use crate::authn;
use crate::clock::SharedClock;
use crate::command::components::{ComponentActivate, ComponentUpload};
use crate::crash;
use crate::engine::types::BundleFile;
use crate::engine::{Engine, EngineError, PolicyComponent, Stage};
use crate::error::Error;
use crate::store::{Activation, Location, Store, StoreError, View};
use crate::vetting::{Flaw, Tested, examine};

/// Components that are kept ready: the one in force, the one beside it, and those that may follow or be gone back to.
const READY_MAX: usize = 4;
/// How many activations a start looks back for components that can be used, and how many of those it tries.
const LOOK_BACK_MAX: i64 = 10_000;
const FALL_BACK_MAX: usize = 16;

/// The component that decides and the epoch it decides in.
#[derive(Debug, Clone)]
pub struct Active {
    /// Counts activations, from 1; 0 while the first one is decided.
    pub epoch: i64,
    /// What decides.
    pub component: Arc<PolicyComponent>,
}

/// What a service is to start with.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The files of the bundle.
    pub files: Vec<BundleFile>,
    /// An operator named it, so that it takes the place of whatever is in force. Else it is the program's own, which takes
    /// the place only of what an earlier start put in force.
    pub insists: bool,
}

impl Wanted {
    /// The program's own policy.
    #[must_use]
    pub fn own() -> Self {
        Self { files: crate::engine::default_bundle(), insists: false }
    }

    /// A policy that an operator named.
    #[must_use]
    pub const fn named(files: Vec<BundleFile>) -> Self {
        Self { files, insists: true }
    }
}

/// The policy in force, which follows the store's epoch.
#[derive(Debug)]
pub struct Policy {
    engine: Engine,
    active: ArcSwap<Active>,
    following: AsyncMutex<()>,
    /// The latest last.
    ready: Mutex<VecDeque<Arc<PolicyComponent>>>,
    shadow: Shadow,
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
    /// The component is not fit to decide.
    #[error("the component cannot be put in force: {0}")]
    Flaw(#[from] Flaw),
    /// The component in force cannot be used by this host, and nothing may be put in its place without an operator's word.
    #[error("this host cannot use the component in force ({digest}): {cause}")]
    Unusable {
        /// Which component.
        digest: String,
        /// Why.
        cause: String,
    },
}

impl StartError {
    /// Whether it is this machine's fault, or the store's, and not the component's.
    fn is_ours(&self) -> bool {
        match self {
            // Bytes that are gone or are others do not come back.
            Self::Store(error) => !matches!(error, StoreError::Damaged(_)),
            Self::Engine(EngineError::Overloaded | EngineError::Unsupported(_) | EngineError::Cache { .. }) => true,
            Self::Flaw(flaw) => flaw.is_ours(),
            Self::Engine(_) | Self::Refused(_) | Self::Unusable { .. } => false,
        }
    }
}

impl Policy {
    fn new(engine: Engine, active: Active) -> Arc<Self> {
        let ready = Mutex::new(VecDeque::from([Arc::clone(&active.component)]));
        let shadow = Shadow::default();
        Arc::new(Self { engine, active: ArcSwap::from_pointee(active), following: AsyncMutex::new(()), ready, shadow })
    }

    /// The policy in force now.
    #[must_use]
    pub fn active(&self) -> Arc<Active> {
        self.active.load_full()
    }

    /// What is asked beside the policy in force.
    #[must_use]
    pub const fn shadow(&self) -> &Shadow {
        &self.shadow
    }

    /// The engine, which makes components.
    pub(crate) const fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Puts a policy in force over `store`: what is in force already, if it can be used and nothing else is insisted on;
    /// else what is wanted, by an activation that the component in force until now decides about.
    ///
    /// # Errors
    /// When there is no usable component, or the activation was refused.
    pub async fn start(
        engine: Engine,
        wanted: &Wanted,
        store: &Store,
        clock: &SharedClock,
        progress: &(dyn Fn(Stage) + Sync),
    ) -> Result<Arc<Self>, StartError> {
        let Some(now) = store.view().activation().await? else {
            let component = tokio::task::block_in_place(|| engine.load_bundle(&wanted.files, progress))?;
            let policy = Self::new(engine, Active { epoch: 0, component: Arc::clone(&component) });
            policy.put_in_force(&component, &json!({}), store, clock).await?;
            return Ok(policy);
        };
        let loaded = match load_stored(&engine, store.view(), &now.digest, progress).await {
            Ok(component) => crate::vetting::check_operations(&component).map(|()| component).map_err(StartError::from),
            Err(error) => Err(error),
        };
        let policy = match loaded {
            Ok(component) => Self::new(engine, Active { epoch: now.epoch, component }),
            Err(cause) if wanted.insists => {
                let component = tokio::task::block_in_place(|| engine.load_bundle(&wanted.files, progress))?;
                let policy = Self::new(engine, Active { epoch: now.epoch, component: Arc::clone(&component) });
                policy.insist(&component, &now, &cause, store, clock).await?;
                return Ok(policy);
            }
            Err(cause) => Self::fall_back(engine, &now, &cause, store, clock, progress).await?,
        };
        if !wanted.insists && now.by != authn::SYSTEM {
            return Ok(policy);
        }
        let component = tokio::task::block_in_place(|| policy.engine.load_bundle(&wanted.files, progress))?;
        if component.digest() == policy.active().component.digest() {
            return Ok(policy);
        }
        match policy.put_in_force(&component, &json!({}), store, clock).await {
            Err(cause @ StartError::Refused(Error::Denied(_) | Error::PolicyUnavailable { .. })) if wanted.insists => {
                policy.insist(&component, &now, &cause, store, clock).await?;
            }
            done => done?,
        }
        Ok(policy)
    }

    /// Puts in force what an operator names, over a component that cannot be used or lets nobody put another in its place: the
    /// named one decides about itself, as the first one of a store does. Whoever starts a service on a store could as well
    /// write into it; the log says what was passed over, and why.
    async fn insist(
        self: &Arc<Self>,
        component: &Arc<PolicyComponent>,
        over: &Activation,
        cause: &StartError,
        store: &Store,
        clock: &SharedClock,
    ) -> Result<(), StartError> {
        tracing::error!(
            passed_over = over.digest, cause = %cause, component = component.digest(),
            "the component in force lets no other take its place; the one that was named does"
        );
        self.active.store(Arc::new(Active { epoch: over.epoch, component: Arc::clone(component) }));
        let evidence = json!({"named_over": over.digest, "cause": cause.to_string()});
        self.put_in_force(component, &evidence, store, clock).await
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
        let component = load_stored(&engine, store.view(), &now.digest, progress).await?;
        Ok(Self::new(engine, Active { epoch: now.epoch, component }))
    }

    /// What was in force last and can be used takes the place of what cannot. On a database that other hosts share it does
    /// not: they may well use what this one cannot. Nor where the fault is this machine's: it passes, and the policy stays.
    async fn fall_back(
        engine: Engine,
        now: &Activation,
        cause: &StartError,
        store: &Store,
        clock: &SharedClock,
        progress: &(dyn Fn(Stage) + Sync),
    ) -> Result<Arc<Self>, StartError> {
        let unusable = || StartError::Unusable { digest: now.digest.clone(), cause: cause.to_string() };
        if matches!(store.location(), Location::Postgres(_)) || cause.is_ours() {
            return Err(unusable());
        }
        let mut earlier = store.view().activations(LOOK_BACK_MAX).await?;
        let mut seen = BTreeSet::from([now.digest.clone()]);
        earlier.retain(|before| seen.insert(before.digest.clone()));
        for before in earlier.iter().take(FALL_BACK_MAX) {
            let Ok(component) = load_stored(&engine, store.view(), &before.digest, progress).await else { continue };
            if examine_blocking(&component, component.digest()).await.is_err() {
                continue;
            }
            tracing::error!(
                unusable = now.digest, cause = %cause, component = before.digest, was_in_force_in = before.epoch,
                "the component in force cannot be used; the last good one takes its place"
            );
            let policy = Self::new(engine, Active { epoch: now.epoch, component: Arc::clone(&component) });
            let evidence = json!({"fell_back_from": now.digest, "cause": cause.to_string()});
            policy.put_in_force(&component, &evidence, store, clock).await?;
            return Ok(policy);
        }
        Err(unusable())
    }

    /// Stores and activates a component as `system`, through the gate. It is tested first: one that fails the tests it
    /// carries is never activated.
    ///
    /// Boxed: it holds all that a command may wait for, and whoever opens a service would have to look through that.
    ///
    /// # Errors
    /// When it is not fit to decide, or the component in force does not let `system`.
    pub(crate) fn put_in_force<'a>(
        self: &'a Arc<Self>,
        component: &'a Arc<PolicyComponent>,
        evidence: &'a Value,
        store: &'a Store,
        clock: &'a SharedClock,
    ) -> BoxFuture<'a, Result<(), StartError>> {
        Box::pin(async move {
            let tested = examine_blocking(component, self.active().component.digest()).await?;
            self.keep_ready(component);
            let gate = Gate::new(store.clone(), Arc::clone(self), Arc::clone(clock));
            let system = authn::system(store).await?;
            let circumstances = Circumstances {
                request_id: crate::command::new_id(),
                started_at: clock.now(),
                idempotency_key: None,
                parameters: json!({"digest": component.digest(), "version": component.manifest().version}),
            };
            let upload = ComponentUpload::of(component);
            gate.run(&system, upload, &circumstances).await.map_err(StartError::Refused)?;
            crash::point!("start.component-stored");
            let activate = ComponentActivate::of_start(component, &tested, evidence);
            gate.run(&system, activate, &circumstances).await.map_err(StartError::Refused)?;
            self.follow(store).await.map_err(StartError::Refused)
        })
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
            self.stored(store.view(), &now.digest).await.map_err(|error| {
                tracing::error!(error = %error, epoch = now.epoch, "cannot follow the active component");
                Error::PolicyUnavailable { code: "policy_unavailable".to_owned(), decision_id: String::new() }
            })?
        };
        tracing::info!(epoch = now.epoch, component = component.digest(), "policy in force");
        crash::point!("policy.before-swap");
        self.active.store(Arc::new(Active { epoch: now.epoch, component }));
        crash::point!("policy.swapped");
        Ok(())
    }

    /// Follows what the store says of policy when nobody asks: the component in force, and the one that is asked beside it.
    ///
    /// # Errors
    /// When the store cannot be read, or a component of it cannot be used.
    pub(crate) async fn keep_up(&self, store: &Store, clock: &SharedClock) -> Result<(), Error> {
        self.follow(store).await?;
        let Some(choice) = store.view().shadow().await? else { return Ok(()) };
        if self.shadow.choice() == choice.choice {
            return Ok(());
        }
        let component = match &choice.digest {
            None => None,
            Some(digest) => match self.stored(store.view(), digest).await {
                Ok(component) => Some(component),
                Err(error) => {
                    tracing::error!(error = %error, component = digest, "cannot ask this component beside the one in force");
                    None
                }
            },
        };
        self.shadow.choose(choice.choice, component, clock);
        Ok(())
    }

    /// A stored component, ready to decide.
    ///
    /// # Errors
    /// When it is not stored, or cannot be used.
    pub(crate) async fn stored(&self, view: &View, digest: &str) -> Result<Arc<PolicyComponent>, StartError> {
        if let Some(ready) = self.ready(digest) {
            return Ok(ready);
        }
        let component = load_stored(&self.engine, view, digest, &|_| {}).await?;
        self.keep_ready(&component);
        Ok(component)
    }

    /// A component of somebody's bytes, ready to decide: compiled on a thread that may block.
    ///
    /// # Errors
    /// When the bytes are no component of our world.
    pub(crate) async fn load(self: &Arc<Self>, bytes: Arc<[u8]>) -> Result<Arc<PolicyComponent>, EngineError> {
        let policy = Arc::clone(self);
        let load = move || {
            if let Some(ready) = policy.ready(&crate::engine::digest_of(&bytes)) {
                return Ok(ready);
            }
            let component = policy.engine.load_component(bytes, &|_| {})?;
            policy.keep_ready(&component);
            Ok(component)
        };
        tokio::task::spawn_blocking(load).await.unwrap_or_else(|error| Err(EngineError::Trap(error.to_string())))
    }

    fn ready(&self, digest: &str) -> Option<Arc<PolicyComponent>> {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        let at = ready.iter().position(|component| component.digest() == digest)?;
        let found = ready.remove(at)?;
        ready.push_back(Arc::clone(&found));
        Some(found)
    }

    fn keep_ready(&self, component: &Arc<PolicyComponent>) {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        ready.retain(|kept| kept.digest() != component.digest());
        ready.push_back(Arc::clone(component));
        while ready.len() > READY_MAX {
            ready.pop_front();
        }
    }
}

async fn load_stored(
    engine: &Engine,
    view: &View,
    digest: &str,
    progress: &(dyn Fn(Stage) + Sync),
) -> Result<Arc<PolicyComponent>, StartError> {
    let bytes = view.component_bytes(digest).await?;
    let bytes = bytes.ok_or(StoreError::Damaged("the active component is not stored"))?;
    if crate::engine::digest_of(&bytes) != digest {
        return Err(StoreError::Damaged("the active component's bytes are not those of its digest").into());
    }
    // Compiling takes seconds; the other tasks of this thread move on.
    Ok(tokio::task::block_in_place(|| engine.load_component(bytes, progress))?)
}

async fn examine_blocking(component: &Arc<PolicyComponent>, in_force: &str) -> Result<Tested, StartError> {
    let (tested, in_force) = (Arc::clone(component), in_force.to_owned());
    let ran = tokio::task::spawn_blocking(move || examine(&tested, &in_force)).await;
    Ok(ran.map_err(|error| EngineError::Trap(error.to_string()))??)
}
