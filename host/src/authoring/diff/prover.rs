//! Cedar's symbolic compiler with a process of the solver, and the questions that keep the solver honest.

use std::str::FromStr as _;

use cedar_policy::{PolicySet, RequestEnv, Schema};
use cedar_policy_symcc::err::Error;
use cedar_policy_symcc::solver::SolverError as Failure;
use cedar_policy_symcc::{CedarSymCompiler, CompiledPolicySet, Env};
use tokio::time::{Instant, timeout_at};

use super::DiffError;
use super::witness;
use crate::authoring::solver::{Process, Solver, SolverError};

/// A prover, which makes itself a new process after a failure.
pub(super) struct Prover<'a> {
    solver: &'a Solver,
    cedar: CedarSymCompiler<Process>,
    until: Instant,
}

impl<'a> Prover<'a> {
    /// Starts the solver.
    pub(super) fn start(solver: &'a Solver, until: Instant) -> Result<Self, DiffError> {
        Ok(Self { solver, cedar: compiler(solver)?, until })
    }

    /// Whether the time for all questions is over.
    pub(super) fn is_late(&self) -> bool {
        Instant::now() >= self.until
    }

    /// Asks one question, within the time that is left for all of them.
    pub(super) async fn ask<T>(
        &mut self,
        question: impl AsyncFnOnce(&mut CedarSymCompiler<Process>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let failed = |why: String| Error::SolverError(Failure::Solver(why));
        if self.cedar.solver().is_broken() {
            self.cedar = compiler(self.solver).map_err(|error| failed(error.to_string()))?;
        }
        match timeout_at(self.until, question(&mut self.cedar)).await {
            Ok(answered) => answered,
            Err(_) => {
                // A question that was left half asked: the next one needs a process of its own.
                self.cedar.solver_mut().give_up();
                Err(failed("the time for all questions is over".to_owned()))
            }
        }
    }

    /// Asks two questions with known answers, about a number that nobody could have known: whoever always says "unsat",
    /// which would pass for a proof, is found out by the second.
    pub(super) async fn try_out(&mut self, env: &RequestEnv, schema: &Schema) -> Result<(), DiffError> {
        let wrong = |why: String| DiffError::Solver(SolverError::Wrong { program: self.solver.program.clone(), why });
        let number = number().map_err(DiffError::Internal)?;
        let above = |bound: i64| -> Result<(PolicySet, CompiledPolicySet), DiffError> {
            let text = format!(
                "permit (principal, action, resource) when {{ principal has trust_level && principal.trust_level > {bound} }};"
            );
            let set = PolicySet::from_str(&text).map_err(|error| DiffError::Internal(error.to_string()))?;
            let compiled = CompiledPolicySet::compile(&set, env, schema);
            Ok((set, compiled.map_err(|error| DiffError::Internal(error.to_string()))?))
        };
        let ((low, below), (high, above)) = (above(number)?, above(number.saturating_add(1))?);
        let known = self.ask(async |cedar| cedar.check_implies_with_counterexample_opt(&above, &below).await).await;
        match known {
            Ok(None) => {}
            Ok(Some(_)) => return Err(wrong("it found a number that is larger and not larger".to_owned())),
            Err(error) => return Err(wrong(error.to_string())),
        }
        let known = self.ask(async |cedar| cedar.check_implies_with_counterexample_opt(&below, &above).await).await;
        let is_right = |env: &Env| witness::is_allowed(env, &low, true) && !witness::is_allowed(env, &high, true);
        match known {
            Ok(Some(env)) if is_right(&env) => Ok(()),
            Ok(Some(_)) => Err(wrong("its request is not what was asked for".to_owned())),
            Ok(None) => Err(wrong("it found nothing where there is something".to_owned())),
            Err(error) => Err(wrong(error.to_string())),
        }
    }
}

fn compiler(solver: &Solver) -> Result<CedarSymCompiler<Process>, DiffError> {
    let process = solver.start().map_err(DiffError::Solver)?;
    CedarSymCompiler::new(process).map_err(|error| DiffError::Internal(error.to_string()))
}

fn number() -> Result<i64, String> {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).map_err(|error| error.to_string())?;
    Ok(i64::from(u32::from_be_bytes(bytes)))
}
