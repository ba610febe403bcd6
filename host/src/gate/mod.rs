//! The gate: the one way from a principal and a command to a write.
//!
//! ```text
//! facts ─► decide (component) ─► deny, trap, limit ─► record the refusal ─► 403 / 503
//!                              └► allow ─► Permit ─► store: one transaction
//!                                            facts or epoch moved? ─► decide again (bounded)
//! ```

mod active;
mod permit;
mod shadow;
mod signals;

use std::future::Future;
use std::sync::Arc;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::authn::{self, Principal};
use crate::clock::{SharedClock, Time};
use crate::command::action::{Action, Command, Lookout, Query, Subject};
use crate::command::policy::policy_principal;
use crate::crash;
use crate::engine::types::{Effect, PolicyRequest, Target};
use crate::engine::{Decided, EngineError};
use crate::error::{Denial, Error, Result};
use crate::store::audit::{Outcome, canonical, exact};
use crate::store::{Apply, CommitError, Committed, IdempotencyKey, Store};

pub use active::{Active, Policy, StartError, Wanted};
pub use permit::{Evidence, Permit, Refusal, Verdict};
pub use shadow::{Kind as ShadowKind, Sample as ShadowSample, Seen as ShadowSeen, Shadow};
pub(crate) use signals::{LockSignal, Signals};

/// How often a request is decided anew when facts or policy move under it. Policies that are swapped forty times a second
/// make more than half of all tries stale on a busy machine: eight tries were too few then.
const DECIDE_MAX: usize = 64;

/// What is known of a request beside who asks for what.
#[derive(Debug, Clone)]
pub struct Circumstances {
    /// Identifies the request, across log, answer and audit row.
    pub request_id: String,
    /// When it arrived.
    pub started_at: Time,
    /// The caller's key for a repeatable request.
    pub idempotency_key: Option<String>,
    /// The verified input, for the audit row.
    pub parameters: Value,
}

/// Decides, permits, and records.
#[derive(Debug, Clone)]
pub struct Gate {
    store: Store,
    policy: Arc<Policy>,
    clock: SharedClock,
    signals: Arc<Signals>,
}

/// What a decision came to.
enum Ruling<A> {
    Permitted(Permit<A>),
    Refused(Refusal),
}

impl Gate {
    /// A gate before `store`, with `policy`.
    #[must_use]
    pub fn new(store: Store, policy: Arc<Policy>, clock: SharedClock) -> Self {
        Self { store, policy, clock, signals: Arc::default() }
    }

    /// Told after each commit what it may have set free.
    pub(crate) const fn signals(&self) -> &Arc<Signals> {
        &self.signals
    }

    /// The store, for reading.
    #[must_use]
    pub const fn store(&self) -> &Store {
        &self.store
    }

    /// The policy in force.
    #[must_use]
    pub const fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    /// The clock.
    #[must_use]
    pub const fn clock(&self) -> &SharedClock {
        &self.clock
    }

    /// Runs a command: decides, and if allowed changes state and records both in one transaction.
    ///
    /// # Errors
    /// [`Error::Denied`] and [`Error::PolicyUnavailable`] when policy did not allow it; nothing happened then.
    pub async fn run<C: Apply>(
        &self,
        who: &Principal,
        command: C,
        circumstances: &Circumstances,
    ) -> Result<Committed<C::Output>> {
        let (gate, who, circumstances) = (self.clone(), who.clone(), circumstances.clone());
        unstoppable(async move { gate.run_to_the_end(who, command, &circumstances).await }).await
    }

