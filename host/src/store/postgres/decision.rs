//! The decision as the first argument of every function of the database.

use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use sqlx::{Postgres, query};

use crate::clock::Time;
use crate::engine::types::Obligations;
use crate::gate::Evidence;
use crate::store::IdempotencyKey;
use crate::store::audit::{AuditRow, Outcome};

/// A statement with the arguments that it has so far.
pub type Args<'q> = Query<'q, Postgres, PgArguments>;

/// The text of the first argument: `$1` to `$31`, in the order of the fields of the type `decision`.
macro_rules! decision {
    () => {
        "ROW($1::uuid, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, \
         $23, $24::uuid, $25, $26, $27, $28, $29, $30, $31)::portreeve.decision"
    };
}

/// The text of a call of a function with a decision and further arguments, which begin at `$32`.
macro_rules! call {
    ($function:literal) => {
        concat!(
            "SELECT verdict, body FROM portreeve.",
            $function,
            "(",
            $crate::store::postgres::decision::decision!(),
            ")"
        )
    };
    ($function:literal, $arguments:literal) => {
        concat!(
            "SELECT verdict, body FROM portreeve.",
            $function,
            "(",
            $crate::store::postgres::decision::decision!(),
            ", ",
            $arguments,
            ")"
        )
    };
}

pub(super) use {call, decision};

/// What the database is told of a decision.
#[derive(Debug)]
pub(super) struct Decision {
    row: AuditRow,
    as_repeat: bool,
    admin_key_id: Option<String>,
    idempotency: Option<IdempotencyKey>,
    obligations: Obligations,
}

impl Decision {
    pub(super) fn new(evidence: &Evidence, now: Time, idempotency: Option<IdempotencyKey>) -> Self {
        // Its outcome, its changes and its time are the function's to tell.
        let row = AuditRow::new(0, now, evidence, Outcome::Failed, &serde_json::Value::Null, &[]);
        Self {
            row,
            as_repeat: evidence.as_repeat,
            admin_key_id: evidence.who.admin_key_id().map(str::to_owned),
            idempotency,
            obligations: evidence.decision.as_ref().map(|decision| decision.obligations.clone()).unwrap_or_default(),
        }
    }

    /// A statement that begins with this decision.
    pub(super) fn bind<'q>(&self, sql: &'static str) -> Args<'q> {
        let Self { row, as_repeat, admin_key_id, idempotency, obligations } = self;
        query(sql)
            .bind(&row.id)
            .bind(&row.request_id)
            .bind(&row.agent_id)
            .bind(&row.agent_type)
            .bind(&row.profile)
            .bind(row.trust_level)
            .bind(&row.command)
            .bind(&row.operation)
            .bind(&row.resource)
            .bind(&row.parameters)
            .bind(&row.request)
            .bind(&row.decision)
            .bind(&row.reason)
            .bind(&row.detail)
            .bind(&row.engine)
            .bind(&row.deciding)
            .bind(&row.violations)
            .bind(&row.obligations)
            .bind(&row.component)
            .bind(row.epoch)
            .bind(row.facts_version)
            .bind(row.fuel)
            .bind(row.duration_us)
            .bind(admin_key_id)
            .bind(as_repeat)
            .bind(idempotency.as_ref().map(|key| &key.key))
            .bind(idempotency.as_ref().map(|key| &key.request_hash))
            .bind(obligations.max_ttl_minutes.map(i64::from))
            .bind(obligations.max_locks_held.map(i64::from))
            .bind(obligations.max_open_tasks.map(i64::from))
            .bind(obligations.max_calls_per_minute.map(i64::from))
    }
}
