//! A bundle loaded in the engine component without a snapshot: what an author tries a text with. It decides as the component
//! that is built of the bundle will, and is there in milliseconds instead of seconds.

use std::sync::Arc;

use wasmtime::Store;
use wasmtime::component::Component;

use super::bindings::{Policy, PolicyPre};
use super::cage::{Warden, refill};
use super::convert::{
    judge_decision, judge_manifest, judge_report, lend_files, lend_request, lend_texts, tame_problems,
};
use super::error::EngineError;
use super::runtime::Runtime;
use super::types::{BundleFile, Decision, Manifest, PolicyRequest, TestReport};

/// One instance that holds a bundle. It decides for its author, never for a service.
pub struct Rehearsal {
    runtime: Arc<Runtime>,
    store: Store<Warden>,
    policy: Policy,
    manifest: Manifest,
}

impl std::fmt::Debug for Rehearsal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rehearsal").field("bundle", &self.manifest.bundle_digest).finish_non_exhaustive()
    }
}

impl Rehearsal {
    pub(super) fn new(runtime: Arc<Runtime>, component: &Component, files: &[BundleFile]) -> Result<Self, EngineError> {
        let linker = wasmtime::component::Linker::new(&runtime.wasm);
        let broken = |error: wasmtime::Error| EngineError::from_call(&error);
        let pre = linker.instantiate_pre(component).and_then(PolicyPre::new).map_err(broken)?;
        let mut store = runtime.cage.store(&runtime.wasm, runtime.cage.for_tests())?;
        let policy = pre.instantiate(&mut store).map_err(broken)?;
        let files = lend_files(files);
        let loaded = policy.portreeve_policy_decider().call_load(&mut store, &files).map_err(broken)?;
        let manifest = loaded.map_err(|found| EngineError::Bundle(tame_problems(found))).and_then(judge_manifest)?;
        Ok(Self { runtime, store, policy, manifest })
    }

    /// What the bundle says that it is.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Decides.
    ///
    /// # Errors
    /// When there is no answer; after that there is none any more.
    pub fn decide(&mut self, request: &PolicyRequest) -> Result<Decision, EngineError> {
        refill(&mut self.store, self.runtime.cage.for_decision())?;
        let texts = lend_texts(&request.texts);
        let decider = self.policy.portreeve_policy_decider();
        let answer = decider.call_decide(&mut self.store, lend_request(request, &texts));
        judge_decision(answer.map_err(|error| EngineError::from_call(&error))?)
    }

    /// Runs the decision tables and the patterns' examples of the bundle.
    ///
    /// # Errors
    /// When the component breaks its cage; a failed case is no error here.
    pub fn run_tests(&mut self) -> Result<TestReport, EngineError> {
        refill(&mut self.store, self.runtime.cage.for_tests())?;
        let ran = self.policy.portreeve_policy_decider().call_run_tests(&mut self.store);
        ran.map_err(|error| EngineError::from_call(&error)).and_then(judge_report)
    }
}
