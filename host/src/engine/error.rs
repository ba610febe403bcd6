//! What can go wrong between a request and its decision.

use std::io;
use std::path::{Path, PathBuf};

use wasmtime::{PoolConcurrencyLimitError, Trap};

use super::cage::Breach;
use super::types::Problem;

/// Why the engine has no answer. None of these is ever an allow.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The component trapped.
    #[error("the policy component trapped: {0}")]
    Trap(String),
    /// The component used up its fuel.
    #[error("the policy component used up its fuel")]
    OutOfFuel,
    /// The component ran into its deadline.
    #[error("the policy component ran into its deadline")]
    Deadline,
    /// The component asked for more memory, tables or instances than it may have.
    #[error("the policy component asked for more than its cage allows: {0}")]
    OutOfMemory(String),
    /// The component answered something that is no answer.
    #[error("the policy component answered garbage: {0}")]
    Garbage(String),
    /// The request is larger than any policy is asked about.
    #[error("the request has {bytes} bytes of text, at most {bytes_max} are decided")]
    TooLarge {
        /// Size of the request.
        bytes: usize,
        /// The most that is decided.
        bytes_max: usize,
    },
    /// The component imports something, so it is not pure.
    #[error("the component imports {}; a policy component imports nothing", .0.join(", "))]
    Imports(Vec<String>),
    /// The bytes are not a component, or not one that this engine runs.
    #[error("not a component: {0}")]
    NotAComponent(String),
    /// The component does not export the world `policy`.
    #[error("the component is not of world `portreeve:policy/policy`: {0}")]
    WrongWorld(String),
    /// The component carries no bundle, or refuses to say which.
    #[error("the component does not describe itself: {0}")]
    Undescribed(String),
    /// What a component carries as its source is no bundle.
    #[error("the text that the component carries cannot be used: {0}")]
    Source(String),
    /// The bundle has problems.
    #[error("the bundle has {} problem(s); first: {}", .0.len(), first_problem(.0))]
    Bundle(Vec<Problem>),
    /// A bundle's folder could not be read.
    #[error("cannot read the bundle at `{}`: {source}", path.display())]
    Unreadable {
        /// Which file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The cache folder cannot be used.
    #[error("cannot use the cache at `{}`: {source}", path.display())]
    Cache {
        /// Which file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Too many decisions at once.
    #[error("too many decisions at once")]
    Overloaded,
    /// This machine cannot run the engine as configured.
    #[error("the engine does not start: {0}")]
    Unsupported(String),
}

impl EngineError {
    /// A stable code for logs, metrics and answers.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Trap(_) => "trap",
            Self::OutOfFuel => "out_of_fuel",
            Self::Deadline => "deadline",
            Self::OutOfMemory(_) => "out_of_memory",
            Self::Garbage(_) => "garbage",
            Self::TooLarge { .. } => "too_large",
            Self::Imports(_) => "imports",
            Self::NotAComponent(_) => "not_a_component",
            Self::WrongWorld(_) => "wrong_world",
            Self::Undescribed(_) => "undescribed",
            Self::Source(_) => "source",
            Self::Bundle(_) => "bundle",
            Self::Unreadable { .. } => "unreadable",
            Self::Cache { .. } => "cache",
            Self::Overloaded => "overloaded",
            Self::Unsupported(_) => "unsupported",
        }
    }

    pub(super) fn cache(path: &Path, source: io::Error) -> Self {
        Self::Cache { path: path.to_owned(), source }
    }

    pub(super) fn garbage(what: impl Into<String>) -> Self {
        Self::Garbage(what.into())
    }

    /// What a failed call of the component means.
    ///
    /// Whatever is neither a trap nor a breach of the cage came up while the
    /// answer was lifted out of the component's memory: the answer is garbage.
    pub(super) fn from_call(error: &wasmtime::Error) -> Self {
        if let Some(breach) = error.downcast_ref::<Breach>() {
            return Self::OutOfMemory(breach.to_string());
        }
        if error.is::<PoolConcurrencyLimitError>() {
            return Self::Overloaded;
        }
        match error.downcast_ref::<Trap>() {
            Some(Trap::OutOfFuel) => Self::OutOfFuel,
            Some(Trap::Interrupt) => Self::Deadline,
            Some(
                Trap::StringOutOfBounds
                | Trap::ListOutOfBounds
                | Trap::InvalidDiscriminant
                | Trap::InvalidChar
                | Trap::UnalignedPointer,
            )
            | None => Self::Garbage(short(&error.root_cause().to_string())),
            Some(trap) => Self::Trap(short(&trap.to_string())),
        }
    }
}

fn first_problem(problems: &[Problem]) -> String {
    problems.first().map_or_else(|| "none given".to_owned(), ToString::to_string)
}

/// The first line of a message, at most 200 characters of it.
pub(super) fn short(message: &str) -> String {
    message.lines().next().unwrap_or_default().chars().take(200).collect()
}
