//! One row of the log as a request and what came of it.

use serde::Deserialize;
use serde_json::Value;

use super::instant;
use crate::store::audit::AuditRow;

/// The least trust that may withdraw another's task (class `admin`).
const ADMIN_TRUST: i64 = 3;

const MICROS_A_SECOND: i64 = 1_000_000;
const MICROS_A_MINUTE: i64 = 60 * MICROS_A_SECOND;

/// A row cannot be read as a step.
#[derive(Debug, thiserror::Error)]
#[error("row {seq}: {what}")]
pub struct TraceError {
    /// The row.
    pub seq: i64,
    /// What is wrong with it.
    pub what: String,
}

/// What was asked, in the specification's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Request {
    Acquire {
        key: String,
        until: i64,
    },
    Renew {
        key: String,
        token: i64,
        until: i64,
    },
    Release {
        key: String,
        token: i64,
    },
    ForceRelease {
        key: String,
    },
    Submit {
        task: String,
        deps: Vec<String>,
        max: i64,
        deadline: Option<i64>,
    },
    Claim {
        task: String,
        token: String,
        until: i64,
    },
    Heartbeat {
        task: String,
        token: Option<String>,
        until: i64,
    },
    Complete {
        task: String,
        token: Option<String>,
        success: bool,
    },
    Cancel {
        task: String,
        any: bool,
    },
    Expire,
    /// Of those who gave no sign of life after an instant.
    GiveUp {
        silent_since: i64,
    },
    SetFacts {
        agent: String,
        profile: Option<String>,
        suspended: Option<bool>,
    },
    Activate {
        component: String,
        expected: i64,
    },
    /// A limit of the profile stood against it that the specification does not count.
    Limit,
    /// Nothing that the specification has a word for.
    Other,
}

/// One row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub(super) seq: i64,
    pub(super) at: i64,
    pub(super) agent: String,
    pub(super) profile: String,
    pub(super) trust: i64,
    /// Whether the component was asked: not where somebody named another agent than itself.
    pub(super) is_asked: bool,
    pub(super) verdict: String,
    pub(super) outcome: String,
    pub(super) epoch: i64,
    pub(super) version: i64,
    pub(super) component: String,
    pub(super) cap: Option<i64>,
    /// Whether a lease ends as long after the row as was asked for.
    pub(super) is_as_asked: bool,
    pub(super) request: Request,
    /// Keys of locks with the token that holds now; 0 for none.
    pub(super) keys: Vec<(String, i64)>,
    pub(super) tasks: Vec<(String, String, i64)>,
    pub(super) agents: Vec<(String, i64)>,
    pub(super) epochs: Vec<i64>,
}

#[derive(Deserialize)]
struct Change {
    table: String,
    key: String,
    version: Value,
}

/// The parts of a row that are JSON.
struct Parts {
    seq: i64,
    parameters: Value,
    result: Value,
    obligations: Value,
    changes: Vec<Change>,
}

impl Parts {
    fn of(row: &AuditRow) -> Result<Self, TraceError> {
        let wrong = |part: &str, error: serde_json::Error| TraceError {
            seq: row.seq,
            what: format!("its {part} are no such JSON: {error}"),
        };
        let value = |part: &'static str, text: &str| serde_json::from_str(text).map_err(|error| wrong(part, error));
        Ok(Self {
            seq: row.seq,
            parameters: value("parameters", &row.parameters)?,
            result: value("results", &row.result)?,
            obligations: value("obligations", &row.obligations)?,
            changes: serde_json::from_str(&row.changes).map_err(|error| wrong("changes", error))?,
        })
    }

    fn missing(&self, what: &str) -> TraceError {
        TraceError { seq: self.seq, what: format!("it does not say {what}") }
    }

    fn text(&self, name: &str) -> Result<String, TraceError> {
        let value = self.parameters.get(name).or_else(|| self.result.get(name));
        value.and_then(Value::as_str).map(str::to_owned).ok_or_else(|| self.missing(name))
    }

    fn opt_text(&self, name: &str) -> Option<String> {
        self.parameters.get(name).and_then(Value::as_str).map(str::to_owned)
    }

    /// Until when a lease was given; of no matter where none was.
    fn until(&self, name: &str, is_done: bool) -> Result<i64, TraceError> {
        match instant(self.result.get(name)) {
            Some(until) => Ok(until),
            None if is_done => Err(self.missing(name)),
            None => Ok(0),
        }
    }

