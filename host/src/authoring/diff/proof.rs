//! What is proven of the Cedar policies: for each request environment, whether the second bundle's allow more.
//!
//! The prover compares Cedar's decisions over all requests that fit the schema. Portreeve differs from Cedar in two ways,
//! and both are looked at first. It denies where a policy cannot be evaluated, while Cedar passes over that policy; and a
//! request about another agent comes without that agent's entity. What the prover's answer does not carry over to is not
//! proven, and said to be so.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use cedar_policy::{PolicySet, RequestEnv, Schema};
use cedar_policy_symcc::err::Error;
use cedar_policy_symcc::{CompiledPolicy, CompiledPolicySet, Env};
use policy_core::{CedarScope, OperationInfo, Policy, TargetKind};
use tokio::time::Instant;

use super::facts::Facts;
use super::policies::{self, Reach, Read};
use super::prover::Prover;
use super::report::{Environment, Erring, Only, Tally, Verdict, Witness};
use super::shape::Shapes;
use super::witness;
use super::{DiffError, Progress};
use crate::authoring::solver::Solver;
use crate::authoring::source::Bundle;

/// Processes of the solver at once: one is asked while the policies of another question are compiled.
const PROCESSES: usize = 2;
/// What all questions together may take, in limits of one.
const LIMITS_MAX: u32 = 60;

/// One environment to look at.
struct Question<'a> {
    operation: &'a OperationInfo,
    facts: Facts,
    env: RequestEnv,
    /// That both sets are compiled against.
    schema: &'a Schema,
    a: BTreeMap<String, Read<'a>>,
    b: BTreeMap<String, Read<'a>>,
    only_in: Option<Only>,
    /// The schemas do not mean the same by it.
    is_other_shape: bool,
}

/// Asks about every environment of either bundle.
pub(super) async fn prove(
    a: &Bundle,
    b: &Bundle,
    solver: &Solver,
    progress: Progress<'_>,
) -> Result<Vec<Environment>, DiffError> {
    let questions = questions(&a.policy, &b.policy, [a, b].map(schema_text))?;
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let until = Instant::now() + solver.limit.saturating_mul(LIMITS_MAX);
    progress(0, questions.len());
    let worker = || async {
        let mut prover = Prover::start(solver, until)?;
        // Also where there is nothing to prove: a solver that is none is told from one that is.
        if let Some(question) = questions.first() {
            prover.try_out(&question.env, question.schema).await?;
        }
        let mut found = Vec::new();
        while let Some(question) = questions.get(next.fetch_add(1, Ordering::Relaxed)) {
            found.push(question.answer(&mut prover).await?);
            progress(done.fetch_add(1, Ordering::Relaxed).saturating_add(1), questions.len());
        }
        Ok::<_, DiffError>(found)
    };
    let workers = (0..PROCESSES).map(|_| worker());
    let mut all: Vec<Environment> = futures::future::try_join_all(workers).await?.into_iter().flatten().collect();
    all.sort_by(|one, other| one.operation.cmp(&other.operation));
    Ok(all)
}

fn schema_text(bundle: &Bundle) -> &str {
    bundle.files.iter().find(|file| file.path == "schema.cedarschema").map_or("", |file| file.text.as_str())
}

/// One question for each operation of either bundle: each has one type of who asks and one of what it acts on.
fn questions<'a>(a: &'a Policy, b: &'a Policy, texts: [&str; 2]) -> Result<Vec<Question<'a>>, DiffError> {
    let shapes =
        Shapes::of(texts[0], a.cedar_schema()).and_then(|own| Ok((own, Shapes::of(texts[1], b.cedar_schema())?)));
    let (of_a, of_b) = shapes.map_err(DiffError::Internal)?;
    let mut names: BTreeMap<&str, (Option<&OperationInfo>, Option<&OperationInfo>)> = BTreeMap::new();
    for info in &a.manifest().operations {
        names.entry(&info.name).or_default().0 = Some(info);
    }
    for info in &b.manifest().operations {
        names.entry(&info.name).or_default().1 = Some(info);
    }
    let mut questions = Vec::new();
    for (name, (in_a, in_b)) in names {
        let (scope_a, scope_b) = (a.cedar_scope(name), b.cedar_scope(name));
        // The second bundle's schema speaks about what both have.
        let known = scope_b.zip(in_b).map(|found| (found, b)).or_else(|| scope_a.zip(in_a).map(|found| (found, a)));
        let Some(((scope, operation), policy)) = known else { continue };
        let only_in = match (scope_a.is_some(), scope_b.is_some()) {
            (true, false) => Some(Only::A),
            (false, true) => Some(Only::B),
            _ => None,
        };
        let is_same_type = scope_a.zip(scope_b).is_none_or(|(one, other)| one.resource == other.resource);
        let is_same_shape = only_in.is_some() || of_a.of_action(scope.action) == of_b.of_action(scope.action);
        questions.push(Question {
            operation,
            facts: Facts::of(operation).map_err(DiffError::Internal)?,
            env: RequestEnv::new(scope.principal.clone(), scope.action.clone(), scope.resource.clone()),
            schema: policy.cedar_schema(),
            a: read(scope_a, operation.target)?,
            b: read(scope_b, operation.target)?,
            only_in,
            is_other_shape: !(is_same_type && is_same_shape),
        });
    }
    Ok(questions)
}

