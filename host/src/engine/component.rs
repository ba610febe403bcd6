//! A component that is ready to decide.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::timeout;
use wasmtime::Store;
use wasmtime::component::{Component, Linker};

use super::bindings::{Policy, PolicyPre};
use super::cage::{Allowance, Isolation, Warden, refill};
use super::convert::{judge_decision, judge_manifest, judge_report, lend_request, lend_texts, tame_problems};
use super::error::{EngineError, short};
use super::runtime::Runtime;
use super::types::{Decision, Manifest, PolicyRequest, Problem, TestReport};

/// Longest text that [`PolicyComponent::validate`] takes.
const POLICY_BYTES_MAX: usize = 1 << 20;

/// Most bytes of text in a request that is decided without changing threads.
const AT_ONCE_BYTES_MAX: usize = 2 << 10;
/// Fuel for a decision without changing threads: some 0.3 ms, ten times what a typical decision takes.
const AT_ONCE_FUEL: u64 = 5_000_000;
/// The backstop for what takes long and little fuel.
const AT_ONCE_DEADLINE: Duration = Duration::from_millis(20);

/// A decision and what it cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// What the policy answered.
    pub decision: Decision,
    /// Fuel that the decision used. No part of the answer: a recycled instance
    /// may use less for the same one.
    pub fuel_used: u64,
}

/// A compiled, checked component of world `policy`.
pub struct PolicyComponent {
    digest: String,
    bytes: Arc<[u8]>,
    manifest: Manifest,
    pre: PolicyPre<Warden>,
    runtime: Arc<Runtime>,
    /// Instances between two decisions; always empty where each has its own.
    idle: Mutex<Vec<Live>>,
}

/// An instance, owned by one decision at a time.
struct Live {
    store: Store<Warden>,
    policy: Policy,
    decided: u32,
}

impl fmt::Debug for PolicyComponent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolicyComponent")
            .field("digest", &self.digest)
            .field("name", &self.manifest.name)
            .field("version", &self.manifest.version)
            .finish_non_exhaustive()
    }
}

impl PolicyComponent {
    /// Checks that the component is pure and of our world, and asks what it is.
    pub(super) fn new(
        runtime: Arc<Runtime>,
        bytes: Arc<[u8]>,
        digest: String,
        component: &Component,
    ) -> Result<Self, EngineError> {
        refuse_imports(&runtime, component)?;
        let wrong_world = |error: wasmtime::Error| EngineError::WrongWorld(short(&error.to_string()));
        let pre = Linker::new(&runtime.wasm)
            .instantiate_pre(component)
            .map_err(|error| EngineError::NotAComponent(short(&error.to_string())))?;
        let pre = PolicyPre::new(pre).map_err(wrong_world)?;
        let manifest = describe(&runtime, &pre)?;
        Ok(Self { digest, bytes, manifest, pre, runtime, idle: Mutex::new(Vec::new()) })
    }

    /// `sha256:` and the digest of the component's bytes.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The component's bytes.
    #[must_use]
    pub fn bytes(&self) -> &Arc<[u8]> {
        &self.bytes
    }

    /// What the component says that it is.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Decides, on this thread.
    ///
    /// # Errors
    /// When there is no answer; nobody may take that for an allow.
    pub fn decide(&self, request: &PolicyRequest) -> Result<Decided, EngineError> {
        let bytes = request.byte_len();
        let bytes_max = self.runtime.cage.request_bytes_max;
        if bytes > bytes_max {
            return Err(EngineError::TooLarge { bytes, bytes_max });
        }
        match self.runtime.cage.isolation {
            Isolation::Fresh => self.fresh(self.for_decision())?.decide(request),
            Isolation::Recycled(times) => self.decide_recycled(request, times),
        }
    }

    /// Decides when one of the places is free: at once if an instance waits for work and the request is small, else on a
    /// thread that may block.
    ///
    /// # Errors
    /// As [`Self::decide`], and [`EngineError::Overloaded`] when no place was
    /// free in the time that a decision may take.
    pub async fn decide_async(self: &Arc<Self>, request: PolicyRequest) -> Result<Decided, EngineError> {
        if let Some(decided) = self.decide_at_once(&request) {
            return Ok(decided);
        }
        let permits = Arc::clone(&self.runtime.permits);
        let permit = timeout(self.for_decision().deadline, permits.acquire_owned())
            .await
            .map_err(|_elapsed| EngineError::Overloaded)?
            .map_err(|_closed| EngineError::Overloaded)?;
        let component = Arc::clone(self);
        let work = tokio::task::spawn_blocking(move || {
            // Held by the work itself: a caller that goes away frees no place early.
            let _permit = permit;
            component.decide(&request)
        });
        work.await.unwrap_or_else(|error| Err(EngineError::Trap(short(&error.to_string()))))
    }

    /// Decides on a thread that must not block, if that takes so little fuel that nobody notices: changing threads would
    /// cost as much as the decision. None when it has to be decided elsewhere, whatever the reason.
    fn decide_at_once(&self, request: &PolicyRequest) -> Option<Decided> {
        let Isolation::Recycled(times) = self.runtime.cage.isolation else { return None };
        if request.byte_len() > AT_ONCE_BYTES_MAX {
            return None;
        }
        let _place = self.runtime.permits.try_acquire().ok()?;
        let mut live = self.lock_idle().pop()?;
        let Allowance { fuel, deadline } = self.for_decision();
        let allowance = Allowance { fuel: fuel.min(AT_ONCE_FUEL), deadline: deadline.min(AT_ONCE_DEADLINE) };
        refill(&mut live.store, allowance).ok()?;
        let decided = live.decide(request).ok()?;
        self.put_back(live, times);
        Some(decided)
    }

