//! A permitted mutation, or a refusal to be recorded, on its way through the writer.

use std::panic::AssertUnwindSafe;

use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::{Value, json};
use sqlx::Row;
use tokio::sync::oneshot;

use super::rows;
use super::tx::{Apply, Rejected, Tx};
use super::writer::{Batch, Job};
use crate::command::action::Command;
use crate::crash;
use crate::error::{Denial, Error};
use crate::gate::{Evidence, Permit, Refusal};
use crate::store::audit::{AuditRow, Change, Outcome};
use crate::store::{CommitError, Committed, FirstAnswer, IdempotencyKey, StoreError, moves};

/// How long a first answer is kept for repeats.
const IDEMPOTENCY_HOURS: i64 = 24;

type Reply<T> = oneshot::Sender<Result<T, CommitError>>;

/// A write with its permit.
pub(super) struct CommitJob<C: Command> {
    pub(super) permit: Permit<C>,
    pub(super) command: Option<C>,
    pub(super) idempotency: Option<IdempotencyKey>,
    pub(super) reply: Reply<Committed<C::Output>>,
    pub(super) outcome: Option<Result<Committed<C::Output>, CommitError>>,
}

impl<C: Apply> Job for CommitJob<C> {
    fn run<'a>(&'a mut self, batch: &'a mut Batch<'_>) -> BoxFuture<'a, Result<(), sqlx::Error>> {
        Box::pin(async move {
            let Some(command) = self.command.take() else { return Ok(()) };
            // A panic in one mutation must not take the others, or the writer, with it.
            let attempt = AssertUnwindSafe(attempt(batch, &self.permit, command, self.idempotency.as_ref()));
            let outcome = attempt
                .catch_unwind()
                .await
                .unwrap_or_else(|_| Err(Rejected::Sql(sqlx::Error::Protocol("a mutation panicked".to_owned()))));
            self.outcome = Some(match outcome {
                Ok(committed) => Ok(committed),
                Err(rejected) => Err(reject(batch, self.permit.evidence(), rejected).await?),
            });
            release(batch).await
        })
    }

    fn settle(self: Box<Self>, committed: Result<(), StoreError>) {
        let Self { outcome, reply, .. } = *self;
        let outcome = outcome.unwrap_or(Err(CommitError::Store(StoreError::Closed)));
        // A caller that went away is no failure: the change is committed and audited.
        drop(reply.send(committed.map_err(CommitError::from).and(outcome)));
    }
}

/// A refusal without effect; like a write, only while facts and epoch stand.
///
/// DENY: it holds no permit, so there is nothing that it could change but the log.
pub(super) struct RefusalJob {
    pub(super) refusal: Refusal,
    pub(super) reply: Reply<()>,
    pub(super) outcome: Option<Result<(), CommitError>>,
}

impl Job for RefusalJob {
    fn run<'a>(&'a mut self, batch: &'a mut Batch<'_>) -> BoxFuture<'a, Result<(), sqlx::Error>> {
        Box::pin(async move {
            savepoint(batch).await?;
            let evidence = self.refusal.evidence();
            // Nobody is refused for what they were before.
            self.outcome = Some(match check_still_decided(batch, evidence, None).await {
                Ok(()) => Ok(write_audit(batch, evidence, Outcome::Denied, &Value::Null, &[]).await?),
                Err(rejected) => Err(reject(batch, evidence, rejected).await?),
            });
            release(batch).await
        })
    }

    fn settle(self: Box<Self>, committed: Result<(), StoreError>) {
        let Self { outcome, reply, .. } = *self;
        let outcome = outcome.unwrap_or(Err(CommitError::Store(StoreError::Closed)));
        drop(reply.send(committed.map_err(CommitError::from).and(outcome)));
    }
}

/// A question that was answered, to be recorded; like a write, only while facts and epoch stand.
pub(super) struct AnswerJob<Q> {
    pub(super) permit: Permit<Q>,
    /// What became of it, for the row.
    pub(super) ended: Outcome,
    pub(super) summary: Value,
    pub(super) reply: Reply<()>,
    pub(super) outcome: Option<Result<(), CommitError>>,
}

