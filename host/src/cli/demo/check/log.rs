//! One walk over the audit log: its own rules, and every row through the models.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

use super::locks::LockModel;
use super::tasks::TaskModel;
use super::{Evidence, Invariant, Ledger, replay};
use crate::clock::Time;
use crate::command::audit::AuditQuery;
use crate::store::audit::AuditRow;
use crate::store::{StoreError, View};

/// Rows that are read at once.
const PAGE: i64 = 2_000;

/// A row with its JSON columns read.
pub(super) struct Entry<'a> {
    pub(super) row: &'a AuditRow,
    pub(super) parameters: Value,
    pub(super) result: Value,
    pub(super) changes: Vec<Changed>,
}

/// A state key that a row says it changed.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Changed {
    pub(super) table: String,
    pub(super) key: String,
    pub(super) version: Value,
}

/// What the comparison with the requests needs of a row.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) seq: i64,
    pub(super) agent_id: String,
    pub(super) command: String,
    pub(super) outcome: String,
    /// The reasons that a denial may have been told with.
    pub(super) reasons: [String; 2],
    /// Facts or policy moved; the request was decided once more.
    pub(super) stale: bool,
}

/// What the walk leaves.
#[derive(Default)]
pub(super) struct Log {
    pub(super) rows: i64,
    /// Rows by request, in order.
    pub(super) by_request: HashMap<String, Vec<Line>>,
    pub(super) locks: LockModel,
    pub(super) tasks: TaskModel,
    /// Rows that are decided again.
    pub(super) sample: Vec<AuditRow>,
    facts: BTreeMap<String, i64>,
    epoch: i64,
    violations: i64,
}

impl<'a> Entry<'a> {
    fn read(row: &'a AuditRow) -> Option<Self> {
        let changes: Vec<Value> = serde_json::from_str(&row.changes).ok()?;
        let text = |change: &Value, field: &str| change.get(field).and_then(Value::as_str).map(str::to_owned);
        let changed = |change: &Value| {
            let version = change.get("version")?.clone();
            Some(Changed { table: text(change, "table")?, key: text(change, "key")?, version })
        };
        Some(Self {
            row,
            parameters: serde_json::from_str(&row.parameters).ok()?,
            result: serde_json::from_str(&row.result).ok()?,
            changes: changes.iter().map(changed).collect::<Option<_>>()?,
        })
    }

    pub(super) fn is(&self, outcome: &str) -> bool {
        self.row.outcome == outcome
    }

    /// Facts or policy had moved, so that it was decided once more.
    pub(super) fn is_stale(&self) -> bool {
        self.is("failed") && self.result.get("error").and_then(Value::as_str) == Some("stale_decision")
    }

    pub(super) fn text(&self, field: &str) -> Option<&str> {
        self.parameters.get(field).and_then(Value::as_str)
    }

    pub(super) fn int(&self, field: &str) -> Option<i64> {
        self.parameters.get(field).and_then(Value::as_i64)
    }

    /// The row in a few words, for whoever looks into a broken invariant.
    pub(super) fn said(&self) -> String {
        let AuditRow { seq, agent_id, command, resource, outcome, result, .. } = self.row;
        let result: String = result.chars().take(160).collect();
        format!("row {seq}: {command} of {agent_id} on {resource} was {outcome} {result}")
    }
}

/// Reads the whole log.
pub(super) async fn walk(evidence: &Evidence<'_>, ledger: &mut Ledger) -> Result<Log, StoreError> {
    let newest = AuditQuery { agent_id: None, operation: None, decision: None, since: None, until: None, limit: 1 };
    let last = evidence.view.audit(&newest, None).await?.items.first().map_or(0, |entry| entry.seq);
    let step = (last / replay::SAMPLE).max(1);
    let mut log = Log::default();
    log.knows_system();
    loop {
        let page = evidence.view.audit_rows(log.rows, PAGE).await?;
        if page.is_empty() {
            break;
        }
        for (row, leaf_hash) in page {
            log.rows = log.rows.saturating_add(1);
            ledger.check(Invariant::Audit, row.seq == log.rows, || {
                format!("row {} stands where {} should", row.seq, log.rows)
            });
            ledger
                .check(Invariant::Audit, row.leaf_hash() == leaf_hash, || format!("row {} has another hash", row.seq));
            log.step(&row, ledger);
            if row.seq % step == 0 {
                log.sample.push(row);
            }
        }
    }
    ledger.check(Invariant::Audit, log.rows == last, || format!("{} rows were read, the newest is {last}", log.rows));
    Ok(log)
}

impl Log {
    /// The service's own agent comes with the store.
    pub(super) fn knows_system(&mut self) {
        self.facts.insert(crate::authn::SYSTEM.to_owned(), 1);
    }

