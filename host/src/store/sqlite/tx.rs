//! One mutation's hold on the open transaction. Only the writer makes one, and only with a permit at hand.

use std::future::Future;

use serde_json::Value;
use sqlx::SqliteConnection;

use crate::clock::Time;
use crate::command::action::Command;
use crate::crash;
use crate::error::Error;
use crate::gate::Permit;
use crate::store::audit::Change;

/// A mutation's hold on the open transaction.
#[derive(Debug)]
pub struct Tx<'c> {
    pub(super) conn: &'c mut SqliteConnection,
    now: Time,
    changes: Vec<Change>,
}

impl<'c> Tx<'c> {
    pub(super) const fn new(conn: &'c mut SqliteConnection, now: Time) -> Self {
        Self { conn, now, changes: Vec::new() }
    }

    /// The time of the transaction.
    #[must_use]
    pub const fn now(&self) -> Time {
        self.now
    }

    /// Notes a state key that changed, for the audit row.
    pub(super) fn changed(&mut self, table: &'static str, key: impl Into<String>, version: impl Into<Value>) {
        self.changes.push(Change { table, key: key.into(), version: version.into() });
        crash::point!("sqlite.key-changed");
    }

    pub(super) fn into_changes(self) -> Vec<Change> {
        self.changes
    }
}

/// What a command does to the store, inside the transaction of its audit row.
pub trait Apply: Command {
    /// Makes the change.
    ///
    /// # Errors
    /// Everything is rolled back, and the audit row says so.
    fn apply(
        self,
        tx: &mut Tx<'_>,
        permit: &Permit<Self>,
    ) -> impl Future<Output = Result<Self::Output, Rejected>> + Send;
}

/// Why a mutation was rolled back.
#[derive(Debug)]
pub enum Rejected {
    /// Facts or epoch are no longer those of the decision.
    Stale,
    /// The input is bad against the state.
    Invalid(Error),
    /// An obligation of the decision stands against it.
    Limit {
        /// The reason code.
        reason: &'static str,
        /// The reason in words.
        detail: String,
        /// What would be allowed, or who can change it.
        remedy: String,
    },
    /// The database failed.
    Sql(sqlx::Error),
}

impl From<sqlx::Error> for Rejected {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}
