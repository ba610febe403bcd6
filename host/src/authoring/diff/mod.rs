//! Compares two bundles: what changed in words, which decisions of the authorization matrix did, and whether the Cedar
//! policies of the second allow anything that those of the first do not.
//!
//! Nothing passes by default: what cannot be proven counts as wider, and without a solver there is no report.

mod facts;
mod lists;
mod matrix;
mod policies;
mod proof;
mod prover;
mod report;
mod shape;
mod witness;

use std::collections::BTreeMap;

use policy_core::Policy;

use self::report::Tally;
pub use self::report::{
    Cell, Change, Decided, Direction, Environment, Erring, Matrix, Only, Report, Section, Side, Verdict, Witness,
};
use super::solver::{Solver, SolverError};
use super::source::Bundle;

/// Is told how many environments of how many are done.
pub type Progress<'a> = &'a (dyn Fn(usize, usize) + Sync);

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum DiffError {
    /// There is no solver that can be believed.
    #[error(transparent)]
    Solver(#[from] SolverError),
    /// The solver's request and Cedar's authorizer contradict each other.
    #[error(
        "internal error: the solver's request about `{operation}` does not hold against Cedar's authorizer: {what}"
    )]
    Disagreement {
        /// The operation.
        operation: String,
        /// What does not hold.
        what: String,
    },
    /// What cannot be.
    #[error("internal error: {0}")]
    Internal(String),
}

/// Compares two bundles. The solver is asked in any case, even where there is nothing to prove.
///
/// # Errors
/// When there is no solver, when what it says is wrong, or when it contradicts Cedar's authorizer.
pub async fn compare(a: &Bundle, b: &Bundle, solver: &Solver, progress: Progress<'_>) -> Result<Report, DiffError> {
    let environments = proof::prove(a, b, solver, progress).await?;
    let mut changes = lists::compare(&a.policy, &b.policy);
    changes.extend(cedar_changes(&a.policy, &b.policy)?);
    let matrix = matrix::compare(&a.policy, &b.policy);
    let mut tally = Tally::default();
    changes.iter().for_each(|change| tally.direction(change.direction));
    matrix.changed.iter().for_each(|cell| tally.direction(cell.direction()));
    environments.iter().for_each(|environment| tally.verdict(environment.verdict));
    Ok(Report { a: side(a), b: side(b), verdict: tally.come_to(), changes, matrix, environments })
}

fn side(bundle: &Bundle) -> Side {
    let manifest = bundle.policy.manifest();
    Side {
        argument: bundle.name.clone(),
        name: manifest.name.clone(),
        version: manifest.version.clone(),
        bundle_digest: manifest.bundle_digest.clone(),
    }
}

/// Which policies came, went or were rewritten.
fn cedar_changes(a: &Policy, b: &Policy) -> Result<Vec<Change>, DiffError> {
    let (of_a, of_b) = (all_policies(a)?, all_policies(b)?);
    let ids: std::collections::BTreeSet<&String> = of_a.keys().chain(of_b.keys()).collect();
    let changed = ids.into_iter().filter_map(|id| {
        let what = match (of_a.get(id), of_b.get(id)) {
            (None, Some(_)) => "added",
            (Some(_), None) => "removed",
            (Some(own), Some(other)) if own.meaning != other.meaning => "changed",
            (Some(own), Some(other)) if !own.is_same_as(other) => "annotations changed",
            _ => return None,
        };
        Some(lists::cedar(id, what))
    });
    Ok(changed.collect())
}

/// The policies of all operations.
fn all_policies(policy: &Policy) -> Result<BTreeMap<String, policies::Read<'_>>, DiffError> {
    let mut all = BTreeMap::new();
    for operation in &policy.manifest().operations {
        let Some(scope) = policy.cedar_scope(&operation.name) else { continue };
        all.extend(policies::read(scope.policies, operation.target).map_err(DiffError::Internal)?);
    }
    Ok(all)
}
