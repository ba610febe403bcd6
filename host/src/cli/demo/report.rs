//! The figures of a run: counted from what the clients saw, printed for people or as JSON.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::check::{Checked, Finding, RowCounts};
use super::history::{Class, History, Record};
use super::hosts::Disturbed;
use super::op::Op;
use crate::cli::error::CliError;
use crate::cli::output::{Output, Tone, tame};

/// Longest answer that is told apart, in microseconds.
const LONGEST_US: u64 = 120_000_000;
/// Anomalies that are told in words.
const TOLD_MAX: usize = 10;

/// How one operation did.
#[derive(Debug, Default, Serialize)]
pub(super) struct OpFigures {
    calls: u64,
    allowed: u64,
    replayed: u64,
    conflicts: BTreeMap<String, u64>,
    denied: BTreeMap<String, u64>,
    /// Unknown keys and input that was not understood.
    rejected: BTreeMap<String, u64>,
    /// Anything else.
    odd: BTreeMap<String, u64>,
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
}

/// What was run on what.
#[derive(Debug, Serialize)]
pub(super) struct Setting {
    pub(super) repository: String,
    pub(super) files_listed: usize,
    pub(super) files_skipped: usize,
    pub(super) files_used: usize,
    pub(super) files_guarded: usize,
    pub(super) agents: Vec<String>,
    pub(super) seed: u64,
    pub(super) component: String,
    pub(super) data: Option<String>,
    /// Hosts on one database; one serves the embedded store.
    pub(super) hosts: usize,
    /// What was done to them meanwhile.
    pub(super) disturbed: Disturbed,
}

/// A run, whole.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    setting: Setting,
    seconds: f64,
    calls: u64,
    calls_per_second: f64,
    mutations: u64,
    mutations_per_second: f64,
    denied: u64,
    conflicts: u64,
    edits: u64,
    locks_granted: usize,
    tasks_claimed: usize,
    /// Holders that found their lock taken away.
    fenced_off: usize,
    operations: BTreeMap<&'static str, OpFigures>,
    audit: RowCounts,
    invariants: Vec<Finding>,
    anomalies: Vec<String>,
    anomalies_total: usize,
    ok: bool,
}

impl Report {
    pub(super) fn new(setting: Setting, took: Duration, history: &History, checked: Checked) -> Self {
        let mut by_op: BTreeMap<Op, Vec<&Record>> = BTreeMap::new();
        for record in &history.records {
            by_op.entry(record.op).or_default().push(record);
        }
        let count = |is: fn(&Record) -> bool| history.records.iter().filter(|record| is(record)).count();
        let calls = history.records.len();
        let mutations = count(|record| record.op.mutates() && record.class == Class::Allowed);
        let seconds = took.as_secs_f64().max(0.001);
        let ok = checked.broken() == 0;
        Self {
            setting,
            seconds,
            calls: whole(calls),
            calls_per_second: rate(calls, seconds),
            mutations: whole(mutations),
            mutations_per_second: rate(mutations, seconds),
            denied: whole(count(|record| matches!(record.class, Class::Denied(_)))),
            conflicts: whole(count(|record| matches!(record.class, Class::Conflict(_)))),
            edits: history.edits,
            locks_granted: history.grants.len(),
            tasks_claimed: history.claims.len(),
            fenced_off: checked.fenced_off,
            operations: by_op.into_iter().map(|(op, records)| (op.name(), figures(&records))).collect(),
            audit: checked.rows,
            invariants: checked.findings,
            anomalies_total: checked.anomalies.len(),
            anomalies: checked.anomalies.iter().take(TOLD_MAX).map(super::history::Surprise::text).collect(),
            ok,
        }
    }

    /// Whether no invariant broke.
    pub(super) const fn is_ok(&self) -> bool {
        self.ok
    }

    /// Prints everything.
    ///
    /// # Errors
    /// When stdout cannot be written to.
    pub(super) fn print(&self, output: &Output) -> Result<(), CliError> {
        if output.json {
            return output.json(self);
        }
        let header = [
            "operation",
            "calls",
            "allowed",
            "denied (by reason)",
            "conflicts",
            "replayed",
            "rejected",
            "p50 ms",
            "p99 ms",
        ];
        output.table(&header, self.operations.iter().map(|(name, figures)| figures.row(name)))?;
        output.line(self.totals())?;
        output.line(self.rows())?;
        output.line("")?;
        for finding in &self.invariants {
            let (mark, tone) = if finding.broken == 0 { ("✔", Tone::Good) } else { ("✘", Tone::Bad) };
            let Finding { invariant, says, checked, broken, .. } = finding;
            let counts =
                if *broken == 0 { format!("{checked} checked") } else { format!("{broken} of {checked} broken") };
            output.line(format_args!("{} {invariant:<8} {says}: {counts}", output.paint(tone, mark)))?;
            for example in &finding.examples {
                output.line(format_args!("    {}", tame(example)))?;
            }
        }
        Ok(())
    }

