//! Where state lives. Only this module speaks SQL, and only it commits.
//!
//! A write takes a [`Permit`](crate::gate::Permit) by value and writes its audit
//! row in the same transaction; reads go through a [`View`], which has no write
//! methods. Two backends behave alike: an embedded one ([`sqlite`]), and one for
//! several hosts ([`postgres`]), where the database checks the decision itself.

pub mod audit;
mod kept;
mod moves;
pub mod postgres;
pub mod sqlite;
mod view;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use tokio::sync::broadcast;

use crate::clock::{SharedClock, Time};
use crate::command::action::Wakes;
use crate::error::{Denial, Error};
use crate::gate::{Permit, Refusal};
use audit::Outcome;

pub use kept::{Activation, Claims, Seen, ShadowChoice, StoredComponent, StoredLock, StoredTask};
pub use moves::{Abandoned, Moved, Progress, Step, abandon, move_store};
pub use view::View;

/// Which store.
#[derive(Debug, Clone)]
pub enum Location {
    /// The embedded one, in this file.
    File(PathBuf),
    /// A PostgreSQL database.
    Postgres(postgres::Options),
}

impl std::fmt::Display for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Postgres(options) => write!(f, "{options}"),
        }
    }
}

/// What a command does to the store, on either backend.
pub trait Apply: sqlite::Apply + postgres::Call {}

impl<C: sqlite::Apply + postgres::Call> Apply for C {}

/// The store.
#[derive(Debug, Clone)]
pub struct Store {
    view: View,
    location: Location,
    writer: Writer,
    /// That a move closed the store is told to each caller, and to the log once.
    closed: Arc<AtomicBool>,
}

#[derive(Debug, Clone)]
enum Writer {
    Sqlite(sqlite::Store),
    Postgres(postgres::Store),
}

impl Store {
    /// Opens a store. An embedded one is made when there is none, and migrated when it is older; a database is prepared
    /// by `portreeve migrate`, and refused when it is not of this program's schema.
    ///
    /// # Errors
    /// When it cannot be opened, is damaged, is another program's, or is newer than this program.
    pub async fn open(location: Location, clock: SharedClock) -> Result<Self, StoreError> {
        let (view, writer) = match &location {
            Location::File(path) => {
                let store = sqlite::Store::open(path, clock).await?;
                (View::Sqlite(store.view().clone()), Writer::Sqlite(store))
            }
            Location::Postgres(options) => {
                let store = postgres::Store::open(options, clock).await?;
                (View::Postgres(store.view().clone()), Writer::Postgres(store))
            }
        };
        Ok(Self { view, location, writer, closed: Arc::default() })
    }

    /// The store without its write methods.
    #[must_use]
    pub const fn view(&self) -> &View {
        &self.view
    }

    /// Which store it is.
    #[must_use]
    pub const fn location(&self) -> &Location {
        &self.location
    }

    /// Makes a permitted change: state, violations and audit row in one transaction, or none of them.
    ///
    /// # Errors
    /// When facts or policy moved since the decision, the state stands against the
    /// input, an obligation stands against it, or the database failed.
    pub async fn commit<C: Apply>(
        &self,
        permit: Permit<C>,
        command: C,
        idempotency: Option<IdempotencyKey>,
    ) -> Result<Committed<C::Output>, CommitError> {
        self.noted(match &self.writer {
            Writer::Sqlite(store) => store.commit(permit, command, idempotency).await,
            Writer::Postgres(store) => store.commit(permit, command, idempotency).await,
        })
    }

    /// Records a decision that was not an allowance.
    ///
    /// # Errors
    /// [`CommitError::Stale`] when facts or policy moved since; it has to be decided again. When the database failed;
    /// then nobody may be told that it was recorded.
    pub async fn record(&self, refusal: Refusal) -> Result<(), CommitError> {
        self.noted(match &self.writer {
            Writer::Sqlite(store) => store.record(refusal).await,
            Writer::Postgres(store) => store.record(refusal).await,
        })
    }