    pub(super) fn step(&mut self, row: &AuditRow, ledger: &mut Ledger) {
        let Some(entry) = Entry::read(row) else {
            return ledger.check(Invariant::Audit, false, || format!("row {} holds JSON that does not read", row.seq));
        };
        self.gate(&entry, ledger);
        self.facts(&entry, ledger);
        trust(&entry, ledger);
        self.locks.step(&entry, ledger);
        self.tasks.step(&entry, ledger);
        let found: Value = serde_json::from_str(&row.violations).unwrap_or_default();
        self.violations += found.as_array().map_or(0, |found| i64::try_from(found.len()).unwrap_or(0));
        let stale = entry.is_stale();
        let told = entry.result.get("reason").and_then(Value::as_str).unwrap_or_default().to_owned();
        self.by_request.entry(row.request_id.clone()).or_default().push(Line {
            seq: row.seq,
            agent_id: row.agent_id.clone(),
            command: row.command.clone(),
            outcome: row.outcome.clone(),
            reasons: [row.reason.clone(), told],
            stale,
        });
    }

    fn gate(&mut self, entry: &Entry<'_>, ledger: &mut Ledger) {
        let row = entry.row;
        let quiet = entry.changes.is_empty();
        ledger.check(Invariant::Gate, quiet || (row.decision == "allow" && row.outcome == "ok"), || entry.said());
        if !entry.is("ok") {
            ledger.check(Invariant::Deny, quiet, || entry.said());
        }
        let fits = row.decision == "allow" || entry.is("denied") || entry.is_stale();
        ledger.check(Invariant::Deny, fits, || format!("{}, though the decision was {}", entry.said(), row.decision));
        let own = |change: &Changed| tables_of(&row.command).contains(&change.table.as_str());
        ledger.check(Invariant::Gate, entry.changes.iter().all(own), || {
            format!("{}: changed another table", entry.said())
        });
        let stood = row.epoch == self.epoch || matches!(row.outcome.as_str(), "failed" | "denied");
        ledger.check(Invariant::Gate, stood, || {
            format!("{} under epoch {}, not {}", entry.said(), row.epoch, self.epoch)
        });
        for change in entry.changes.iter().filter(|change| change.table == "activations") {
            self.epoch = change.version.as_i64().unwrap_or(self.epoch);
        }
    }

    /// What was done was decided from the facts that stood in this very place of the log.
    fn facts(&mut self, entry: &Entry<'_>, ledger: &mut Ledger) {
        let row = entry.row;
        if matches!(row.outcome.as_str(), "ok" | "refused" | "replayed") {
            let now = self.facts.get(&row.agent_id).copied();
            ledger.check(Invariant::Revoke, now == Some(row.facts_version), || {
                format!("{} from facts {}, though {now:?} stood", entry.said(), row.facts_version)
            });
        }
        for change in entry.changes.iter().filter(|change| change.table == "agents") {
            let version = change.version.get("facts_version").and_then(Value::as_i64).unwrap_or(0);
            let before = self.facts.insert(change.key.clone(), version).unwrap_or(0);
            ledger.check(Invariant::Revoke, version == before + 1, || {
                format!("{}: facts {before} → {version}", entry.said())
            });
        }
    }

    /// At the end the tables are what the log says, no more and no less.
    pub(super) async fn compare_with_tables(&self, view: &View, ledger: &mut Ledger) -> Result<(), StoreError> {
        let problems = view.problems().await?;
        ledger.check(Invariant::Gate, problems.is_empty(), || format!("the database is damaged: {problems:?}"));
        self.locks.compare(&view.stored_locks().await?, &view.stored_fences().await?, ledger);
        self.tasks.compare(&view.stored_tasks().await?, ledger);
        let facts: BTreeMap<String, i64> = view.stored_facts().await?.into_iter().collect();
        ledger.check(Invariant::Gate, facts == self.facts, || "agents are not as the log says".to_owned());
        let violations = view.violations_count().await?;
        ledger.check(Invariant::Audit, violations == self.violations, || {
            format!("{violations} guardrail violations are stored, the log has {}", self.violations)
        });
        Ok(())
    }
}

/// Which tables a command may change.
fn tables_of(command: &str) -> &'static [&'static str] {
    match command.split_once('_').map(|(noun, _)| noun) {
        Some("lock") => &["file_locks", "lock_fences"],
        Some("task") => &["work_queue"],
        Some("agent") => &["agents", "api_keys"],
        Some("component") => &["activations", "component_shadows", "components"],
        _ => &[],
    }
}

fn trust(entry: &Entry<'_>, ledger: &mut Ledger) {
    let row = entry.row;
    match row.profile.as_str() {
        "claude_code_reviewer" => ledger.check(Invariant::Trust, entry.changes.is_empty(), || entry.said()),
        "evaluator" => {
            let own = |change: &Changed| change.table == "work_queue";
            ledger.check(Invariant::Trust, entry.changes.iter().all(own), || entry.said());
        }
        "suspended" => ledger.check(Invariant::Trust, entry.is("denied"), || entry.said()),
        _ => {}
    }
}

/// A time of a row.
pub(super) const fn time(row: &AuditRow) -> Time {
    Time::from_micros(row.created_at)
}
