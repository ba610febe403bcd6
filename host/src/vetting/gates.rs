//! The operator's gates: what is asked of a component beyond being fit, before it is put in force.

use std::sync::Arc;

use serde::Serialize;
use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::{Flaw, Tested};
use crate::authoring::diff::{self, Report, Verdict};
use crate::authoring::solver::Solver;
use crate::authoring::source::Bundle;
use crate::engine::{Engine, PolicyComponent};
use crate::gate::Policy;
use crate::replay::{self, Scope};
use crate::signature::{PublicKey, Signature};
use crate::store::{StoreError, View};

/// The gates of a service. None of them is there by default.
#[derive(Debug, Clone, Default)]
pub struct Gates {
    /// A component has to carry tests.
    pub require_tests: bool,
    /// A component must be proven to allow nothing that the one in force does not; with the solver that proves it.
    pub refuse_wider: Option<Solver>,
    /// A component is asked as many of the log's latest requests again, and has to decide them alike, but for as many
    /// changes as the activation says that it accepts.
    pub require_replay: Option<u64>,
    /// A component has to be signed with one of these keys, under a version that is not below one that was in force.
    pub trusted_signers: Vec<PublicKey>,
}

/// What the gates found of a component that they let through.
#[derive(Debug, Clone, Serialize)]
pub struct Weighed {
    /// The evidence, for the audit log.
    pub evidence: Value,
}

/// Why a component is not put in force.
#[derive(Debug, Clone)]
pub struct Refused {
    /// A stable code.
    pub reason: &'static str,
    /// In words.
    pub detail: String,
    /// What was found until then.
    pub evidence: Value,
}

impl Refused {
    fn new(reason: &'static str, detail: impl Into<String>, evidence: Value) -> Self {
        Self { reason, detail: detail.into(), evidence }
    }

    fn failed(error: &StoreError) -> Self {
        tracing::error!(error = %error, "the store failed while a component was weighed");
        Self::new("storage_unavailable", "the store could not be read", Value::Null)
    }
}

impl From<Flaw> for Refused {
    fn from(flaw: Flaw) -> Self {
        Self::new(flaw.code(), flaw.to_string(), Value::Null)
    }
}

impl Gates {
    /// The names of the gates that are closed, for logs.
    #[must_use]
    pub fn names(&self) -> Vec<&'static str> {
        let all = [
            (self.require_tests, "require_tests"),
            (self.refuse_wider.is_some(), "refuse_wider"),
            (self.require_replay.is_some(), "require_replay"),
            (!self.trusted_signers.is_empty(), "trusted_signers"),
        ];
        all.into_iter().filter_map(|(is_on, name)| is_on.then_some(name)).collect()
    }

    /// Who signed, if the gate asks or the file says.
    fn check_signature(
        &self,
        candidate: &PolicyComponent,
        active: &PolicyComponent,
        newest: Option<i64>,
    ) -> Result<Value, Refused> {
        if self.trusted_signers.is_empty() {
            return Ok(Value::Null);
        }
        let (signature, key) = Signature::verify(candidate.bytes(), &self.trusted_signers).map_err(|distrust| {
            let signer =
                Signature::signer(candidate.bytes()).map(|(by, version)| json!({"by": by, "version": version}));
            Refused::new("not_trusted", distrust.to_string(), json!({"signed": signer}))
        })?;
        let version = i64::try_from(signature.version)
            .map_err(|_| Refused::new("not_trusted", "the signature's version is out of range", Value::Null))?;
        let evidence = json!({"signed_by": key.id(), "version": version, "newest_version": newest});
        // What is in force may be put in force again; anything else has to be later than all that was.
        if newest.is_some_and(|newest| version <= newest) && candidate.digest() != active.digest() {
            let detail = format!(
                "version {version} is not later than version {}, which was in force; sign it anew under a higher one",
                newest.unwrap_or_default()
            );
            return Err(Refused::new("older_version", detail, evidence));
        }
        Ok(evidence)
    }

    pub(super) async fn weigh(
        &self,
        candidate: &Arc<PolicyComponent>,
        tested: Tested,
        active: &Arc<PolicyComponent>,
        accept_changes: u64,
        policy: &Arc<Policy>,
        view: &View,
    ) -> Result<Weighed, Refused> {
        // Whose word counts for nothing cannot count versions either.
        let trusted: Vec<String> = self.trusted_signers.iter().map(PublicKey::id).collect();
        let newest = view.signed_version_max(&trusted).await.map_err(|error| Refused::failed(&error))?;
        let signature = self.check_signature(candidate, active, newest)?;
        let mut evidence = json!({"gates": self.names(), "tests": tested, "signature": signature});
        if self.require_tests && tested.cases == 0 {
            let detail = "the component carries no test, and the service requires some (require_tests)";
            return Err(Refused::new("tests_missing", detail, evidence));
        }
        // Nothing is wider than itself, or decides otherwise: what is in force may be put in force again.
        let is_other = candidate.digest() != active.digest();
        if let Some(solver) = self.refuse_wider.as_ref().filter(|_| is_other) {
            let report = compare(active, candidate, policy, solver).await;
            let report = report.map_err(|(reason, detail)| Refused::new(reason, detail, evidence.clone()))?;
            put(&mut evidence, "comparison", summary(&report));
            if !report.verdict.is_not_wider() {
                return Err(Refused::new("wider", wider(&report), evidence));
            }
        }
        if let Some(rows) = self.require_replay.filter(|_| is_other) {
            let latest = replay::latest(view, rows).await.map_err(|error| Refused::failed(&error))?;
            put(&mut evidence, "replay", json!({"askable": latest.askable, "looked_at": latest.looked_at}));
            if latest.askable < rows && latest.after > 0 {
                let detail = format!(
                    "only {} of the latest {} rows of the log can be asked again, and the service requires {rows} \
                     (require_replay)",
                    latest.askable, latest.looked_at
                );
                return Err(Refused::new("replay_short", detail, evidence));
            }
            let scope = Scope { after: Some(latest.after), ..Scope::default() };
            let replayed = replay::replay(view, candidate, &scope, 1, &|_| {}).await;
            let report = replayed.map_err(|error| {
                tracing::error!(error = %error, "a candidate's replay failed");
                Refused::new("replay_failed", error.to_string(), evidence.clone())
            })?;
            let changed = report.changes();
            put(
                &mut evidence,
                "replay",
                json!({
                    "asked": report.asked, "changed": changed, "accepted": accept_changes, "skipped": report.skipped,
                }),
            );
            if changed > accept_changes {
                let detail = format!(
                    "{changed} of the latest {} recorded decisions would change, {accept_changes} are accepted; look with \
                     `portreeve policy replay --candidate`, then say how many you accept",
                    report.asked
                );
                return Err(Refused::new("replay_differs", detail, evidence));
            }
        }
        Ok(Weighed { evidence })
    }
}

