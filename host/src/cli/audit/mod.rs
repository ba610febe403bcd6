//! `portreeve audit`: who asked for what, what was decided, and whether the log is whole.

mod export;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::cli::body::{fields, hint, items, short_time, text};
use crate::cli::error::CliError;
use crate::cli::failure;
use crate::cli::output::{Output, Tone, tame};
use crate::cli::transport::{Transport, Where};
use crate::clock::{Clock, SystemClock, Time};
use crate::store::{Location, Store};
use crate::telemetry;

/// How often `tail --follow` looks while there is something to see.
const FOLLOW_PERIOD: Duration = Duration::from_secs(1);
/// How often it looks at most rarely. Each look is audited, so an idle one should not fill the log.
const FOLLOW_PERIOD_IDLE: Duration = Duration::from_secs(8);
/// How far back each look reaches: rows of two processes may be a little out of order in time.
const FOLLOW_OVERLAP_SECONDS: i64 = 10;
/// Most rows in one answer.
const PAGE: i64 = 1000;

/// Read the audit log, follow it, and verify that it is whole
///
/// Every decision is one row, written in the transaction of the change that it let happen. Reading the log passes policy
/// and is audited too: agents below trust 3 see their own rows only.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  portreeve audit tail --follow\n  portreeve audit query --decision deny --since 1h --json\n  portreeve audit verify\n  portreeve audit export --format jsonl -o log.jsonl"
)]
pub(in crate::cli) struct Audit {
    #[command(flatten)]
    place: Where,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Tail(Tail),
    Query(Query),
    Verify(Verify),
    Export(export::Export),
}

/// Show the newest rows, oldest of them first; with --json one object a line
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  portreeve audit tail -n 50\n  portreeve audit tail --follow --json")]
struct Tail {
    /// How many rows
    #[arg(short = 'n', long = "lines", value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(i64).range(1..=PAGE))]
    lines: i64,
    /// Go on with new rows as they come
    #[arg(short, long)]
    follow: bool,
}

/// Look for rows, newest first
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  portreeve audit query --decision deny --since 15m\n  portreeve audit query --agent-id claude-1 --operation acquire_lock --limit 100 --json"
)]
struct Query {
    /// Only this agent's rows
    #[arg(long, value_name = "NAME")]
    agent_id: Option<String>,
    /// Only this policy operation
    #[arg(long)]
    operation: Option<String>,
    /// Only this decision
    #[arg(long, value_parser = ["allow", "deny", "unavailable"])]
    decision: Option<String>,
    /// Only rows from then on: RFC 3339 with an offset, or an age (30s, 15m, 2h, 7d)
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<Time>,
    /// Only rows before then: RFC 3339 with an offset, or an age
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    until: Option<Time>,
    /// Most rows
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(i64).range(1..=PAGE))]
    limit: i64,
}

/// Verify that no row is missing and that each is as its hash says
///
/// Reads the store itself, not a server. It finds rows that were lost, damaged or edited; rows cut off the end, or
/// rewritten together with their hashes, it cannot tell.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  portreeve audit verify --data ~/.local/share/portreeve")]
struct Verify {}

/// A time as people write it: a point, or how long ago.
pub(in crate::cli) fn parse_time(text: &str) -> Result<Time, String> {
    let wrong =
        || format!("`{text}` is neither RFC 3339 with an offset (2026-01-31T12:00:00Z) nor an age (30s, 15m, 2h, 7d)");
    let units = [('s', 1_i64), ('m', 60), ('h', 3600), ('d', 86_400)];
    match units.iter().find_map(|(unit, seconds)| text.strip_suffix(*unit).map(|count| (count, *seconds))) {
        Some((count, seconds)) if !count.is_empty() && count.bytes().all(|byte| byte.is_ascii_digit()) => {
            let count: i64 = count.parse().map_err(|_| wrong())?;
            Ok(SystemClock::default().now().plus_seconds(-count.saturating_mul(seconds)))
        }
        _ => Time::parse(text).map_err(|_| wrong()),
    }
}