    /// Records what was allowed and then changed nothing: a question and how its answer ended, or a command whose input
    /// turned out bad.
    ///
    /// # Errors
    /// As [`Self::commit`]; then the answer must not be given.
    pub async fn answered<Q: Send + 'static>(
        &self,
        permit: Permit<Q>,
        ended: Outcome,
        summary: Value,
    ) -> Result<(), CommitError> {
        self.noted(match &self.writer {
            Writer::Sqlite(store) => store.answered(permit, ended, summary).await,
            Writer::Postgres(store) => store.answered(permit, ended, summary).await,
        })
    }

    /// Whether the database answers, and takes changes.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ping(&self) -> Result<(), StoreError> {
        match &self.writer {
            Writer::Sqlite(store) => store.ping().await,
            Writer::Postgres(store) => store.ping().await,
        }
    }

    /// Finishes what waits to be written and closes the database.
    pub async fn close(&self) {
        match &self.writer {
            Writer::Sqlite(store) => store.close().await,
            Writer::Postgres(store) => store.close().await,
        }
    }

    /// Tells the log that a move closed the store when that is first met, and again only once it was open meanwhile.
    fn noted<T>(&self, result: Result<T, CommitError>) -> Result<T, CommitError> {
        match &result {
            Err(CommitError::Store(error))
                if error.closed().is_some() && !self.closed.swap(true, Ordering::Relaxed) =>
            {
                tracing::error!(error = %error, "nothing is changed any more; every request is told so");
            }
            Ok(_) if self.closed.load(Ordering::Relaxed) => self.closed.store(false, Ordering::Relaxed),
            _ => {}
        }
        result
    }

    /// Tells other hosts on the same database what a commit may have set free. Nobody relies on it.
    pub(crate) fn tell(&self, wakes: &Wakes) {
        if let Writer::Postgres(store) = &self.writer {
            store.tell(wakes.clone());
        }
    }

    /// What other hosts' commits may have set free; none where there are no other hosts.
    pub(crate) fn listen(&self) -> Option<broadcast::Receiver<Wakes>> {
        match &self.writer {
            Writer::Sqlite(_) => None,
            Writer::Postgres(store) => Some(store.listen()),
        }
    }
}

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
    /// The database was not yet migrated for this program.
    #[error("the database has schema version {found}, this program needs {known}; run `portreeve migrate`")]
    Older {
        /// The version in the database.
        found: i64,
        /// The version that this program needs.
        known: i64,
    },
    /// The database holds nothing of this program's.
    #[error("the database was not prepared for this program; run `portreeve migrate`")]
    Unprepared,
    /// A migration failed, and left nothing.
    #[error("migration {version} `{name}` failed and left nothing: {cause}")]
    Migration {
        /// Which migration.
        version: i64,
        /// Its name.
        name: String,
        /// What the database says.
        cause: String,
    },
    /// The text is no URL of a database.
    #[error("this is not the URL of a PostgreSQL database: {why}")]
    Url {
        /// What is wrong with it. The URL may hold a password, and is not repeated.
        why: String,
    },
    /// The server cannot be reached, or lets nobody in.
    #[error("cannot connect to the database at `{place}`: {cause}")]
    Unreachable {
        /// Where it should be.
        place: String,
        /// Why.
        cause: String,
    },
    /// The server cannot be trusted: its certificate is not to be believed, or it takes no TLS.
    #[error("the database at `{place}` cannot be connected to safely: {cause}")]
    Untrusted {
        /// Where it should be.
        place: String,
        /// Why.
        cause: String,
    },
    /// The server lets nobody in without TLS.
    #[error("the database at `{place}` lets this user in only over TLS, or not from here: {cause}")]
    Unencrypted {
        /// Where it is.
        place: String,
        /// What it says.
        cause: String,
    },
    /// The server's version lacks what the schema needs.
    #[error("the server is PostgreSQL {found}; this program needs {needed} or later")]
    OldServer {
        /// Its major version.
        found: i32,
        /// The oldest that will do.
        needed: i32,
    },
    /// The role could pass the functions that hold changes to their decisions.
    #[error("the role `{role}` {may}; the service does not run as such a role")]
    Privileged {
        /// The role.
        role: String,
        /// What it may do.
        may: &'static str,
    },
    /// The role may not do what the owner of the tables may.
    #[error("the role `{role}` may not act as portreeve_owner")]
    NotOwner {
        /// The role.
        role: String,
    },
    /// The store in the file moves to a database, or moved there. Callers are told this one.
    #[error("{}", moved(*.is_finished, *.since))]
    Moved {
        /// All of it is there.
        is_finished: bool,
        /// When the file was closed.
        since: Time,
    },
    /// The database holds a part of a store that moves there. Callers are told this one.
    #[error("a store is moving to this database since {since}, and the move is not finished")]
    HalfMoved {
        /// When the move began.
        since: Time,
    },
    /// A migration or a move of another program goes on.
    #[error("another `portreeve migrate` or `migrate-store` is at work on this database")]
    AtWork,
    /// The file's store is moving to another database than this one.
    #[error("the store is moving to another database than the one that is named")]
    OtherMove,
    /// The log's last row has a number that the server has yet to give.
    #[error("the database comes from a server that was further: its log would not go on behind its last row")]
    Restored,
    /// A store moves only to a database in which there is nothing yet.
    #[error("the database is not empty: it was served before, or holds another store or a part of one")]
    NotEmpty,
    /// A row of the log is not what its hash says, or does not follow the one before it.
    #[error("row {seq} of the audit log is missing, or is not what was written; nothing moves that does not verify")]
    Unverified {
        /// Its position.
        seq: i64,
    },
    /// A row of the log that was read back is not the one that was sent.
    #[error("row {seq} of the audit log is another in the database than in the file; the move is not finished")]
    Unequal {
        /// Its position.
        seq: i64,
    },
    /// A table has other rows than it should have after a move.
    #[error("the table `{table}` does not have as many rows in the database as in the file; the move is not finished")]
    Incomplete {
        /// The table.
        table: &'static str,
    },
    /// The role is not the service's.
    #[error("the role `{role}` is not a member of portreeve_app")]
    NotApp {
        /// The role.
        role: String,
    },
    /// A function of the database is not the one that this program calls.
    #[error("the database's function `{name}` is not what this program calls: {why}")]
    Function {
        /// The function.
        name: String,
        /// The difference.
        why: String,
    },
    /// What stands in the database is not what this program's migrations make.
    #[error("the database is not as this program's migrations made it: {what}")]
    Objects {
        /// The first few differences.
        what: String,
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

fn moved(is_finished: bool, since: Time) -> String {
    if is_finished {
        format!("the store moved to another database, which is served in its place: this one is closed since {since}")
    } else {
        format!("the store is moving to another database, and that is not finished: this one is closed since {since}")
    }
}

impl StoreError {
    /// As what a caller is told of a move that closed the store; none for other errors, whose text is for the log.
    #[must_use]
    pub fn closed(&self) -> Option<Error> {
        let reason = match self {
            Self::Moved { is_finished: true, .. } => "store_moved",
            Self::Moved { is_finished: false, .. } | Self::HalfMoved { .. } => "store_moving",
            _ => return None,
        };
        Some(Error::StoreMoves { reason, detail: self.to_string() })
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.to_string())
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        error.closed().unwrap_or_else(|| {
            tracing::error!(error = %error, "the store failed");
            Self::StorageUnavailable
        })
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
    Limit(Box<Denial>),
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
