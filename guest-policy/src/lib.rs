//! The policy component: the WIT contract around [`policy_core`].
//!
//! There are no rules here. A bundle is loaded once, before the component's
//! memory is snapshotted; from then on every instance starts with it.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod convert;

use std::cell::OnceCell;

use policy_core::Policy;

use crate::bindings::exports::portreeve::policy::decider::{
    BundleFile, Decision, Guest, Manifest, Problem, Request, TestReport,
};

#[allow(
    missing_docs,
    unsafe_code,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes,
    clippy::undocumented_unsafe_blocks,
    reason = "written by wit-bindgen from the contract"
)]
mod bindings {
    wit_bindgen::generate!({ path: "../wit", world: "policy" });
}

thread_local! {
    /// The bundle. A component has one thread, and loads once.
    static POLICY: OnceCell<Policy> = const { OnceCell::new() };
}

struct Component;

impl Guest for Component {
    fn load(files: Vec<BundleFile>) -> Result<Manifest, Vec<Problem>> {
        let files: Vec<_> = files.into_iter().map(Into::into).collect();
        let problems = |list: Vec<policy_core::Problem>| -> Vec<Problem> { list.into_iter().map(Into::into).collect() };
        let policy = Policy::load(&files).map_err(problems)?;
        policy.warm();
        let manifest = policy.manifest().clone();
        if POLICY.with(|cell| cell.set(policy).is_err()) {
            return Err(vec![convert::loaded_twice()]);
        }
        Ok(manifest.into())
    }

    fn ready() {}

    fn describe() -> Result<Manifest, String> {
        with_policy(|policy| policy.manifest().clone().into()).ok_or_else(|| "no bundle is loaded".to_owned())
    }

    fn decide(request: Request) -> Decision {
        let request = request.into();
        with_policy(|policy| policy.decide(&request)).unwrap_or_else(|| policy_core::no_policy(&request)).into()
    }

    fn validate(policy_text: String) -> Vec<Problem> {
        with_policy(|policy| policy.validate(&policy_text))
            .unwrap_or_else(|| vec![convert::not_loaded()])
            .into_iter()
            .map(Into::into)
            .collect()
    }

    fn run_tests() -> TestReport {
        with_policy(Policy::run_tests).unwrap_or_else(convert::nothing_to_test).into()
    }
}

fn with_policy<T>(ask: impl FnOnce(&Policy) -> T) -> Option<T> {
    POLICY.with(|cell| cell.get().map(ask))
}

#[expect(unsafe_code, reason = "the macro exports the functions of the contract")]
mod export {
    use super::{Component, bindings};
    bindings::export!(Component with_types_in bindings);
}