    fn changed<'a>(&'a self, table: &'a str) -> impl Iterator<Item = &'a Change> {
        self.changes.iter().filter(move |change| change.table == table)
    }
}

impl Step {
    pub(super) fn of(row: &AuditRow) -> Result<Self, TraceError> {
        let parts = Parts::of(row)?;
        let is_stale =
            row.outcome == "failed" && parts.result.get("error").and_then(Value::as_str) == Some("stale_decision");
        let outcome = if is_stale { "stale".to_owned() } else { row.outcome.clone() };
        Ok(Self {
            seq: row.seq,
            at: row.created_at,
            agent: row.agent_id.clone(),
            profile: row.profile.clone(),
            trust: row.trust_level,
            is_asked: row.engine != "host",
            verdict: row.decision.clone(),
            outcome,
            epoch: row.epoch,
            version: row.facts_version,
            component: row.component.clone(),
            cap: parts.obligations.get("max_locks_held").and_then(Value::as_i64),
            is_as_asked: is_as_asked(row, &parts),
            request: request(row, &parts)?,
            keys: locks(&parts)?,
            tasks: tasks(&parts)?,
            agents: agents(&parts)?,
            epochs: parts.changed("activations").filter_map(|change| change.version.as_i64()).collect(),
        })
    }

    /// The instants that it names, beside its own.
    pub(super) fn instants(&self) -> Vec<i64> {
        match &self.request {
            Request::Acquire { until, .. }
            | Request::Renew { until, .. }
            | Request::Claim { until, .. }
            | Request::Heartbeat { until, .. } => vec![*until],
            Request::Submit { deadline: Some(deadline), .. } => vec![*deadline],
            _ => Vec::new(),
        }
    }
}

fn locks(parts: &Parts) -> Result<Vec<(String, i64)>, TraceError> {
    let token = |change: &Change| match &change.version {
        Value::Null => Some(0),
        version => version.as_i64(),
    };
    parts
        .changed("file_locks")
        .map(|change| {
            let token = token(change).ok_or_else(|| parts.missing("a lock's token"))?;
            Ok((change.key.clone(), token))
        })
        .collect()
}

fn tasks(parts: &Parts) -> Result<Vec<(String, String, i64)>, TraceError> {
    parts
        .changed("work_queue")
        .map(|change| {
            let status = change.version.get("status").and_then(Value::as_str);
            let attempts = change.version.get("attempt_count").and_then(Value::as_i64);
            match (status, attempts) {
                (Some(status), Some(attempts)) => Ok((change.key.clone(), status.to_owned(), attempts)),
                _ => Err(parts.missing("a task's status")),
            }
        })
        .collect()
}

fn agents(parts: &Parts) -> Result<Vec<(String, i64)>, TraceError> {
    parts
        .changed("agents")
        .map(|change| {
            let version = change.version.get("facts_version").and_then(Value::as_i64);
            version.map(|version| (change.key.clone(), version)).ok_or_else(|| parts.missing("an agent's version"))
        })
        .collect()
}