impl Audit {
    pub(in crate::cli) async fn run(self, output: &Output) -> Result<ExitCode, CliError> {
        telemetry::init_logs("warn");
        match &self.action {
            Action::Verify(_) => return verify(&self.place, output).await,
            Action::Export(export) => return export.run(&self.place, output).await,
            Action::Tail(_) | Action::Query(_) => {}
        }
        let transport = self.place.connect(output).await?;
        let ended = match self.action {
            Action::Tail(tail) => tail.run(&transport, output).await,
            Action::Query(query) => query.run(&transport, output).await,
            Action::Verify(_) | Action::Export(_) => Ok(()),
        };
        transport.close().await;
        ended.map(|()| ExitCode::SUCCESS)
    }
}

impl Query {
    async fn run(self, to: &Transport, output: &Output) -> Result<(), CliError> {
        let input = json!({
            "agent_id": self.agent_id, "operation": self.operation, "decision": self.decision,
            "since": self.since, "until": self.until, "limit": self.limit,
        });
        let body = to.call("audit_query", fields(input)).await?;
        if output.json {
            return output.json(&body);
        }
        let header = ["SEQ", "TIME", "AGENT", "OPERATION", "RESOURCE", "DECISION", "OUTCOME", "REASON"];
        output.table(&header, items(&body, "entries").iter().map(row_of))?;
        if let Some(hint) = hint(&body) {
            output.note(hint);
        }
        Ok(())
    }
}

fn row_of(entry: &Value) -> [String; 8] {
    let resource: String = text(entry, "resource").replace('\n', " ").chars().take(48).collect();
    [
        seq_of(entry).to_string(),
        short_time(text(entry, "created_at")),
        text(entry, "agent_id").to_owned(),
        text(entry, "operation").to_owned(),
        resource,
        text(entry, "decision").to_owned(),
        text(entry, "outcome").to_owned(),
        text(entry, "reason").to_owned(),
    ]
}

// -------------------------------------------------------------------- tail

impl Tail {
    async fn run(self, to: &Transport, output: &Output) -> Result<(), CliError> {
        // Under this name our own looks are known again in the log.
        let me = format!("cli-{}", crate::command::new_id());
        let body = to.call_as("audit_query", fields(json!({"limit": self.lines})), &me).await?;
        let mut last = Cursor::default();
        for entry in items(&body, "entries").iter().rev() {
            print_entry(entry, output)?;
            last.pass(entry);
        }
        let mut period = FOLLOW_PERIOD;
        while self.follow && !output.is_reader_gone() {
            tokio::time::sleep(period).await;
            period = period.saturating_mul(2).min(FOLLOW_PERIOD_IDLE);
            for entry in newer(to, &last, &me).await? {
                last.pass(&entry);
                if text(&entry, "request_id") != me {
                    print_entry(&entry, output)?;
                    period = FOLLOW_PERIOD;
                }
            }
        }
        Ok(())
    }
}

/// How far the log was followed.
#[derive(Debug, Clone, Copy, Default)]
struct Cursor {
    seq: i64,
    at: Option<Time>,
}

impl Cursor {
    fn pass(&mut self, entry: &Value) {
        self.seq = self.seq.max(seq_of(entry));
        self.at = self.at.max(time_of(entry));
    }
}

/// Rows after the cursor, oldest first, page by page from the newest back.
async fn newer(to: &Transport, last: &Cursor, me: &str) -> Result<Vec<Value>, CliError> {
    let since = last.at.map(|at| at.plus_seconds(-FOLLOW_OVERLAP_SECONDS));
    let (mut found, mut until, mut lowest) = (Vec::new(), None::<Time>, i64::MAX);
    loop {
        let input = fields(json!({"since": since, "until": until, "limit": PAGE}));
        let body = to.call_as("audit_query", input, me).await?;
        let page = items(&body, "entries");
        let fresh = page.iter().filter(|entry| seq_of(entry) > last.seq && seq_of(entry) < lowest);
        found.extend(fresh.cloned());
        let Some(oldest) = page.last().filter(|_| body.get("truncated") == Some(&Value::Bool(true))) else { break };
        // `until` is exclusive, and rows of one commit may share their time.
        let next = time_of(oldest).map(|at| Time::from_micros(at.as_micros().saturating_add(1)));
        if seq_of(oldest) <= last.seq || seq_of(oldest) >= lowest {
            break;
        }
        (lowest, until) = (seq_of(oldest), next);
    }
    found.sort_by_key(seq_of);
    Ok(found)
}

