//! Asks what the audit log recorded once more: of a candidate, to see what it would decide otherwise, or of the very
//! component that decided, to see whether a row says what it did.
//!
//! REPLAY: a component imports nothing, so a recorded request is all that a decision was made from. Rows are read in order by one
//! task, and decided meanwhile on threads of their own, which take no place of a decision that somebody waits for.

mod compare;
mod crew;
mod report;

use std::sync::Arc;
use std::time::Instant;

use crate::clock::Time;
use crate::command::audit::AuditQuery;
use crate::engine::{Engine, EngineError, PolicyComponent, Stage, digest_of};
use crate::store::audit::AuditRow;
use crate::store::{StoreError, View};

pub use compare::{Difference, differences};
pub use report::{Answer, Group, Report, Sample, Side, Skipped};

use crew::{Batch, Crew};

/// Rows that are read and decided at once.
const PAGE: i64 = 500;
/// Components that are kept ready: a log goes from one to the next, and only rows of several hosts mix two.
const MAKERS_MAX: usize = 4;

/// Which rows, and how much is told of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope {
    /// Only rows from this time on.
    pub since: Option<Time>,
    /// Only rows before this time.
    pub until: Option<Time>,
    /// Only so many, the newest of the log.
    pub last: Option<u64>,
    /// Only rows after this position.
    pub after: Option<i64>,
    /// Most rows of a group that are told in full; the oldest are.
    pub samples: usize,
}

impl Default for Scope {
    fn default() -> Self {
        Self { since: None, until: None, last: None, after: None, samples: 3 }
    }
}

impl Scope {
    fn holds(&self, row: &AuditRow) -> bool {
        let at = Time::from_micros(row.created_at);
        self.since.is_none_or(|since| at >= since) && self.until.is_none_or(|until| at < until)
    }
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Rows that are done.
    pub done: u64,
    /// Of so many.
    pub of: u64,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The log cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A component that the store holds cannot be asked.
    #[error("the component {digest} that the store holds cannot be used: {error}")]
    Component {
        /// Its digest.
        digest: String,
        /// Why not.
        error: EngineError,
    },
    /// The store holds other bytes under a digest.
    #[error("the bytes that the store holds as {0} are others")]
    Forged(String),
    /// A thread did not start, or ended too early.
    #[error("a thread that decides was lost: {0}")]
    Thread(String),
}

