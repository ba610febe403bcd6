//! A mutation as one call of one function: one round trip, one transaction.

use std::time::Duration;

use sqlx::Row;
use sqlx::postgres::{PgDatabaseError, PgRow};

use super::body::{Body, Unreadable};
use super::decision::{Args, Decision};
use super::pool::Pool;
use crate::command::action::Command;
use crate::crash;
use crate::error::{Denial, Error};
use crate::gate::Evidence;
use crate::store::{CommitError, Committed, FirstAnswer, StoreError};

/// What a command does to the store: a function of the database, which has the command's name.
pub trait Call: Command {
    /// The call: the decision, then the command's own arguments from `$32` on.
    const SQL: &'static str;

    /// Binds the command's own arguments.
    fn bind<'q>(&self, args: Args<'q>) -> Args<'q>;

    /// Makes the output of what the function answered.
    ///
    /// # Errors
    /// When the answer is not what this program understands.
    fn read(self, body: &Body) -> Result<Self::Output, Unreadable>;
}

/// How often a transaction is tried that the database asks to try again: a deadlock, a serialization failure.
const TRIES_MAX: u32 = 6;

/// What a function answered.
pub(super) struct Reply {
    verdict: String,
    body: Option<String>,
}

impl Reply {
    fn read(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self { verdict: row.try_get("verdict")?, body: row.try_get("body")? })
    }

    fn body(&self) -> Result<Body, CommitError> {
        Body::parse(self.body.as_deref().unwrap_or_default()).map_err(unreadable)
    }

    /// What became of a decision that changes nothing.
    pub(super) fn recorded(&self, evidence: &Evidence) -> Result<(), CommitError> {
        if self.verdict == "done" { Ok(()) } else { Err(self.refusal(evidence)) }
    }

    /// What became of a mutation.
    pub(super) fn committed<C: Call>(
        &self,
        command: C,
        evidence: &Evidence,
    ) -> Result<Committed<C::Output>, CommitError> {
        match self.verdict.as_str() {
            "done" => command.read(&self.body()?).map(Committed::Done).map_err(unreadable),
            "replayed" => {
                let body = self.body()?;
                let status = u16::try_from(body.int("status").map_err(unreadable)?).unwrap_or(200);
                Ok(Committed::Replayed(FirstAnswer { status, body: body.text("body").map_err(unreadable)? }))
            }
            _ => Err(self.refusal(evidence)),
        }
    }

    fn refusal(&self, evidence: &Evidence) -> CommitError {
        let said = || -> Result<CommitError, CommitError> {
            let body = self.body()?;
            let text = |field| body.text(field).map_err(unreadable);
            Ok(match self.verdict.as_str() {
                "invalid" => CommitError::Invalid(Error::field(&text("field")?, &text("kind")?, text("msg")?)),
                "limit" => CommitError::Limit(Box::new(Denial {
                    reason: text("reason")?,
                    detail: text("detail")?,
                    remedy: text("remedy")?,
                    decision_id: evidence.decision_id.clone(),
                    component: evidence.component.clone(),
                    epoch: evidence.epoch,
                    network_rule: None,
                })),
                _ => unreadable(Unreadable("verdict")),
            })
        };
        if self.verdict == "stale" { CommitError::Stale } else { said().unwrap_or_else(|error| error) }
    }
}

fn unreadable(error: Unreadable) -> CommitError {
    CommitError::Store(StoreError::Database(error.to_string()))
}

/// Runs a statement that begins with a decision, again if the database asks for it. Returns once it is committed.
pub(super) async fn run<'q>(
    pool: &Pool,
    decision: &Decision,
    sql: &'static str,
    arguments: impl Fn(Args<'q>) -> Args<'q>,
) -> Result<Reply, sqlx::Error> {
    let mut tried = 0_u32;
    loop {
        crash::point!("postgres.before-call");
        match pool.fetch_all(arguments(decision.bind(sql))).await {
            Ok(rows) => {
                crash::point!("postgres.call-committed");
                return Reply::read(rows.first().ok_or(sqlx::Error::RowNotFound)?);
            }
            Err(error) if is_retryable(&error) && tried < TRIES_MAX => {
                metrics::counter!("portreeve_store_retries_total").increment(1);
                tried = tried.saturating_add(1);
                crash::point!("postgres.before-retry");
                tokio::time::sleep(backoff(tried)).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Grows with the tries, and differs between those that met.
fn backoff(tried: u32) -> Duration {
    let mut byte = [0_u8; 1];
    // Without randomness all wait alike, which only makes them meet again.
    let [noise] = if getrandom::fill(&mut byte).is_ok() { byte } else { [0] };
    Duration::from_micros(u64::from(tried).saturating_mul(2_000).saturating_add(u64::from(noise).saturating_mul(20)))
}

pub(super) fn code(error: &sqlx::Error) -> Option<&str> {
    match error {
        sqlx::Error::Database(error) => error.try_downcast_ref::<PgDatabaseError>().map(PgDatabaseError::code),
        _ => None,
    }
}

/// Serialization failure and deadlock: the transaction is as if it had not been, and may be run anew.
fn is_retryable(error: &sqlx::Error) -> bool {
    matches!(code(error), Some("40001" | "40P01"))
}