fn read(scope: Option<CedarScope<'_>>, target: TargetKind) -> Result<BTreeMap<String, Read<'_>>, DiffError> {
    scope.map_or_else(
        || Ok(BTreeMap::new()),
        |scope| policies::read(scope.policies, target).map_err(DiffError::Internal),
    )
}

/// What stands between the prover's answer and Portreeve's.
enum Obstacle {
    /// Nothing is known.
    Note(String),
    /// It must not be passed over.
    Fatal(DiffError),
}

impl From<Error> for Obstacle {
    fn from(error: Error) -> Self {
        Self::Note(match error {
            Error::SolverUnknown => "the solver found no answer within its limit".to_owned(),
            other => chain(&other),
        })
    }
}

/// An error with its causes, since Cedar's say little by themselves.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

impl Question<'_> {
    async fn answer(&self, prover: &mut Prover<'_>) -> Result<Environment, DiffError> {
        let mut found = Environment {
            operation: self.operation.name.clone(),
            principal: self.env.principal().to_string(),
            resource: self.env.resource().to_string(),
            verdict: Verdict::NotProven,
            only_in: self.only_in,
            wider: None,
            narrower: None,
            erring: Vec::new(),
            notes: Vec::new(),
        };
        if self.is_other_shape {
            found.notes.push("not comparable: the schema changed".to_owned());
            return Ok(found);
        }
        if self.is_the_same() {
            found.verdict = Verdict::Equivalent;
            return Ok(found);
        }
        match self.compare(prover, &mut found).await {
            Ok(()) => {}
            Err(Obstacle::Note(note)) => found.notes.push(note),
            Err(Obstacle::Fatal(error)) => return Err(error),
        }
        Ok(found)
    }

    /// The same policies decide the same, whatever they say and whether they fail.
    fn is_the_same(&self) -> bool {
        let holds = |one: &BTreeMap<String, Read<'_>>, other: &BTreeMap<String, Read<'_>>| {
            one.values().all(|policy| has(other, policy))
        };
        self.only_in.is_none() && holds(&self.a, &self.b) && holds(&self.b, &self.a)
    }

    async fn compare(&self, prover: &mut Prover<'_>, found: &mut Environment) -> Result<(), Obstacle> {
        if prover.is_late() {
            return Err(Obstacle::Note("the time for all questions was over".to_owned()));
        }
        prover.try_out(&self.env, self.schema).await.map_err(Obstacle::Fatal)?;
        let mut tally = Tally::default();
        self.errors(prover, found).await?;
        if !found.erring.is_empty() {
            found.notes.push(
                "a policy may fail, and a request is denied then: Cedar's decision alone proves nothing".to_owned(),
            );
            tally.verdict(Verdict::NotProven);
        }
        let (plain_a, plain_b) = (set(&self.a)?, set(&self.b)?);
        let (a, b) = (self.compile(&plain_a)?, self.compile(&plain_b)?);
        if let Some(env) = prover.ask(async |cedar| cedar.check_implies_with_counterexample_opt(&b, &a).await).await? {
            found.wider = self.checked(&env, &plain_b, &plain_a)?;
            tally.verdict(if found.wider.is_some() { Verdict::Wider } else { Verdict::NotProven });
        }
        if let Some(env) = prover.ask(async |cedar| cedar.check_implies_with_counterexample_opt(&a, &b).await).await? {
            found.narrower = self.checked(&env, &plain_a, &plain_b)?;
            tally.verdict(if found.narrower.is_some() { Verdict::Narrower } else { Verdict::NotProven });
        }
        self.lacking(&mut tally, found);
        found.verdict = tally.come_to();
        Ok(())
    }

    /// Looks for requests that a policy fails at. One that both bundles have is asked about once.
    async fn errors(&self, prover: &mut Prover<'_>, found: &mut Environment) -> Result<(), Obstacle> {
        let news = self.b.values().filter(|policy| !has(&self.a, policy));
        for policy in self.a.values().chain(news) {
            let guarded = self.facts.guard(policy.policy).map_err(Obstacle::Note)?;
            let compiled = CompiledPolicy::compile(&guarded, &self.env, self.schema)?;
            let env =
                prover.ask(async |cedar| cedar.check_never_errors_with_counterexample_opt(&compiled).await).await?;
            let Some(env) = env else { continue };
            let alone =
                PolicySet::from_policies([policy.policy.clone()]).map_err(|error| Obstacle::Note(error.to_string()))?;
            if !witness::fails(&env, &alone) {
                return Err(Obstacle::Fatal(self.disagreement(format!("policy `{}` does not fail", policy.id))));
            }
            let (in_a, in_b) = (has(&self.a, policy), has(&self.b, policy));
            let request = witness::shown(&env).map_err(Obstacle::Note)?;
            found.erring.push(Erring { policy: policy.id.clone(), in_a, in_b, request });
        }
        Ok(())
    }

    fn compile(&self, policies: &PolicySet) -> Result<CompiledPolicySet, Obstacle> {
        let bound = self.facts.bound(policies).map_err(Obstacle::Note)?;
        Ok(CompiledPolicySet::compile(&bound, &self.env, self.schema)?)
    }

    /// The prover's request, if Cedar's authorizer says the same of it. None where that is Cedar's decision and not
    /// Portreeve's, because a policy fails at it.
    fn checked(&self, env: &Env, allows: &PolicySet, denies: &PolicySet) -> Result<Option<Witness>, Obstacle> {
        let holds = |strict| witness::is_allowed(env, allows, strict) && !witness::is_allowed(env, denies, strict);
        if !holds(false) {
            return Err(Obstacle::Fatal(self.disagreement("the decisions are not those that were claimed".to_owned())));
        }
        holds(true).then(|| witness::shown(env)).transpose().map_err(Obstacle::Note)
    }

    fn disagreement(&self, what: String) -> DiffError {
        DiffError::Disagreement { operation: self.operation.name.clone(), what }
    }

    /// Looks whether requests that lack an entity are covered. The second bundle allows such a request only if none of its
    /// policies fails at it, and those that do not fail decide as if the entity were there: as the prover says. The first
    /// bundle's do, too, if those that could fail are among the second's.
    fn lacking(&self, tally: &mut Tally, found: &mut Environment) {
        let looks = |what: Reach, own: &'_ BTreeMap<String, Read<'_>>, other: &BTreeMap<String, Read<'_>>| {
            let policy =
                own.values().find(|policy| policy.reach == what && (what == Reach::Presence || !has(other, policy)));
            policy.map(|policy| format!("policy `{}` looks at an entity that a request may lack", policy.id))
        };
        let (a, b) = (&self.a, &self.b);
        let unknown = looks(Reach::Presence, a, b).or_else(|| looks(Reach::Presence, b, a));
        if let Some(what) = unknown.or_else(|| looks(Reach::Attributes, a, b)) {
            found.notes.push(format!("{what}, and the prover's requests lack none"));
            tally.verdict(Verdict::NotProven);
        } else if let Some(what) = looks(Reach::Attributes, b, a) {
            found.notes.push(format!("{what}, and is denied then"));
            tally.verdict(Verdict::Narrower);
        }
    }
}

/// Whether a policy of this meaning is there, under whatever name.
fn has(policies: &BTreeMap<String, Read<'_>>, policy: &Read<'_>) -> bool {
    policies.values().any(|other| other.meaning == policy.meaning)
}

fn set(policies: &BTreeMap<String, Read<'_>>) -> Result<PolicySet, Obstacle> {
    let all = policies.values().map(|read| read.policy.clone());
    PolicySet::from_policies(all).map_err(|error| Obstacle::Note(error.to_string()))
}