/// Who is asked.
enum Judge<'a> {
    Candidate(&'a Arc<PolicyComponent>),
    Makers(Makers<'a>),
}

/// Asks a candidate, and reports each decision that it would make otherwise.
///
/// # Errors
/// When the log cannot be read to its end; a candidate that cannot decide is no error, but a change.
pub async fn replay(
    view: &View,
    candidate: &Arc<PolicyComponent>,
    scope: &Scope,
    threads: usize,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Report, ReplayError> {
    walk(view, Judge::Candidate(candidate), scope, threads, progress).await
}

/// Asks of each row the component that decided it, and reports each that is not what that component decides.
///
/// # Errors
/// When the log, or a component that the store holds, cannot be read. One that it lacks is no error, but is counted.
pub async fn faithful(
    view: &View,
    engine: &Engine,
    stage: &(dyn Fn(Stage) + Sync),
    scope: &Scope,
    threads: usize,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Report, ReplayError> {
    let makers = Makers { view, engine, stage, known: Vec::new() };
    walk(view, Judge::Makers(makers), scope, threads, progress).await
}

async fn walk(
    view: &View,
    mut judge: Judge<'_>,
    scope: &Scope,
    threads: usize,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Report, ReplayError> {
    let started = Instant::now();
    // A service that runs meanwhile adds rows; what it adds is not waited for.
    let newest = newest(view).await?;
    let first = scope.last.map_or(0, |count| newest.saturating_sub(i64::try_from(count).unwrap_or(i64::MAX)).max(0));
    let mut last = first.max(scope.after.unwrap_or(0)).min(newest);
    let of = u64::try_from(newest.saturating_sub(last)).unwrap_or_default();
    let threads = threads.max(1);
    let crew = Crew::start(threads, scope.samples)?;
    while last < newest {
        let page = view.audit_rows(last, PAGE.min(newest.saturating_sub(last))).await?;
        let Some((row, _)) = page.last() else { break };
        last = row.seq;
        let (inside, outside): (Vec<_>, Vec<_>) =
            page.into_iter().map(|(row, _)| row).partition(|row| scope.holds(row));
        crew.pass(outside.len());
        for batch in judge.batches(inside).await? {
            crew.give(batch).await;
        }
        progress(Progress { done: crew.done(), of });
    }
    let tally = crew.finish(&|done| progress(Progress { done, of })).await?;
    let candidate = match &judge {
        Judge::Candidate(candidate) => Some(candidate.digest().to_owned()),
        Judge::Makers(_) => None,
    };
    Ok(tally.report(candidate, threads, started.elapsed().as_secs_f64()))
}

/// The latest rows of a log that can be asked again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Latest {
    /// They are after this position.
    pub after: i64,
    /// So many of them can be asked.
    pub askable: u64,
    /// So many rows were looked at.
    pub looked_at: u64,
}

/// Where the latest `count` rows begin that can be asked again, among the latest twenty times as many: rows that nobody can ask
/// (somebody named another agent than itself) are easily made.
///
/// # Errors
/// When the log cannot be read.
pub async fn latest(view: &View, count: u64) -> Result<Latest, StoreError> {
    let reach = i64::try_from(count.saturating_mul(20).saturating_add(1_000)).unwrap_or(i64::MAX);
    let newest = newest(view).await?;
    let least = newest.saturating_sub(reach).max(0);
    let mut found = Latest { after: newest, askable: 0, looked_at: 0 };
    while found.after > least && found.askable < count {
        let before = found.after.saturating_sub(PAGE).max(least);
        let page = view.audit_rows(before, found.after.saturating_sub(before)).await?;
        let end = found.after;
        for (row, _) in page.iter().rev().filter(|(row, _)| row.seq <= end) {
            if found.askable == count {
                break;
            }
            found.after = row.seq.saturating_sub(1);
            found.looked_at = found.looked_at.saturating_add(1);
            found.askable = found.askable.saturating_add(u64::from(compare::question(row).is_ok()));
        }
        if found.askable < count {
            found.after = before;
        }
    }
    Ok(found)
}

/// The position of the log's newest row.
async fn newest(view: &View) -> Result<i64, StoreError> {
    let query = AuditQuery { agent_id: None, operation: None, decision: None, since: None, until: None, limit: 1 };
    Ok(view.audit(&query, None).await?.items.first().map_or(0, |entry| entry.seq))
}

impl Judge<'_> {
    /// The rows, in order, with the component that each is asked of.
    async fn batches(&mut self, rows: Vec<AuditRow>) -> Result<Vec<Batch>, ReplayError> {
        let makers = match self {
            Self::Candidate(candidate) => return Ok(vec![Batch { rows, component: Some(Arc::clone(candidate)) }]),
            Self::Makers(makers) => makers,
        };
        let mut batches: Vec<Batch> = Vec::new();
        let mut digest = String::new();
        for row in rows {
            match batches.last_mut().filter(|_| row.component == digest) {
                Some(batch) => batch.rows.push(row),
                None => {
                    digest.clone_from(&row.component);
                    batches.push(Batch { component: makers.of(&digest).await?, rows: vec![row] });
                }
            }
        }
        Ok(batches)
    }
}

/// The components that decided, from the store.
struct Makers<'a> {
    view: &'a View,
    engine: &'a Engine,
    stage: &'a (dyn Fn(Stage) + Sync),
    /// The one that was asked last is at the end. None of those that the store lacks.
    known: Vec<(String, Option<Arc<PolicyComponent>>)>,
}

impl Makers<'_> {
    async fn of(&mut self, digest: &str) -> Result<Option<Arc<PolicyComponent>>, ReplayError> {
        let entry = match self.known.iter().position(|(known, _)| known == digest) {
            Some(at) => self.known.remove(at),
            None => (digest.to_owned(), self.load(digest).await?),
        };
        let component = entry.1.clone();
        self.known.push(entry);
        if self.known.len() > MAKERS_MAX {
            self.known.remove(0);
        }
        Ok(component)
    }

    async fn load(&self, digest: &str) -> Result<Option<Arc<PolicyComponent>>, ReplayError> {
        let Some(bytes) = self.view.component_bytes(digest).await? else { return Ok(None) };
        if digest_of(&bytes) != digest {
            return Err(ReplayError::Forged(digest.to_owned()));
        }
        // Compiling takes seconds; the other tasks of this thread move on.
        let loaded = tokio::task::block_in_place(|| self.engine.load_component(bytes, &self.stage));
        loaded.map(Some).map_err(|error| ReplayError::Component { digest: digest.to_owned(), error })
    }
}
