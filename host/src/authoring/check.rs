//! Everything that is wrong with a bundle, before it is ever in force.

use policy_core::Policy;

use super::{core_files, problem};
use crate::engine::types::{BundleFile, Problem};
use crate::engine::{Engine, EngineError, Stage};

/// All problems of a bundle, by file and place: what keeps it from loading, and what has no effect. Asked of the native
/// build, which knows both, and of the component, which has the last word.
///
/// # Errors
/// When the component cannot be asked.
pub fn problems(engine: &Engine, files: &[BundleFile], progress: &dyn Fn(Stage)) -> Result<Vec<Problem>, EngineError> {
    let mut found: Vec<Problem> = match Policy::load_strict(&core_files(files)) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.into_iter().map(problem).collect(),
    };
    match engine.rehearse(files, progress) {
        Ok(_) => {}
        Err(EngineError::Bundle(problems)) => {
            found.extend(problems);
            found.sort_by(|a, b| (&a.file, a.line, a.column, &a.message).cmp(&(&b.file, b.line, b.column, &b.message)));
            found.dedup();
        }
        Err(error) => return Err(error),
    }
    Ok(found)
}