    async fn run_to_the_end<C: Apply>(
        &self,
        mut who: Principal,
        command: C,
        circumstances: &Circumstances,
    ) -> Result<Committed<C::Output>> {
        let idempotency = idempotency::<C>(circumstances)?;
        for _ in 0..DECIDE_MAX {
            let active = self.policy.active();
            let at = Lookout { view: self.store.view(), component: &active.component };
            // A repeat changes nothing, so what it asks about may be gone by now: only the caller's standing is decided.
            let as_repeat = self.is_repeat(&who, idempotency.as_ref()).await?;
            let subject = if as_repeat { Subject::of(command.resource()) } else { command.subject(at).await? };
            crash::point!("gate.subject-read");
            let permit = match self.decide::<C>(&who, &active, subject, as_repeat, circumstances).await {
                Ruling::Permitted(permit) => permit,
                Ruling::Refused(refusal) => match self.refuse(refusal).await {
                    Some(error) => return Err(error),
                    None => {
                        who = self.look_again(&who).await?;
                        continue;
                    }
                },
            };
            if let Err(error) = command.check(at).await {
                crash::point!("gate.before-failed-check");
                match self.store.answered(permit, Outcome::Failed, error.body()).await {
                    Ok(()) => {
                        crash::point!("gate.failed-check-recorded");
                        return Err(error);
                    }
                    Err(CommitError::Stale) => {
                        who = self.look_again(&who).await?;
                        continue;
                    }
                    Err(error) => return Err(public(error)),
                }
            }
            crash::point!("gate.checked");
            match self.store.commit(permit, command.clone(), idempotency.clone()).await {
                Ok(committed) => {
                    crash::point!("gate.committed");
                    // Here and not in the caller's task, which may be gone by now.
                    if let Committed::Done(output) = &committed {
                        let wakes = C::wakes(output);
                        self.signals.wake(&wakes);
                        self.store.tell(&wakes);
                        crash::point!("gate.waiters-woken");
                    }
                    return Ok(committed);
                }
                Err(CommitError::Stale) => who = self.look_again(&who).await?,
                Err(error) => return Err(public(error)),
            }
        }
        Err(Error::Contention)
    }

