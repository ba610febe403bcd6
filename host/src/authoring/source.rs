//! What an author names on a command line: a bundle.

use std::path::{Path, PathBuf};

use policy_core::{BundleFile, Policy};

use crate::engine::types::Problem;
use crate::engine::{EngineError, default_bundle, read_bundle};

/// The argument that means the bundle which the program carries.
pub const DEFAULT: &str = "default";

/// A bundle that was read and holds together.
#[derive(Debug)]
pub struct Bundle {
    /// As it was named.
    pub name: String,
    pub(super) files: Vec<BundleFile>,
    pub(super) policy: Policy,
}

impl Bundle {
    /// Reads and loads what an argument names.
    ///
    /// # Errors
    /// When it cannot be read, or has problems.
    pub fn named(argument: &Path) -> Result<Self, EngineError> {
        Self::load(argument.display().to_string(), files(argument)?)
    }

    /// Loads files that were read already.
    ///
    /// # Errors
    /// All that is wrong with the bundle.
    pub fn load(name: String, files: Vec<BundleFile>) -> Result<Self, EngineError> {
        let policy =
            Policy::load(&files).map_err(|problems| EngineError::Bundle(problems.into_iter().map(told).collect()))?;
        Ok(Self { name, files, policy })
    }

    /// The folder that problems are to be looked for in; none where the program carries the bundle.
    #[must_use]
    pub fn folder(argument: &Path) -> Option<PathBuf> {
        (argument != Path::new(DEFAULT)).then(|| argument.to_owned())
    }
}

/// The files of a bundle: those that the program carries, or those of a folder. Other ways to keep one are told apart here.
fn files(argument: &Path) -> Result<Vec<BundleFile>, EngineError> {
    let files = if argument == Path::new(DEFAULT) { default_bundle() } else { read_bundle(argument)? };
    Ok(files.into_iter().map(|file| BundleFile { path: file.path, text: file.text }).collect())
}

fn told(problem: policy_core::Problem) -> Problem {
    let policy_core::Problem { file, line, column, message, help } = problem;
    Problem { file, line, column, message, help }
}
