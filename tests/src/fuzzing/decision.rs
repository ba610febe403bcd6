//! Requests for a decision: one codec, two engines, and the component that serves.

use std::sync::{Arc, LazyLock};

use policy_core::{BundleFile, Decision, Effect, EngineMode, Policy, Request};
use portreeve::engine::types::PolicyRequest;
use portreeve::engine::{Cage, Engine, PolicyComponent, default_bundle};

use super::Outcome;

/// The default bundle, natively.
pub(super) static POLICY: LazyLock<Policy> = LazyLock::new(|| Policy::load(&core_files()).expect("the bundle loads"));

/// The same as the component that a service asks.
static COMPONENT: LazyLock<Arc<PolicyComponent>> = LazyLock::new(|| {
    let engine = Engine::open(&super::cache(), Cage::default()).expect("an engine");
    engine.load_bundle(&default_bundle(), &|_| ()).expect("the bundle becomes a component")
});

pub(super) fn core_files() -> Vec<BundleFile> {
    default_bundle().into_iter().map(|file| BundleFile { path: file.path, text: file.text }).collect()
}

/// A request as JSON: both spellings of the types read it alike, and whoever is asked decides alike.
pub fn decision_request(data: &[u8]) -> Outcome {
    let native = serde_json::from_slice::<Request>(data);
    let hosted = serde_json::from_slice::<PolicyRequest>(data);
    let (native, hosted) = match (native, hosted) {
        (Ok(native), Ok(hosted)) => (native, hosted),
        (Err(_), Err(_)) => return Outcome::Refused,
        (native, hosted) => panic!("read differently: {native:?}, {hosted:?}"),
    };
    let written = serde_json::to_vec(&native).unwrap();
    assert_eq!(serde_json::from_slice::<Request>(&written).unwrap(), native);
    assert_eq!(serde_json::to_vec(&hosted).unwrap(), written);

    let decision = POLICY.decide(&native);
    assert_eq!(POLICY.decide(&native), decision, "the same request is decided differently the second time");
    check(&decision, &native);
    let one = POLICY.decide_with(EngineMode::Native, &native);
    for mode in [EngineMode::Cedar, EngineMode::Both] {
        let other = POLICY.decide_with(mode, &native);
        let same = Decision { engine: one.engine, deciding: one.deciding.clone(), ..other };
        assert_eq!(same, one, "the engines differ: {mode:?}");
    }
    let caged = COMPONENT.decide(&hosted).unwrap_or_else(|error| panic!("no answer: {error}")).decision;
    assert_eq!(serde_json::to_value(caged).unwrap(), serde_json::to_value(&decision).unwrap());
    Outcome::accepted_if(decision.effect == Effect::Allow)
}

/// What is true of every decision.
pub(super) fn check(decision: &Decision, request: &Request) {
    assert!(!decision.reason.is_empty() && !decision.deciding.is_empty(), "{decision:?}");
    assert!(decision.trust_level <= 4, "{decision:?}");
    if request.principal.suspended {
        assert_eq!((decision.effect, decision.trust_level), (Effect::Deny, 0), "{decision:?}");
    }
    if decision.effect == Effect::Deny {
        assert!(!decision.remedy.is_empty(), "a denial without a remedy: {decision:?}");
        assert_eq!(decision.obligations, policy_core::Obligations::default());
    }
    for violation in &decision.violations {
        assert!(violation.matched_text.chars().count() <= 200, "{violation:?}");
        assert!(!(violation.blocked && violation.passed_by_trust), "{violation:?}");
        assert!(!violation.blocked || !violation.remedy.is_empty(), "{violation:?}");
    }
}