    /// Answers a query: decides, reads, and records that it was answered.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub async fn ask<Q: Query>(&self, who: &Principal, query: Q, circumstances: &Circumstances) -> Result<Q::Output> {
        let (gate, who, circumstances) = (self.clone(), who.clone(), circumstances.clone());
        unstoppable(async move { gate.ask_to_the_end(who, query, &circumstances).await }).await
    }

    async fn ask_to_the_end<Q: Query>(
        &self,
        mut who: Principal,
        query: Q,
        circumstances: &Circumstances,
    ) -> Result<Q::Output> {
        for _ in 0..DECIDE_MAX {
            let active = self.policy.active();
            let at = Lookout { view: self.store.view(), component: &active.component };
            let subject = query.subject(at).await?;
            let permit = match self.decide::<Q>(&who, &active, subject, false, circumstances).await {
                Ruling::Permitted(permit) => permit,
                Ruling::Refused(refusal) => match self.refuse(refusal).await {
                    Some(error) => return Err(error),
                    None => {
                        who = self.look_again(&who).await?;
                        continue;
                    }
                },
            };
            let answer = query.read(at, &permit).await;
            crash::point!("gate.query-read");
            let (ended, summary) = match &answer {
                Ok(output) => (Outcome::Ok, Q::audit(output)),
                Err(error) => (Outcome::Failed, error.body()),
            };
            match self.store.answered(permit, ended, summary).await {
                Ok(()) => {
                    crash::point!("gate.query-recorded");
                    return answer;
                }
                Err(CommitError::Stale) => who = self.look_again(&who).await?,
                Err(error) => return Err(public(error)),
            }
        }
        Err(Error::Contention)
    }

    /// Records that a body named another agent than its key, and answers the refusal.
    pub async fn refuse_identity(
        &self,
        who: &Principal,
        (command, operation): (&'static str, &'static str),
        claimed: &str,
        circumstances: &Circumstances,
    ) -> Error {
        let mut who = who.clone();
        for _ in 0..DECIDE_MAX {
            let active = self.policy.active();
            let detail = format!("the key belongs to `{}`, the body names `{claimed}`", who.agent_id());
            let evidence = Evidence {
                verdict: Verdict::Deny,
                reason: "identity_mismatch".to_owned(),
                detail,
                resource: format!("agent:{claimed}"),
                parameters: json!({"claimed": claimed}),
                ..self.evidence(&who, &active, (command, operation), circumstances)
            };
            if let Some(error) = self.refuse(Refusal::new(evidence)).await {
                return error;
            }
            match self.look_again(&who).await {
                Ok(again) => who = again,
                Err(error) => return error,
            }
        }
        Error::Contention
    }

    async fn is_repeat(&self, who: &Principal, idempotency: Option<&IdempotencyKey>) -> Result<bool> {
        match idempotency {
            Some(key) => Ok(self.store.view().is_repeat(who.agent_id(), &key.key).await?),
            None => Ok(false),
        }
    }

    async fn decide<A: Action>(
        &self,
        who: &Principal,
        active: &Active,
        subject: Subject,
        as_repeat: bool,
        circumstances: &Circumstances,
    ) -> Ruling<A> {
        let resource = resource_text(&subject.target);
        let request = PolicyRequest {
            principal: policy_principal(who),
            operation: A::OPERATION.to_owned(),
            target: subject.target,
            texts: subject.texts,
        };
        let base = Evidence {
            resource,
            request: json!(request),
            as_repeat,
            ..self.evidence(who, active, (A::NAME, A::OPERATION), circumstances)
        };
        let copy = self.policy.shadow().is_on().then(|| request.clone());
        crash::point!("gate.before-component");
        let decided = active.component.decide_async(request).await;
        crash::point!("gate.after-component");
        let evidence = conclude(base, decided);
        if let (Some(copy), Some(decision)) = (copy, &evidence.decision) {
            self.policy.shadow().offer(copy, decision, (&evidence.decision_id, &evidence.component, evidence.epoch));
        }
        metrics::counter!("portreeve_decisions_total", "operation" => A::OPERATION,
            "decision" => evidence.verdict.as_str(), "reason" => evidence.reason.clone())
        .increment(1);
        if evidence.verdict == Verdict::Allow {
            let permit = Permit::mint(evidence);
            crash::point!("gate.permit-minted");
            Ruling::Permitted(permit)
        } else {
            Ruling::Refused(Refusal::new(evidence))
        }
    }

    fn evidence(
        &self,
        who: &Principal,
        active: &Active,
        (command, operation): (&'static str, &'static str),
        circumstances: &Circumstances,
    ) -> Evidence {
        Evidence {
            decision_id: crate::command::new_id(),
            request_id: circumstances.request_id.clone(),
            started_at: circumstances.started_at,
            who: who.clone(),
            command,
            operation,
            resource: String::new(),
            parameters: circumstances.parameters.clone(),
            request: Value::Null,
            verdict: Verdict::Unavailable,
            reason: String::new(),
            detail: String::new(),
            decision: None,
            component: active.component.digest().to_owned(),
            epoch: active.epoch,
            fuel: 0,
            as_repeat: false,
        }
    }

    /// Records a refusal and says it; none when facts or policy moved, so that it has to be decided again. A refusal that
    /// cannot be recorded is not said: the store is down then.
    async fn refuse(&self, refusal: Refusal) -> Option<Error> {
        let evidence = refusal.evidence();
        let remedy = evidence.decision.as_ref().map_or_else(
            || "leave agent_id and agent_type out, or use that agent's own key".to_owned(),
            |decision| decision.remedy.clone(),
        );
        let decision_id = evidence.decision_id.clone();
        let error = match evidence.verdict {
            Verdict::Unavailable => Error::PolicyUnavailable { code: evidence.reason.clone(), decision_id },
            Verdict::Allow | Verdict::Deny => Error::Denied(Box::new(Denial {
                reason: evidence.reason.clone(),
                detail: evidence.detail.clone(),
                remedy,
                decision_id,
                component: evidence.component.clone(),
                epoch: evidence.epoch,
                network_rule: evidence.decision.as_ref().and_then(|decision| decision.network_rule.clone()),
            })),
        };
        crash::point!("gate.before-refusal");
        match self.store.record(refusal).await {
            Ok(()) => {
                crash::point!("gate.refusal-recorded");
                Some(error)
            }
            Err(CommitError::Stale) => None,
            Err(failed) => Some(public(failed)),
        }
    }

    /// Facts or policy moved: reads both anew.
    async fn look_again(&self, who: &Principal) -> Result<Principal> {
        crash::point!("gate.decision-stale");
        self.policy.follow(&self.store).await?;
        authn::refresh(&self.store, who).await
    }
}