impl<Q: Send + 'static> Job for AnswerJob<Q> {
    fn run<'a>(&'a mut self, batch: &'a mut Batch<'_>) -> BoxFuture<'a, Result<(), sqlx::Error>> {
        Box::pin(async move {
            savepoint(batch).await?;
            let evidence = self.permit.evidence();
            let checked = check_still_decided(batch, evidence, self.permit.obligations().max_calls_per_minute).await;
            self.outcome = Some(match checked {
                Ok(()) => Ok(write_audit(batch, evidence, self.ended, &self.summary, &[]).await?),
                Err(rejected) => Err(reject(batch, evidence, rejected).await?),
            });
            release(batch).await
        })
    }

    fn settle(self: Box<Self>, committed: Result<(), StoreError>) {
        let Self { outcome, reply, .. } = *self;
        let outcome = outcome.unwrap_or(Err(CommitError::Store(StoreError::Closed)));
        drop(reply.send(committed.map_err(CommitError::from).and(outcome)));
    }
}

async fn savepoint(batch: &mut Batch<'_>) -> Result<(), sqlx::Error> {
    sqlx::query("SAVEPOINT mutation").execute(&mut *batch.conn).await?;
    crash::point!("sqlite.savepoint-opened");
    Ok(())
}

async fn release(batch: &mut Batch<'_>) -> Result<(), sqlx::Error> {
    sqlx::query("RELEASE mutation").execute(&mut *batch.conn).await?;
    crash::point!("sqlite.savepoint-released");
    Ok(())
}

/// One mutation under its savepoint, which stays open for [`reject`] or [`release`].
async fn attempt<C: Apply>(
    batch: &mut Batch<'_>,
    permit: &Permit<C>,
    command: C,
    idempotency: Option<&IdempotencyKey>,
) -> Result<Committed<C::Output>, Rejected> {
    savepoint(batch).await?;
    let evidence = permit.evidence();
    check_still_decided(batch, evidence, permit.obligations().max_calls_per_minute).await?;
    crash::point!("sqlite.decision-stands");
    let first = first_answer(batch, evidence, idempotency).await?;
    crash::point!("sqlite.first-answer-looked-up");
    if let Some(first) = first {
        let result = json!({"replayed": true, "status": first.status});
        write_audit(batch, evidence, Outcome::Replayed, &result, &[]).await?;
        return Ok(Committed::Replayed(first));
    }
    // The first answer expired since the gate saw it; nobody has read this request's texts yet.
    if evidence.as_repeat {
        return Err(Rejected::Stale);
    }
    let mut tx = Tx::new(batch.conn, batch.now);
    let output = command.apply(&mut tx, permit).await?;
    let changes = tx.into_changes();
    crash::point!("sqlite.transition-applied");
    let stored = without_secrets::<C>(&output)?;
    let outcome = if C::is_refused(&output) { Outcome::Refused } else { Outcome::Ok };
    write_audit(batch, evidence, outcome, &stored, &changes).await?;
    if let Some(key) = idempotency.filter(|_| C::is_answer(&output)) {
        rows::idempotency_insert(batch.conn, evidence, key, 200, &stored.to_string(), batch.now).await?;
        crash::point!("sqlite.answer-kept");
    }
    Ok(Committed::Done(output))
}

fn without_secrets<C: Command>(output: &C::Output) -> Result<Value, Rejected> {
    let mut value = serde_json::to_value(output)
        .map_err(|e| Rejected::Sql(sqlx::Error::Protocol(format!("an answer does not serialise: {e}"))))?;
    if let Some(map) = value.as_object_mut() {
        for secret in C::SECRETS {
            map.insert((*secret).to_owned(), Value::Null);
        }
    }
    Ok(value)
}

