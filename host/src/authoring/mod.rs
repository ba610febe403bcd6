//! What an author does with a policy before anything runs under it: check, test, format, build, compare.
//!
//! Everything here is about text and files; nothing of it decides for a service. It is the one module of the host that asks
//! the native build of the policy's meaning, to hold it against the component's.

pub mod check;
pub mod coverage;
pub mod diff;
pub mod format;
pub mod junit;
pub mod scaffold;
pub mod solver;
pub mod source;
pub mod testing;

use policy_core::{BundleFile as CoreFile, Decision as CoreDecision, Problem as CoreProblem};

use crate::engine::EngineError;
use crate::engine::types::{BundleFile, Decision, PolicyRequest, Problem};

fn core_files(files: &[BundleFile]) -> Vec<CoreFile> {
    files.iter().map(|file| CoreFile { path: file.path.clone(), text: file.text.clone() }).collect()
}

fn problem(found: CoreProblem) -> Problem {
    let CoreProblem { file, line, column, message, help } = found;
    Problem { file, line, column, message, help }
}

/// The same request, as the host's types have it. Both spell their fields alike, which the differential tests rely on too.
fn request(of: &policy_core::Request) -> Result<PolicyRequest, EngineError> {
    same(of)
}

fn decision(of: &CoreDecision) -> Result<Decision, EngineError> {
    same(of)
}

fn same<A: serde::Serialize, B: serde::de::DeserializeOwned>(value: &A) -> Result<B, EngineError> {
    let value = serde_json::to_value(value).and_then(serde_json::from_value);
    value.map_err(|error| EngineError::Garbage(error.to_string()))
}
