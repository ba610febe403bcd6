//! A loaded bundle, and how it decides.

use std::collections::{BTreeMap, BTreeSet};

use crate::bundle;
use crate::cedar::CedarEngine;
use crate::decision::{Decision, Effect, EngineMode, Manifest, Obligations};
use crate::explain::explain;
use crate::guardrail::{Findings, Guardrails};
use crate::native;
use crate::network::{self, NetworkOutcome, NetworkRule};
use crate::operation::{Guardrails as GuardrailMode, Operation, Operations};
use crate::paths::PathOutcome;
use crate::problem::{BundleFile, Care, Problem};
use crate::profile::Profile;
use crate::reason::{ALLOWED, Reason};
use crate::request::{Request, Target};
use crate::resolve::{resolve, trust};
use crate::tables::Case;

/// A loaded bundle. It answers the same whatever it was asked before.
#[derive(Debug)]
pub struct Policy {
    pub(crate) manifest: Manifest,
    pub(crate) operations: Operations,
    pub(crate) profiles: BTreeMap<String, Profile>,
    pub(crate) network: Vec<NetworkRule>,
    pub(crate) guardrails: Guardrails,
    pub(crate) cedar: CedarEngine,
    pub(crate) cases: Vec<Case>,
}

/// Everything that either engine may ask about a request, worked out once.
#[derive(Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) request: &'a Request,
    pub(crate) operation: &'a Operation,
    pub(crate) profile: &'a Profile,
    pub(crate) trust: u8,
    /// Where the target is a path.
    pub(crate) path: Option<PathOutcome>,
    /// Where the target is a domain.
    pub(crate) network: Option<NetworkOutcome>,
    pub(crate) findings: Findings,
}

/// What an engine says, before it is put into words.
#[derive(Debug, Default)]
struct Verdict {
    /// Code of the denial; none allows.
    denial: Option<String>,
    /// What the denial's author says about it.
    remedy: Option<String>,
    deciding: Vec<String>,
    diagnostics: Vec<String>,
}

/// Patterns that block where the operation only reports: none.
const NOTHING: &BTreeSet<String> = &BTreeSet::new();

impl<'a> Facts<'a> {
    fn gather(policy: &Policy, request: &'a Request, operation: &'a Operation, profile: &'a Profile) -> Self {
        let trust = trust(request, profile);
        let path = match &request.target {
            Target::LockKey(path) | Target::File(path) => Some(profile.paths.check(path)),
            _ => None,
        };
        let network = match &request.target {
            Target::Domain(name) => Some(network::check(name, &profile.network, &policy.network)),
            _ => None,
        };
        let findings = policy.guardrails.scan(request, trust);
        Self { request, operation, profile, trust, path, network, findings }
    }

    /// Facts of the right shape, to check a schema with.
    pub(crate) fn sample(request: &'a Request, operation: &'a Operation, profile: &'a Profile) -> Self {
        Self {
            request,
            operation,
            profile,
            trust: profile.info.trust_level,
            path: Some(PathOutcome::Allowed),
            network: Some(NetworkOutcome::NotAllowed),
            findings: Findings::default(),
        }
    }

    /// Patterns that deny the operation.
    pub(crate) fn blocking(&self) -> &BTreeSet<String> {
        match self.operation.guardrails {
            GuardrailMode::Enforce => &self.findings.blocking,
            GuardrailMode::Report => NOTHING,
        }
    }
}

impl Policy {
    /// Loads a bundle: parses, checks and indexes it.
    ///
    /// # Errors
    /// All that is wrong with the bundle, with places.
    pub fn load(files: &[BundleFile]) -> Result<Self, Vec<Problem>> {
        bundle::load(files, Care::Loading)
    }

    /// Loads a bundle as its author wants it: what has no effect is a problem as well. Rules that can never match, entries
    /// of a profile that change nothing, cases about things that are not there.
    ///
    /// # Errors
    /// All that is wrong with the bundle, with places.
    pub fn load_strict(files: &[BundleFile]) -> Result<Self, Vec<Problem>> {
        bundle::load(files, Care::Strict)
    }

    /// What the bundle says about itself.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Decides, with the engine that the bundle names.
    #[must_use]
    pub fn decide(&self, request: &Request) -> Decision {
        self.decide_with(self.manifest.engine, request)
    }

    /// Decides with a given engine, to compare them.
    #[must_use]
    pub fn decide_with(&self, mode: EngineMode, request: &Request) -> Decision {
        let (operation, profile) = match resolve(self, request) {
            Ok(found) => found,
            Err((reason, trust)) => return refuse(reason, mode, trust, request),
        };
        let facts = Facts::gather(self, request, operation, profile);
        let verdict = match mode {
            EngineMode::Native => native_verdict(&facts),
            EngineMode::Cedar => self.cedar_verdict(&facts).0,
            // EQUIV: where the two disagree, nobody may.
            EngineMode::Both => self.both(&facts),
        };
        answer(verdict, mode, facts)
    }