    fn totals(&self) -> String {
        format!(
            "\n{} calls in {:.1} s ({:.0}/s), {} changes ({:.0}/s), {} denied, {} conflicts, {} anomalies\n\
             {} locks granted, {} edits under them, {} tasks claimed, {} locks taken from their holders, who found out",
            self.calls,
            self.seconds,
            self.calls_per_second,
            self.mutations,
            self.mutations_per_second,
            self.denied,
            self.conflicts,
            self.anomalies_total,
            self.locks_granted,
            self.edits,
            self.tasks_claimed,
            self.fenced_off,
        )
    }

    fn rows(&self) -> String {
        let RowCounts { total, decided, of_claims, stale, of_system, undecided, unanswered, of_unanswered, .. } =
            &self.audit;
        let Setting { hosts, disturbed, .. } = &self.setting;
        let told = format!(
            "{total} audit rows = {decided} decided requests + {of_claims} further candidates of claims \
             + {stale} decided anew after facts moved + {of_system} of the service's own work \
             + {of_unanswered} of requests that no host answered; {undecided} requests needed no decision",
        );
        if *hosts < 2 {
            return told;
        }
        format!(
            "{told}\n{hosts} hosts, {} killed and {} restarted meanwhile; {unanswered} requests were not answered and sent again",
            disturbed.killed, disturbed.restarted
        )
    }
}

impl OpFigures {
    fn row(&self, name: &str) -> Vec<String> {
        let sum = |reasons: &BTreeMap<String, u64>| reasons.values().sum::<u64>();
        let odd = sum(&self.odd);
        let rejected = sum(&self.rejected);
        vec![
            name.to_owned(),
            self.calls.to_string(),
            self.allowed.to_string(),
            told(&self.denied),
            sum(&self.conflicts).to_string(),
            self.replayed.to_string(),
            if odd == 0 { rejected.to_string() } else { format!("{rejected} + {}", told(&self.odd)) },
            format!("{:.2}", self.p50_ms),
            format!("{:.2}", self.p99_ms),
        ]
    }
}

fn told(reasons: &BTreeMap<String, u64>) -> String {
    if reasons.is_empty() {
        return "0".to_owned();
    }
    reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect::<Vec<_>>().join(", ")
}

fn figures(records: &[&Record]) -> OpFigures {
    let mut figures = OpFigures { calls: whole(records.len()), ..OpFigures::default() };
    let mut latency = Histogram::<u64>::new_with_bounds(1, LONGEST_US, 3).ok();
    for record in records {
        let add = |reasons: &mut BTreeMap<String, u64>, reason: &str| {
            *reasons.entry(reason.to_owned()).or_default() += 1;
        };
        match &record.class {
            Class::Allowed => figures.allowed += 1,
            Class::Replayed => figures.replayed += 1,
            Class::Conflict(reason) => add(&mut figures.conflicts, reason),
            Class::Denied(reason) => add(&mut figures.denied, reason),
            Class::Invalid(code) => add(&mut figures.rejected, code),
            Class::Unauthenticated => add(&mut figures.rejected, "unauthenticated"),
            Class::Odd(what) => add(&mut figures.odd, what),
        }
        if let Some(latency) = &mut latency {
            let micros = record.answered.saturating_duration_since(record.sent).as_micros();
            latency.saturating_record(u64::try_from(micros).unwrap_or(LONGEST_US));
        }
    }
    if let Some(latency) = &latency {
        figures.p50_ms = ms(latency.value_at_quantile(0.5));
        figures.p99_ms = ms(latency.value_at_quantile(0.99));
        figures.max_ms = ms(latency.max());
    }
    figures
}

fn whole(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "counts and microseconds of a run are far below 2^53")]
fn ms(micros: u64) -> f64 {
    micros as f64 / 1000.0
}

#[expect(clippy::cast_precision_loss, reason = "counts of a run are far below 2^53")]
fn rate(count: usize, seconds: f64) -> f64 {
    count as f64 / seconds
}
