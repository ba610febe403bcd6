//! Where a policy comes from: a folder of text, a component file, or the program itself.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{core_files, problem};
use crate::engine::types::BundleFile;
use crate::engine::{Engine, EngineError, Stage, default_bundle, read_bundle, source_of};
use crate::signature::unsigned;

/// Largest component file that is read.
const FILE_BYTES_MAX: u64 = 128 << 20;

/// A policy, by where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The bundle that the program carries.
    Default,
    /// A folder that holds a bundle.
    Folder(PathBuf),
    /// A file that holds a component.
    File(PathBuf),
}

/// A policy, as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Policy {
    /// The text of a bundle.
    Bundle(Vec<BundleFile>),
    /// A component.
    Component(Arc<[u8]>),
}

impl Source {
    /// The policy that somebody names: `default`, a folder or a file.
    #[must_use]
    pub fn named(name: &Path) -> Self {
        match name.to_str() {
            Some("default") => Self::Default,
            _ if name.is_dir() => Self::Folder(name.to_owned()),
            _ => Self::File(name.to_owned()),
        }
    }

    /// The folder, where it is one: what places in its files are told relative to.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        match self {
            Self::Folder(path) => Some(path),
            Self::Default | Self::File(_) => None,
        }
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`EngineError::Unreadable`] when it is not there, or larger than any policy is.
    pub fn read(&self) -> Result<Policy, EngineError> {
        match self {
            Self::Default => Ok(Policy::Bundle(default_bundle())),
            Self::Folder(path) => read_bundle(path).map(Policy::Bundle),
            Self::File(path) => read_file(path).map(|bytes| Policy::Component(bytes.into())),
        }
    }
}

impl Policy {
    /// The text of its bundle: of a component, what it says that it was made of. None where it says nothing.
    ///
    /// # Errors
    /// When the bytes are no component, or what they say is no bundle.
    pub fn files(&self) -> Result<Option<Vec<BundleFile>>, EngineError> {
        match self {
            Self::Bundle(files) => Ok(Some(files.clone())),
            Self::Component(bytes) => source_of(bytes),
        }
    }
}

/// A bundle that was read and holds together.
#[derive(Debug)]
pub struct Bundle {
    /// As it was named.
    pub name: String,
    pub(super) files: Vec<BundleFile>,
    pub(super) policy: policy_core::Policy,
}

impl Bundle {
    /// Reads and loads the text of the policy that somebody names.
    ///
    /// # Errors
    /// When it cannot be read, has problems, or is a component that does not say what it was made of.
    pub fn named(name: &Path) -> Result<Self, EngineError> {
        let files = Source::named(name).read()?.files()?;
        let files = files.ok_or_else(|| EngineError::Source("it carries none".to_owned()))?;
        Self::load(name.display().to_string(), files)
    }

    /// Loads the text of a component, if this program makes the very same component of it: what a file says of itself is
    /// worth nothing else. A signature is set aside.
    ///
    /// # Errors
    /// When it carries no text, or is not made of it; the latter also where another version of this program made it.
    pub fn made_into(
        component: &[u8],
        name: String,
        engine: &Engine,
        stage: &dyn Fn(Stage),
    ) -> Result<Self, EngineError> {
        let component = unsigned(component);
        let files = source_of(component)?.ok_or_else(|| EngineError::Source("it carries none".to_owned()))?;
        if engine.build_bundle(&files, stage)? != component {
            let why = "the component is not what this program makes of it";
            return Err(EngineError::Source(why.to_owned()));
        }
        Self::load(name, files)
    }

    /// Loads files that were read already.
    ///
    /// # Errors
    /// All that is wrong with the bundle.
    pub fn load(name: String, files: Vec<BundleFile>) -> Result<Self, EngineError> {
        let policy = policy_core::Policy::load(&core_files(&files));
        let policy = policy.map_err(|found| EngineError::Bundle(found.into_iter().map(problem).collect()))?;
        Ok(Self { name, files, policy })
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>, EngineError> {
    let unreadable = |source| EngineError::Unreadable { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)).map_err(unreadable)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > FILE_BYTES_MAX) {
        return Err(unreadable(io::Error::new(io::ErrorKind::FileTooLarge, "a component file has at most 128 MiB")));
    }
    Ok(bytes)
}