/// Facts, epoch and rate as the decision saw them, checked inside the transaction.
///
/// REVOKE: what was acknowledged before this transaction is seen by it, so nothing commits that was decided before.
async fn check_still_decided(
    batch: &mut Batch<'_>,
    evidence: &Evidence,
    calls_per_minute: Option<u32>,
) -> Result<(), Rejected> {
    let agent_id = evidence.who.agent_id();
    let now = "SELECT (SELECT facts_version FROM agents WHERE agent_id = ?1) AS facts_version,
                      (SELECT coalesce(max(epoch), 0) FROM activations) AS epoch";
    let row = sqlx::query(now).bind(agent_id).fetch_one(&mut *batch.conn).await?;
    let (facts, epoch): (Option<i64>, i64) = (row.try_get("facts_version")?, row.try_get("epoch")?);
    if facts != Some(evidence.who.facts_version()) || epoch != evidence.epoch {
        return Err(Rejected::Stale);
    }
    // A revoked key moves the facts of its own agent; where the admin's key stands for another, it is looked at itself.
    if let Some(key_id) = evidence.who.admin_key_id() {
        let live = "SELECT EXISTS (SELECT 1 FROM api_keys WHERE key_id = ?1 AND revoked_at IS NULL)";
        if !sqlx::query_scalar::<_, bool>(live).bind(key_id).fetch_one(&mut *batch.conn).await? {
            return Err(Rejected::Stale);
        }
    }
    let Some(most) = calls_per_minute else { return Ok(()) };
    let since = batch.now.plus_seconds(-60).as_micros();
    let recent = "SELECT count(*) FROM audit_log WHERE agent_id = ?1 AND created_at > ?2";
    let calls: i64 = sqlx::query_scalar(recent).bind(agent_id).bind(since).fetch_one(&mut *batch.conn).await?;
    if calls < i64::from(most) {
        return Ok(());
    }
    Err(Rejected::Limit {
        reason: "call_limit_reached",
        detail: format!("the profile allows {most} calls a minute"),
        remedy: "wait a minute, or ask an admin for a profile with a higher limit".to_owned(),
    })
}

async fn first_answer(
    batch: &mut Batch<'_>,
    evidence: &Evidence,
    idempotency: Option<&IdempotencyKey>,
) -> Result<Option<FirstAnswer>, Rejected> {
    let Some(key) = idempotency else { return Ok(None) };
    let agent_id = evidence.who.agent_id();
    let since = batch.now.plus_minutes(-60 * IDEMPOTENCY_HOURS).as_micros();
    rows::idempotency_forget(batch.conn, agent_id, &key.key, since).await?;
    match rows::idempotency_get(batch.conn, agent_id, &key.key).await? {
        None => Ok(None),
        Some((hash, first)) if hash == key.request_hash => Ok(Some(first)),
        Some(_) => Err(Rejected::Invalid(Error::field(
            "Idempotency-Key",
            "idempotency_key_reused",
            "this Idempotency-Key was used for another request within 24 hours; take a new one",
        ))),
    }
}

/// Rolls the mutation back and records that it failed. An error here rolls the whole batch back.
async fn reject(batch: &mut Batch<'_>, evidence: &Evidence, rejected: Rejected) -> Result<CommitError, sqlx::Error> {
    sqlx::query("ROLLBACK TO mutation").execute(&mut *batch.conn).await?;
    crash::point!("sqlite.savepoint-rolled-back");
    batch.next_seq = rows::next_seq(batch.conn).await?;
    let (outcome, result, error) = match rejected {
        // Nothing is recorded in a file that moves.
        Rejected::Sql(error) if moves::closes(&error) => return Err(error),
        Rejected::Stale => (Outcome::Failed, json!({"error": "stale_decision"}), CommitError::Stale),
        Rejected::Invalid(error) => (Outcome::Failed, error.body(), CommitError::Invalid(error)),
        Rejected::Limit { reason, detail, remedy } => {
            let denial = Denial {
                reason: reason.to_owned(),
                detail,
                remedy,
                decision_id: evidence.decision_id.clone(),
                component: evidence.component.clone(),
                epoch: evidence.epoch,
                network_rule: None,
            };
            let result = json!({"reason": denial.reason, "detail": denial.detail});
            (Outcome::Denied, result, CommitError::Limit(Box::new(denial)))
        }
        Rejected::Sql(error) => {
            tracing::error!(error = %error, command = evidence.command, "a mutation failed and was rolled back");
            (Outcome::Failed, json!({"error": "storage_unavailable"}), CommitError::Store(StoreError::from(error)))
        }
    };
    write_audit(batch, evidence, outcome, &result, &[]).await?;
    Ok(error)
}

async fn write_audit(
    batch: &mut Batch<'_>,
    evidence: &Evidence,
    outcome: Outcome,
    result: &Value,
    changes: &[Change],
) -> Result<(), sqlx::Error> {
    let row = AuditRow::new(batch.next_seq, batch.now, evidence, outcome, result, changes);
    rows::audit_insert(batch.conn, &row).await?;
    crash::point!("sqlite.audit-written");
    rows::violations_insert(batch.conn, evidence, batch.now).await?;
    crash::point!("sqlite.violations-written");
    batch.next_seq = batch.next_seq.saturating_add(1);
    Ok(())
}
