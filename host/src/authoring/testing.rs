//! Runs what a bundle promises: its decision tables, through the component and through both native engines.

use policy_core::{Case, EngineMode, Policy};
use serde::Serialize;

use super::coverage::{self, Coverage};
use super::{core_files, decision, problem};
use crate::engine::types::{BundleFile, Decision, TestFailure};
use crate::engine::{Engine, EngineError, PolicyComponent, Rehearsal, Stage};

/// Who decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Decider {
    /// The component, in the mode that the bundle names.
    Component,
    /// The rules over the profiles, natively.
    Native,
    /// The Cedar policies, natively.
    Cedar,
    /// Both natively, which must agree.
    Both,
}

impl Decider {
    /// As people read it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Component => "component",
            Self::Native => "native",
            Self::Cedar => "cedar",
            Self::Both => "both",
        }
    }
}

/// One way in which a decision was not as promised.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// Who decided so.
    pub decider: Decider,
    /// What the table says.
    pub expected: String,
    /// What was decided.
    pub actual: String,
}

/// A case and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CaseResult {
    /// Path of its file inside the bundle.
    pub file: String,
    /// Where it is written, counted from 1.
    pub line: u32,
    /// What its author calls it.
    pub name: String,
    /// Empty where all decided as promised.
    pub failures: Vec<Failure>,
}

/// What a run of a bundle's tests came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TestRun {
    /// Name and version of the bundle.
    pub bundle: String,
    /// Digest of the bundle's files.
    pub bundle_digest: String,
    /// The cases, by file and in the order in which they are written.
    pub cases: Vec<CaseResult>,
    /// What the component itself said of its cases and of its patterns' examples.
    pub own_passed: u32,
    /// The same, of those that failed.
    pub own_failures: Vec<TestFailure>,
    /// What no case exercises.
    pub coverage: Coverage,
}

impl TestRun {
    /// Whether everything is as promised.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.own_failures.is_empty() && self.cases.iter().all(|case| case.failures.is_empty())
    }
}

/// What plays the component: the bundle, loaded in it for this run, or a component that somebody built.
enum Stand<'a> {
    Rehearsal(Box<Rehearsal>),
    Built(&'a PolicyComponent),
}

impl Stand<'_> {
    fn decide(&mut self, request: &policy_core::Request) -> Result<Decision, EngineError> {
        let request = super::request(request)?;
        match self {
            Self::Rehearsal(rehearsal) => rehearsal.decide(&request),
            Self::Built(component) => component.decide(&request).map(|decided| decided.decision),
        }
    }
}

/// Runs the tests of a bundle.
///
/// # Errors
/// [`EngineError::Bundle`] when the bundle does not load, with all its problems; others when the component breaks its cage.
pub fn run(engine: &Engine, files: &[BundleFile], progress: &dyn Fn(Stage)) -> Result<TestRun, EngineError> {
    let policy = native(files)?;
    let mut rehearsal = Box::new(engine.rehearse(files, progress)?);
    let own = rehearsal.run_tests()?;
    finish(&policy, Stand::Rehearsal(rehearsal), own)
}

/// Runs the tests that a built component carries, its bundle's cases one by one.
///
/// # Errors
/// As [`run`].
pub fn run_built(component: &PolicyComponent, files: &[BundleFile]) -> Result<TestRun, EngineError> {
    let policy = native(files)?;
    let own = component.run_tests()?;
    finish(&policy, Stand::Built(component), own)
}

/// Runs the tests of a component that carries no text: its own, which are all that there are. What they exercise is its secret.
///
/// # Errors
/// When the component breaks its cage.
pub fn run_own(component: &PolicyComponent) -> Result<TestRun, EngineError> {
    let (own, manifest) = (component.run_tests()?, component.manifest());
    Ok(TestRun {
        bundle: format!("{} {}", manifest.name, manifest.version),
        bundle_digest: manifest.bundle_digest.clone(),
        cases: Vec::new(),
        own_passed: own.passed,
        own_failures: own.failures,
        coverage: Coverage::default(),
    })
}

fn native(files: &[BundleFile]) -> Result<Policy, EngineError> {
    let loaded = Policy::load(&core_files(files));
    loaded.map_err(|problems| EngineError::Bundle(problems.into_iter().map(problem).collect()))
}

fn finish(
    policy: &Policy,
    mut stand: Stand<'_>,
    own: crate::engine::types::TestReport,
) -> Result<TestRun, EngineError> {
    let mut cases = Vec::new();
    let mut seen = coverage::Seen::default();
    for case in policy.cases() {
        let decided = policy.decide_with(EngineMode::Both, &case.request);
        seen.note(policy.manifest(), case, &decided);
        cases.push(CaseResult {
            file: case.file.clone(),
            line: case.line,
            name: case.name.clone(),
            failures: failures(policy, &mut stand, case)?,
        });
    }
    let manifest = policy.manifest();
    Ok(TestRun {
        bundle: format!("{} {}", manifest.name, manifest.version),
        bundle_digest: manifest.bundle_digest.clone(),
        cases,
        own_passed: own.passed,
        own_failures: own.failures,
        coverage: seen.coverage(manifest),
    })
}

fn failures(policy: &Policy, stand: &mut Stand<'_>, case: &Case) -> Result<Vec<Failure>, EngineError> {
    let mut failures = Vec::new();
    for (decider, mode) in
        [(Decider::Native, EngineMode::Native), (Decider::Cedar, EngineMode::Cedar), (Decider::Both, EngineMode::Both)]
    {
        let decided = policy.decide_with(mode, &case.request);
        let differences = case.expect.differences(&decided, mode);
        failures.extend(differences.into_iter().map(|found| failure(decider, found)));
    }
    let mode = policy.manifest().engine;
    let by_component = match stand.decide(&case.request) {
        Ok(by_component) => by_component,
        Err(error) => {
            let expected = "a decision".to_owned();
            failures.push(Failure { decider: Decider::Component, expected, actual: error.to_string() });
            return Ok(failures);
        }
    };
    let core: policy_core::Decision = super::same(&by_component)?;
    failures.extend(case.expect.differences(&core, mode).into_iter().map(|found| failure(Decider::Component, found)));
    let natively = decision(&policy.decide(&case.request))?;
    if natively != by_component && failures.is_empty() {
        failures.push(Failure {
            decider: Decider::Component,
            expected: format!("what the native build decides: {}", said(&natively)),
            actual: said(&by_component),
        });
    }
    Ok(failures)
}

fn failure(decider: Decider, found: policy_core::Difference) -> Failure {
    Failure { decider, expected: found.expected, actual: found.actual }
}

fn said(decision: &Decision) -> String {
    serde_json::to_string(decision).unwrap_or_default()
}