    /// Checks Cedar text against the bundle's schema; empty means valid.
    #[must_use]
    pub fn validate(&self, policy_text: &str) -> Vec<Problem> {
        self.cedar.validate(policy_text)
    }

    /// What Cedar says, and all the codes it gives.
    fn cedar_verdict(&self, facts: &Facts<'_>) -> (Verdict, BTreeSet<String>) {
        let said = self.cedar.decide(facts);
        let mut verdict = Verdict { deciding: said.policies, diagnostics: said.errors, ..Verdict::default() };
        if said.allowed {
            return (verdict, BTreeSet::new());
        }
        if !verdict.diagnostics.is_empty() {
            verdict.denial = Some(Reason::EvaluationError.code().to_owned());
            return (verdict, BTreeSet::new());
        }
        let about: Vec<_> = verdict.deciding.iter().filter_map(|id| self.cedar.about(id)).collect();
        // Codes of this crate go before an author's own, in the order of the native rules.
        let rank = |code: &str| Reason::from_code(code).map_or((1, None), |known| (0, Some(known)));
        let first = about.iter().copied().min_by_key(|(code, _)| (rank(code), *code));
        let (code, remedy) = first.unwrap_or((Reason::NoPolicy.code(), None));
        verdict.denial = Some(code.to_owned());
        verdict.remedy = remedy.map(str::to_owned);
        let codes = about.iter().map(|(code, _)| (*code).to_owned()).collect();
        (verdict, codes)
    }

    /// Asks both engines. They must agree on the effect, and the native reason
    /// must be one of Cedar's.
    fn both(&self, facts: &Facts<'_>) -> Verdict {
        let native = native_verdict(facts);
        let (cedar, codes) = self.cedar_verdict(facts);
        let agree = match (&native.denial, &cedar.denial) {
            (None, None) => true,
            (Some(code), Some(_)) => codes.contains(code),
            _ => false,
        };
        if !cedar.diagnostics.is_empty() {
            return cedar;
        }
        let deciding: BTreeSet<String> = native.deciding.into_iter().chain(cedar.deciding).collect();
        let deciding = deciding.into_iter().collect();
        if agree {
            let remedy = cedar.remedy.filter(|_| cedar.denial == native.denial);
            return Verdict { denial: native.denial, remedy, deciding, diagnostics: Vec::new() };
        }
        let word = |denial: Option<String>| denial.unwrap_or_else(|| ALLOWED.to_owned());
        Verdict {
            diagnostics: vec![format!("native says `{}`, Cedar says `{}`", word(native.denial), word(cedar.denial))],
            denial: Some(Reason::EnginesDisagree.code().to_owned()),
            remedy: None,
            deciding,
        }
    }
}

/// What a host answers while no bundle is loaded.
#[must_use]
pub fn no_policy(request: &Request) -> Decision {
    refuse(Reason::NoPolicy, EngineMode::default(), 0, request)
}

fn native_verdict(facts: &Facts<'_>) -> Verdict {
    let (denial, mut deciding) = match native::decide(facts) {
        Ok(deciding) => (None, deciding),
        Err(denial) => (Some(denial.reason.code().to_owned()), denial.deciding),
    };
    deciding.sort();
    Verdict { denial, deciding, ..Verdict::default() }
}

/// A denial before any engine is asked.
fn refuse(reason: Reason, engine: EngineMode, trust_level: u8, request: &Request) -> Decision {
    let words = explain(reason.code(), request, None);
    Decision {
        effect: Effect::Deny,
        reason: reason.code().to_owned(),
        detail: words.detail,
        remedy: words.remedy,
        engine,
        trust_level,
        deciding: vec![format!("request:{reason}")],
        diagnostics: Vec::new(),
        violations: Vec::new(),
        obligations: Obligations::default(),
        network_rule: None,
    }
}

fn answer(verdict: Verdict, engine: EngineMode, facts: Facts<'_>) -> Decision {
    let allowed = verdict.denial.is_none();
    let code = verdict.denial.unwrap_or_else(|| ALLOWED.to_owned());
    let words = explain(&code, facts.request, Some(&facts));
    let network_rule = facts.network.as_ref().and_then(NetworkOutcome::rule).map(str::to_owned);
    Decision {
        effect: if allowed { Effect::Allow } else { Effect::Deny },
        reason: code,
        detail: words.detail,
        remedy: verdict.remedy.unwrap_or(words.remedy),
        engine,
        trust_level: facts.trust,
        deciding: verdict.deciding,
        diagnostics: verdict.diagnostics,
        violations: facts.findings.violations,
        obligations: if allowed { facts.profile.info.limits } else { Obligations::default() },
        network_rule,
    }
}