fn print_entry(entry: &Value, output: &Output) -> Result<(), CliError> {
    if output.json {
        // One object a line, on a terminal too: the reader is a program.
        return output.line(entry);
    }
    let [seq, time, agent, operation, resource, decision, outcome, reason] = row_of(entry);
    let tone = if decision == "allow" { Tone::Good } else { Tone::Bad };
    let decision = output.paint(tone, format_args!("{decision:<5}"));
    output.line(format_args!(
        "{} {} {decision} {} {} {} {}",
        output.paint(Tone::Faint, format_args!("{seq:>6}")),
        output.paint(Tone::Faint, time),
        tame(&agent),
        operation,
        tame(&resource),
        output.paint(Tone::Faint, tame(&format!("{outcome} {reason}"))),
    ))
}

// ------------------------------------------------------------------ verify

async fn verify(place: &Where, output: &Output) -> Result<ExitCode, CliError> {
    if place.url.is_some() {
        return Err(CliError::new(
            "`audit verify` reads the store itself",
            "run it where the data folder is: --data DIR",
        ));
    }
    let data = place.store_folder()?;
    let location = crate::app::location(&data, place.database(&data)?);
    let clock = Arc::new(SystemClock::default());
    let store = Store::open(location.clone(), clock).await.map_err(|error| failure::store(&error))?;
    let checked = check_rows(&store).await;
    store.close().await;
    report(&location, checked?, output)
}

/// What a walk over the log came to.
struct Checked {
    rows: u64,
    /// The first row that is wrong, and how.
    bad: Option<(i64, String)>,
}

/// Walks over the whole log: gap-free from 1, and every row as its hash says.
async fn check_rows(store: &Store) -> Result<Checked, CliError> {
    let mut checked = Checked { rows: 0, bad: None };
    let mut last = 0_i64;
    loop {
        let page = store.view().audit_rows(last, PAGE).await.map_err(|error| failure::store(&error))?;
        if page.is_empty() {
            let left_out = store.view().left_out().await.map_err(|error| failure::store(&error))?;
            if left_out > 0 {
                let problem = format!("is not the only one there: {left_out} row(s) of the log have no position");
                checked.bad = Some((last, problem));
            }
            return Ok(checked);
        }
        for (row, stored) in page {
            let expected = last.saturating_add(1);
            if row.seq != expected {
                checked.bad = Some((expected, format!("is missing: after {last} comes {}", row.seq)));
                return Ok(checked);
            }
            if row.leaf_hash() != stored {
                checked.bad = Some((row.seq, "is not what its hash says".to_owned()));
                return Ok(checked);
            }
            last = row.seq;
            checked.rows = checked.rows.saturating_add(1);
        }
    }
}

fn report(location: &Location, checked: Checked, output: &Output) -> Result<ExitCode, CliError> {
    let rows = checked.rows;
    if output.json {
        let bad = checked.bad.as_ref();
        output.json(&json!({
            "valid": bad.is_none(), "rows": rows,
            "first_bad_seq": bad.map(|(seq, _)| seq), "problem": bad.map(|(_, problem)| problem),
        }))?;
    }
    match checked.bad {
        Some((seq, problem)) => Err(CliError::new(
            format!("row {seq} of the audit log {problem}; the {rows} row(s) before it are whole"),
            format!("keep `{location}` as it is for an inquiry, and compare it with a backup"),
        )),
        None if output.json => Ok(ExitCode::SUCCESS),
        None => {
            output.line(format_args!("{rows} row(s): none is missing, each is as its hash says"))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

// ------------------------------------------------------------------ values

fn seq_of(entry: &Value) -> i64 {
    entry.get("seq").and_then(Value::as_i64).unwrap_or_default()
}

fn time_of(entry: &Value) -> Option<Time> {
    Time::parse(text(entry, "created_at")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_points_or_ages() {
        assert_eq!(parse_time("1970-01-01T00:00:01Z").unwrap(), Time::from_micros(1_000_000));
        let ago = SystemClock::default().now().since(parse_time("2h").unwrap());
        assert!((7_199_000_000..7_210_000_000).contains(&ago), "{ago}");
        for wrong in ["", "m", "-5m", "yesterday", "2026-01-31", "5w"] {
            assert!(parse_time(wrong).is_err(), "{wrong}");
        }
    }
}