/// Runs to its end even when the caller hangs up: a decision must not be left without its audit row.
async fn unstoppable<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    tokio::spawn(work).await.unwrap_or_else(|error| {
        tracing::error!(error = %error, "a request ended in a panic");
        Err(Error::StorageUnavailable)
    })
}

/// What the component's answer means. Whatever is no clean allow is not an allow.
fn conclude(base: Evidence, decided: Result<Decided, EngineError>) -> Evidence {
    match decided {
        Ok(Decided { decision, fuel_used }) => Evidence {
            verdict: if decision.effect == Effect::Allow { Verdict::Allow } else { Verdict::Deny },
            reason: decision.reason.clone(),
            detail: decision.detail.clone(),
            fuel: fuel_used,
            decision: Some(decision),
            ..base
        },
        Err(error) => {
            tracing::error!(error = %error, operation = base.operation, "the policy component could not decide");
            Evidence {
                verdict: Verdict::Unavailable,
                reason: error.code().to_owned(),
                detail: "the policy component could not decide; nothing happened".to_owned(),
                ..base
            }
        }
    }
}

fn public(error: CommitError) -> Error {
    match error {
        CommitError::Stale => Error::Contention,
        CommitError::Invalid(error) => error,
        CommitError::Limit(denial) => Error::Denied(denial),
        CommitError::Store(error) => error.into(),
    }
}

fn idempotency<C: Command>(circumstances: &Circumstances) -> Result<Option<IdempotencyKey>> {
    let Some(key) = &circumstances.idempotency_key else { return Ok(None) };
    if key.is_empty() || key.len() > 255 || key.chars().any(char::is_control) {
        let msg = "an Idempotency-Key has 1 to 255 printable characters";
        return Err(Error::field("Idempotency-Key", "invalid_idempotency_key", msg));
    }
    let request = canonical(&exact(&circumstances.parameters));
    let hash = Sha256::new().chain_update(C::NAME).chain_update([0]).chain_update(request).finalize();
    Ok(Some(IdempotencyKey { key: key.clone(), request_hash: hash.to_vec() }))
}

/// The resource as one line of text, for lists of the audit log.
fn resource_text(target: &Target) -> String {
    match target {
        Target::LockKey(name) => format!("lock_key:{name}"),
        Target::File(name) => format!("file:{name}"),
        Target::Domain(name) => format!("domain:{name}"),
        Target::Task(task) if task.id.is_empty() => "task:queue".to_owned(),
        Target::Task(task) => format!("task:{}", task.id),
        Target::Session(name) => format!("session:{name}"),
        Target::Memory(name) => format!("memory:{name}"),
        Target::Handoff(name) => format!("handoff:{name}"),
        Target::Agent(name) => format!("agent:{name}"),
        Target::Component(name) => format!("component:{name}"),
        Target::AuditLog => "audit_log".to_owned(),
        Target::Branch(name) => format!("branch:{name}"),
        Target::Command(name) => format!("command:{name}"),
        Target::Tool(name) => format!("tool:{name}"),
    }
}
