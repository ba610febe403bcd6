//! Where state lives. Only this module speaks SQL, and only it commits.
//!
//! A write takes a [`Permit`](crate::gate::Permit) by value and writes its audit
//! row in the same transaction; reads go through a [`View`], which has no write
//! methods and a connection that the database itself holds read-only.

pub mod audit;
pub mod sqlite;

use crate::error::{Denial, Error};

pub use sqlite::{Activation, Apply, Store, View};

/// Why the store could not do its work. The text is for the log, never for a caller.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The database answered with an error.
    #[error("database error: {0}")]
    Database(String),
    /// The data folder or file cannot be used.
    #[error("cannot open the store at `{path}`: {cause}")]
    Open {
        /// Which file.
        path: String,
        /// Why.
        cause: String,
    },
    /// The database was written by a newer version of this program.
    #[error("the store has schema version {found}, this program knows up to {known}; run the newer program")]
    Newer {
        /// The version in the file.
        found: i64,
        /// The last version that this program knows.
        known: i64,
    },
    /// A migration that was applied is not the one that this program carries.
    #[error("migration {version} `{name}` was applied with other contents; the store is not one of this program's")]
    Edited {
        /// Which migration.
        version: i64,
        /// Its name.
        name: String,
    },
    /// The file is there, but is not what this program wrote.
    #[error("the store is damaged: {0}")]
    Damaged(&'static str),
    /// Another process held the write lock for too long, or too many mutations wait.
    #[error("the store is busy")]
    Busy,
    /// The writer has stopped.
    #[error("the store is closed")]
    Closed,
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.to_string())
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        tracing::error!(error = %error, "the store failed");
        Self::StorageUnavailable
    }
}

/// A repeatable request: the caller's key and what the request was.
#[derive(Debug, Clone)]
pub struct IdempotencyKey {
    /// As the caller sent it.
    pub key: String,
    /// SHA-256 of the command and its parameters.
    pub request_hash: Vec<u8>,
}

/// A first answer that a repeat gets again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirstAnswer {
    /// HTTP status.
    pub status: u16,
    /// The body, as JSON text.
    pub body: String,
}

/// What a commit came to.
#[derive(Debug)]
pub enum Committed<T> {
    /// The change was made now.
    Done(T),
    /// The same request was answered before; nothing changed.
    Replayed(FirstAnswer),
}

/// Why a permitted write did not commit.
#[derive(Debug)]
pub enum CommitError {
    /// Facts or epoch are no longer those of the decision: decide again.
    Stale,
    /// The input turned out bad against the state; audited as failed.
    Invalid(Error),
    /// An obligation of the decision stood against it; audited as denied.
    Limit(Denial),
    /// The store failed; nothing happened.
    Store(StoreError),
}

impl From<StoreError> for CommitError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// What a query found, cut at its limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// The entries.
    pub items: Vec<T>,
    /// Whether there are more.
    pub truncated: bool,
}

impl<T> Page<T> {
    /// Cuts a list that was read one longer than its limit.
    #[must_use]
    pub fn cut(mut items: Vec<T>, limit: i64) -> Self {
        let limit = usize::try_from(limit).unwrap_or(0);
        let truncated = items.len() > limit;
        items.truncate(limit);
        Self { items, truncated }
    }
}