fn put(evidence: &mut Value, name: &str, value: Value) {
    if let Some(fields) = evidence.as_object_mut() {
        fields.insert(name.to_owned(), value);
    }
}

/// The texts of both components, which are believed only where this program makes the very same component of them.
///
/// On a thread of its own from beginning to end: making components takes seconds, and what Cedar's types are made of need not be
/// shown to be fit for changing threads, which takes the compiler minutes.
async fn compare(
    active: &Arc<PolicyComponent>,
    candidate: &Arc<PolicyComponent>,
    policy: &Arc<Policy>,
    solver: &Solver,
) -> Result<Report, (&'static str, String)> {
    let (a, b) = (Arc::clone(active), Arc::clone(candidate));
    let (policy, solver, runtime) = (Arc::clone(policy), solver.clone(), Handle::current());
    let work = tokio::task::spawn_blocking(move || {
        let a = made_of(policy.engine(), &a, "the component in force")?;
        let b = made_of(policy.engine(), &b, "the component")?;
        let compared = runtime.block_on(diff::compare(&a, &b, &solver, &|_, _| ()));
        compared.map_err(|error| ("not_comparable", error.to_string()))
    });
    work.await.unwrap_or_else(|error| Err(("not_comparable", error.to_string())))
}

fn made_of(engine: &Engine, component: &PolicyComponent, which: &str) -> Result<Bundle, (&'static str, String)> {
    let made = Bundle::made_into(component.bytes(), component.digest().to_owned(), engine, &|_| {});
    made.map_err(|why| ("not_comparable", format!("{which} cannot be compared: {why}")))
}

fn summary(report: &Report) -> Value {
    let changes: Vec<String> =
        report.changes.iter().take(20).map(|change| format!("{}: {}", change.item, change.text)).collect();
    json!({
        "verdict": report.verdict, "changes": report.changes.len(), "first_changes": changes,
        "matrix_cells_changed": report.matrix.changed.len(), "environments": report.environments.len(),
    })
}

fn wider(report: &Report) -> String {
    let what = match report.verdict {
        Verdict::NotProven => "is not proven to be no wider than",
        Verdict::Incomparable => "is wider in places and narrower in others than",
        _ => "allows more than",
    };
    format!("the component {what} the one in force; `portreeve policy diff` shows where")
}
