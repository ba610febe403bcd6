//! Reading the audit log.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};

use super::action::{Action, Lookout, Query, Subject};
use super::input::{Field, Input, Kind};
use crate::authn::Principal;
use crate::clock::Time;
use crate::engine::types::Target;
use crate::error::Result;
use crate::gate::Permit;
use crate::store::audit::AuditRow;

/// Agents below this trust see their own rows only.
const TRUST_SEES_ALL: i64 = 3;

/// Looks into the audit log, newest first.
#[derive(Debug, Clone)]
pub struct AuditQuery {
    /// Only this agent's rows.
    pub agent_id: Option<String>,
    /// Only this policy operation.
    pub operation: Option<String>,
    /// Only this decision.
    pub decision: Option<String>,
    /// Only rows from this time on.
    pub since: Option<Time>,
    /// Only rows before this time.
    pub until: Option<Time>,
    /// Most entries.
    pub limit: i64,
}

/// A row of the audit log, as it is shown.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[expect(missing_docs, reason = "the columns of the table, described in `store::audit::AuditRow`")]
pub struct AuditEntry {
    pub id: String,
    pub seq: i64,
    pub request_id: String,
    pub agent_id: String,
    pub agent_type: String,
    pub profile: String,
    pub command: String,
    pub operation: String,
    pub resource: String,
    pub parameters: Value,
    pub decision: String,
    pub reason: String,
    pub detail: String,
    pub deciding: Value,
    pub violations: Value,
    pub engine: String,
    pub component: String,
    pub epoch: i64,
    pub trust_level: i64,
    pub outcome: String,
    pub result: Value,
    pub changes: Value,
    pub success: bool,
    pub duration_ms: f64,
    pub created_at: Time,
}

impl AuditEntry {
    /// A row as it is shown.
    ///
    /// # Errors
    /// When a column that holds JSON does not.
    #[expect(clippy::cast_precision_loss, reason = "a duration in microseconds is far below 2^53")]
    pub fn of(row: AuditRow) -> std::result::Result<Self, serde_json::Error> {
        Ok(Self {
            parameters: serde_json::from_str(&row.parameters)?,
            deciding: serde_json::from_str(&row.deciding)?,
            violations: serde_json::from_str(&row.violations)?,
            result: serde_json::from_str(&row.result)?,
            changes: serde_json::from_str(&row.changes)?,
            success: row.outcome == "ok",
            duration_ms: row.duration_us as f64 / 1000.0,
            created_at: Time::from_micros(row.created_at),
            id: row.id,
            seq: row.seq,
            request_id: row.request_id,
            agent_id: row.agent_id,
            agent_type: row.agent_type,
            profile: row.profile,
            command: row.command,
            operation: row.operation,
            resource: row.resource,
            decision: row.decision,
            reason: row.reason,
            detail: row.detail,
            engine: row.engine,
            component: row.component,
            epoch: row.epoch,
            trust_level: row.trust_level,
            outcome: row.outcome,
        })
    }
}

/// Rows of the audit log.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct AuditListing {
    /// The rows, newest first.
    pub entries: Vec<AuditEntry>,
    #[serde(flatten)]
    #[expect(missing_docs, reason = "the same for every list")]
    pub listing: super::Listing,
}

impl Action for AuditQuery {
    const NAME: &'static str = "audit_query";
    const OPERATION: &'static str = "query_audit";
    const INPUT: &'static [Field] = &[
        Field::new("agent_id", Kind::Id, "Only this agent's rows"),
        Field::new("operation", Kind::Text(256), "Only this policy operation"),
        Field::new("since", Kind::Time, "Only rows from this time on"),
        Field::new("until", Kind::Time, "Only rows before this time"),
        Field::new("decision", Kind::Choice(&["allow", "deny", "unavailable"]), "Only this decision"),
        Field::new("limit", Kind::Int(1, 1000), "Most entries in the answer").default(20),
    ];
    type Output = AuditListing;

    fn parse(input: &Input, _who: &Principal) -> Result<Self> {
        Ok(Self {
            agent_id: input.opt_text("agent_id"),
            operation: input.opt_text("operation"),
            decision: input.opt_text("decision"),
            since: input.time("since"),
            until: input.time("until"),
            limit: input.int("limit"),
        })
    }

    async fn subject(&self, _at: Lookout<'_>) -> Result<Subject> {
        Ok(Subject::of(self.resource()))
    }

    fn resource(&self) -> Target {
        Target::AuditLog
    }
}

impl Query for AuditQuery {
    async fn read(&self, at: Lookout<'_>, permit: &Permit<Self>) -> Result<AuditListing> {
        let own = (permit.trust_level() < TRUST_SEES_ALL).then(|| permit.who().agent_id());
        let page = at.view.audit(self, own).await?;
        let listing = super::Listing::of(&page, "narrow it with `since`, `until`, `agent_id` or `operation`");
        Ok(AuditListing { entries: page.items, listing })
    }

    fn audit(output: &AuditListing) -> Value {
        json!({"count": output.entries.len()})
    }
}