fn request(row: &AuditRow, parts: &Parts) -> Result<Request, TraceError> {
    let is_done = row.outcome == "ok";
    if row.decision != "allow" || !matches!(row.outcome.as_str(), "ok" | "refused" | "denied") {
        return Ok(Request::Other);
    }
    if row.outcome == "denied" && row.command != "lock_acquire" {
        return Ok(Request::Limit);
    }
    let token = || parts.parameters.get("fencing_token").and_then(Value::as_i64).unwrap_or(0);
    Ok(match row.command.as_str() {
        "lock_acquire" if row.outcome == "denied" && row.reason != "lock_limit_reached" => Request::Limit,
        "lock_acquire" => Request::Acquire { key: key(row, parts)?, until: parts.until("expires_at", is_done)? },
        "lock_renew" => {
            Request::Renew { key: key(row, parts)?, token: token(), until: parts.until("expires_at", is_done)? }
        }
        "lock_release" => Request::Release { key: key(row, parts)?, token: token() },
        "lock_force_release" => Request::ForceRelease { key: key(row, parts)? },
        "task_submit" if is_done => submit(parts)?,
        "task_claim" if is_done => Request::Claim {
            task: parts.text("task_id")?,
            token: parts.text("claim_token")?,
            until: parts.until("lease_expires_at", true)?,
        },
        // Which tasks a claimant looked at in vain is not in the row.
        "task_claim" | "task_submit" => Request::Limit,
        "task_heartbeat" => Request::Heartbeat {
            task: parts.text("task_id")?,
            token: parts.opt_text("claim_token"),
            until: parts.until("lease_expires_at", is_done)?,
        },
        "task_complete" => Request::Complete {
            task: parts.text("task_id")?,
            token: parts.opt_text("claim_token"),
            success: parts
                .parameters
                .get("success")
                .and_then(Value::as_bool)
                .ok_or_else(|| parts.missing("success"))?,
        },
        "task_cancel" => Request::Cancel { task: parts.text("task_id")?, any: row.trust_level >= ADMIN_TRUST },
        "task_expire" => Request::Expire,
        "component_activate" => Request::Activate {
            component: parts.text("digest")?,
            expected: parts.parameters.get("expected_epoch").and_then(Value::as_i64).unwrap_or(row.epoch),
        },
        "agent_create" | "agent_profile" | "agent_suspend" | "agent_key_revoke" if !agents(parts)?.is_empty() => {
            set_facts(row, parts)?
        }
        "session_cleanup" if parts.changed("file_locks").chain(parts.changed("work_queue")).next().is_some() => {
            let minutes = parts.parameters.get("stale_threshold_minutes").and_then(Value::as_i64);
            let minutes = minutes.ok_or_else(|| parts.missing("stale_threshold_minutes"))?;
            Request::GiveUp { silent_since: row.created_at.saturating_sub(minutes.saturating_mul(MICROS_A_MINUTE)) }
        }
        // What else changes locks or tasks is a step that the specification does not know: it rejects it for that.
        _ if !is_done => Request::Limit,
        _ => Request::Other,
    })
}

/// A lease that the row tells of ends when it was asked to, counted from the row's own instant.
fn is_as_asked(row: &AuditRow, parts: &Parts) -> bool {
    let int = |name: &str| parts.parameters.get(name).and_then(Value::as_i64);
    let minutes = int("ttl_minutes").map(|minutes| minutes.saturating_mul(MICROS_A_MINUTE));
    let (until, asked) = match row.command.as_str() {
        "lock_acquire" | "lock_renew" => ("expires_at", minutes),
        "task_claim" | "task_heartbeat" => {
            ("lease_expires_at", int("lease_seconds").map(|seconds| seconds.saturating_mul(MICROS_A_SECOND)))
        }
        _ => return true,
    };
    match (row.outcome.as_str(), instant(parts.result.get(until)), asked) {
        ("ok", Some(until), Some(asked)) => until == row.created_at.saturating_add(asked),
        _ => true,
    }
}

/// The key as the lock has it, which a path in the request may spell otherwise.
fn key(row: &AuditRow, parts: &Parts) -> Result<String, TraceError> {
    row.resource.strip_prefix("lock_key:").map(str::to_owned).ok_or_else(|| parts.missing("a lock key"))
}

fn submit(parts: &Parts) -> Result<Request, TraceError> {
    let deps = parts.parameters.get("depends_on").and_then(Value::as_array);
    let task = parts.result.get("task_id").and_then(Value::as_str).ok_or_else(|| parts.missing("task_id"))?;
    let max = parts.parameters.get("max_attempts").and_then(Value::as_i64);
    Ok(Request::Submit {
        task: task.to_owned(),
        deps: deps.into_iter().flatten().filter_map(|dep| dep.as_str().map(str::to_owned)).collect(),
        max: max.ok_or_else(|| parts.missing("max_attempts"))?,
        deadline: instant(parts.parameters.get("deadline")),
    })
}

fn set_facts(row: &AuditRow, parts: &Parts) -> Result<Request, TraceError> {
    let agent = row.resource.strip_prefix("agent:").ok_or_else(|| parts.missing("an agent"))?.to_owned();
    let profile = if row.command == "agent_key_revoke" { None } else { parts.opt_text("profile") };
    Ok(Request::SetFacts { agent, profile, suspended: parts.parameters.get("suspended").and_then(Value::as_bool) })
}