    /// Checks a Cedar text against the schema of the bundle; empty means valid.
    ///
    /// # Errors
    /// When the component breaks its cage.
    pub fn validate(&self, policy_text: &str) -> Result<Vec<Problem>, EngineError> {
        let bytes = policy_text.len();
        if bytes > POLICY_BYTES_MAX {
            return Err(EngineError::TooLarge { bytes, bytes_max: POLICY_BYTES_MAX });
        }
        let mut live = self.fresh(self.for_decision())?;
        live.policy
            .portreeve_policy_decider()
            .call_validate(&mut live.store, policy_text)
            .map(tame_problems)
            .map_err(|error| EngineError::from_call(&error))
    }

    /// Checks a Cedar text on a thread that may block. One at a time: it may take as much as the largest decision, and
    /// must not take the places of decisions.
    ///
    /// # Errors
    /// As [`Self::validate`], and [`EngineError::Overloaded`] when its turn did not come in time.
    pub async fn validate_async(self: &Arc<Self>, policy_text: String) -> Result<Vec<Problem>, EngineError> {
        let turn = timeout(self.for_decision().deadline, Arc::clone(&self.runtime.validating).acquire_owned())
            .await
            .map_err(|_elapsed| EngineError::Overloaded)?
            .map_err(|_closed| EngineError::Overloaded)?;
        let component = Arc::clone(self);
        let work = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            component.validate(&policy_text)
        });
        work.await.unwrap_or_else(|error| Err(EngineError::Trap(short(&error.to_string()))))
    }

    /// Runs the decision tables that the component carries.
    ///
    /// # Errors
    /// When the component breaks its cage; a failed case is no error here.
    pub fn run_tests(&self) -> Result<TestReport, EngineError> {
        let mut live = self.fresh(self.runtime.cage.for_tests())?;
        live.policy
            .portreeve_policy_decider()
            .call_run_tests(&mut live.store)
            .map_err(|error| EngineError::from_call(&error))
            .and_then(judge_report)
    }

    fn for_decision(&self) -> Allowance {
        self.runtime.cage.for_decision()
    }

    fn fresh(&self, allowance: Allowance) -> Result<Live, EngineError> {
        Live::new(&self.runtime, &self.pre, allowance)
    }

    fn decide_recycled(&self, request: &PolicyRequest, times: u32) -> Result<Decided, EngineError> {
        let idle = self.lock_idle().pop();
        let mut live = match idle {
            Some(mut live) => {
                refill(&mut live.store, self.for_decision())?;
                live
            }
            None => self.fresh(self.for_decision())?,
        };
        let is_fresh = live.decided == 0;
        let decided = match live.decide(request) {
            // Perhaps for what others left in it: an answer, also this one, never depends on that.
            Err(_) if !is_fresh => {
                live = self.fresh(self.for_decision())?;
                live.decide(request)?
            }
            // After a failure `live` is dropped here and never asked again.
            answer => answer?,
        };
        self.put_back(live, times);
        Ok(decided)
    }

    /// Keeps an instance for the next decision, if it may decide again.
    fn put_back(&self, live: Live, times: u32) {
        let mut idle = self.lock_idle();
        if live.decided < times && live.store.data().is_small() && idle.len() < self.runtime.cage.concurrency {
            idle.push(live);
        }
    }

    fn lock_idle(&self) -> std::sync::MutexGuard<'_, Vec<Live>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Live {
    fn new(runtime: &Runtime, pre: &PolicyPre<Warden>, allowance: Allowance) -> Result<Self, EngineError> {
        let mut store = runtime.cage.store(&runtime.wasm, allowance)?;
        let policy = pre.instantiate(&mut store).map_err(|error| EngineError::from_call(&error))?;
        Ok(Self { store, policy, decided: 0 })
    }

    fn decide(&mut self, request: &PolicyRequest) -> Result<Decided, EngineError> {
        let texts = lend_texts(&request.texts);
        let fuel_before = self.store.get_fuel().unwrap_or_default();
        let answer = self
            .policy
            .portreeve_policy_decider()
            .call_decide(&mut self.store, lend_request(request, &texts))
            .map_err(|error| EngineError::from_call(&error))?;
        self.decided += 1;
        let fuel_after = self.store.get_fuel().unwrap_or_default();
        Ok(Decided { decision: judge_decision(answer)?, fuel_used: fuel_before.saturating_sub(fuel_after) })
    }
}

fn refuse_imports(runtime: &Runtime, component: &Component) -> Result<(), EngineError> {
    let imports: Vec<String> =
        component.component_type().imports(&runtime.wasm).map(|(name, _)| short(name)).take(32).collect();
    if imports.is_empty() {
        return Ok(());
    }
    Err(EngineError::Imports(imports))
}

fn describe(runtime: &Runtime, pre: &PolicyPre<Warden>) -> Result<Manifest, EngineError> {
    let mut store = runtime.cage.store(&runtime.wasm, runtime.cage.for_decision())?;
    let instance = pre.instance_pre().instantiate(&mut store).map_err(|error| EngineError::from_call(&error))?;
    // Only here are the functions' types compared with the world's.
    let policy = Policy::new(&mut store, &instance)
        .map_err(|error| EngineError::WrongWorld(short(&error.root_cause().to_string())))?;
    policy
        .portreeve_policy_decider()
        .call_describe(&mut store)
        .map_err(|error| EngineError::from_call(&error))?
        .map_err(|why| EngineError::Undescribed(short(&why)))
        .and_then(judge_manifest)
}
