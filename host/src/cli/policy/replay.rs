//! `portreeve policy replay`: what another policy would have decided.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

use clap::Args;

use super::{Cache, component};
use crate::authoring::source::Source;
use crate::cli::audit::parse_time;
use crate::cli::error::CliError;
use crate::cli::failure;
use crate::cli::output::{Output, Tone, tame};
use crate::cli::progress::{Progress, Replaying};
use crate::cli::transport::Where;
use crate::clock::{SystemClock, Time};
use crate::replay::{self, Answer, Difference, Group, ReplayError, Report, Sample, Scope, Side, Skipped};
use crate::store::Store;

/// A decision would change, or a row is not what its component decides.
const EXIT_CHANGED: u8 = 3;

/// Ask the audit log's requests again: what would another policy have decided?
///
/// With --candidate each recorded request is asked of that policy, and every decision that it makes otherwise is reported, by
/// agent, operation and the rules that decided. With --faithful each is asked of the very component that decided it, and must
/// come out the same to the byte: effect, reason, detail, engine, rules, violations, obligations and trust. (Fuel is left out:
/// an instance that has decided before may need less for the same answer.) Reads the store itself, not a server, which may run
/// on it meanwhile. Rows that cannot be asked again are counted by the reason.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  portreeve policy replay --candidate ./policies --since 7d\n  portreeve policy replay --candidate policy.wasm --last 100000 --json\n  portreeve policy replay --faithful\n\nExit codes:\n  0  every request that was asked again is decided as the log has it\n  1  error: nothing is known\n  2  the command line is not understood\n  3  a decision would change; with --faithful: a row is not what its component decides"
)]
#[command(group = clap::ArgGroup::new("whom").required(true))]
pub(super) struct Replay {
    /// The policy to ask: a folder, a component file, or `default`
    #[arg(long, value_name = "POLICY", group = "whom")]
    candidate: Option<PathBuf>,
    /// Ask of each row the component that decided it
    #[arg(long, group = "whom")]
    faithful: bool,
    /// Only rows from then on: RFC 3339 with an offset, or an age (30s, 15m, 2h, 7d)
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<Time>,
    /// Only rows before then: RFC 3339 with an offset, or an age
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    until: Option<Time>,
    /// Only the newest rows of the log
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    last: Option<u64>,
    /// Most rows of a group that are shown
    #[arg(long, value_name = "N", default_value_t = 3)]
    limit: u16,
    /// Threads that decide [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    threads: Option<u8>,
    #[command(flatten)]
    place: Where,
    #[command(flatten)]
    cache: Cache,
}

impl Replay {
    pub(super) async fn run(self, output: &Output) -> Result<ExitCode, CliError> {
        if self.place.url.is_some() {
            return Err(CliError::new(
                "`policy replay` reads the store itself",
                "run it where the data folder is: --data DIR",
            ));
        }
        let data = self.place.store_folder()?;
        let location = crate::app::location(&data, self.place.database(&data)?);
        let store = Store::open(location, Arc::new(SystemClock::default())).await;
        let store = store.map_err(|error| failure::store(&error))?;
        let report = self.ask(&store, output).await;
        store.close().await;
        let report = report?;
        if output.json {
            output.json(&report)?;
        } else {
            print(&report, output)?;
        }
        Ok(if report.changed.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_CHANGED) })
    }

    async fn ask(&self, store: &Store, output: &Output) -> Result<Report, CliError> {
        let scope = Scope {
            since: self.since,
            until: self.until,
            last: self.last,
            after: None,
            samples: usize::from(self.limit),
        };
        let threads =
            self.threads.map_or_else(|| thread::available_parallelism().map_or(1, NonZeroUsize::get), usize::from);
        let engine = self.cache.engine()?;
        let candidate = match &self.candidate {
            Some(named) => {
                let source = Source::named(named);
                Some(tokio::task::block_in_place(|| component(&engine, &source, output))?)
            }
            None => None,
        };
        let bar = Replaying::new();
        let show = |progress| bar.show(progress);
        let asked = match &candidate {
            Some(candidate) => replay::replay(store.view(), candidate, &scope, threads, &show).await,
            None => {
                let stages = Progress::new(output);
                replay::faithful(store.view(), &engine, &|stage| stages.show(stage), &scope, threads, &show).await
            }
        };
        drop(bar);
        asked.map_err(|error| failed(&error))
    }
}

fn failed(error: &ReplayError) -> CliError {
    match error {
        ReplayError::Store(error) => failure::store(error),
        ReplayError::Component { .. } | ReplayError::Forged(_) => {
            CliError::new(error.to_string(), "keep the store as it is for an inquiry, and compare it with a backup")
        }
        ReplayError::Thread(_) => CliError::new(
            error.to_string(),
            "look at the limits on processes and memory (ulimit -a), or try --threads 1",
        ),
    }
}

fn print(report: &Report, output: &Output) -> Result<(), CliError> {
    let is_faithful = report.candidate.is_none();
    for group in &report.changed {
        print_group(group, is_faithful, output)?;
    }
    for (why, count) in &report.skipped {
        output.line(output.paint(Tone::Notice, format_args!("{count} row(s) not asked again: {}", words(*why))))?;
    }
    let word = match (report.changes(), is_faithful) {
        (0, false) => output.paint(Tone::Good, "nothing changes"),
        (0, true) => output.paint(Tone::Good, "each is what its component decides"),
        (count, false) => output.paint(Tone::Bad, format_args!("{count} would be decided otherwise")),
        (count, true) => output.paint(Tone::Bad, format_args!("{count} are not what their component decides")),
    };
    if !is_faithful && report.changes() > 0 {
        let Report { no_longer_allowed, newly_allowed, .. } = report;
        let others = report.changes().saturating_sub(no_longer_allowed.saturating_add(*newly_allowed));
        output.line(format_args!(
            "{no_longer_allowed} no longer allowed, {newly_allowed} newly allowed, {others} otherwise with the same effect"
        ))?;
    }
    let Report { rows, asked, threads, seconds, .. } = report;
    output.line(format_args!(
        "{asked} of {rows} row(s) asked again: {word}; {seconds:.1} s, {:.0} a second on {threads} thread(s)",
        per_second(*asked, *seconds),
    ))
}

#[expect(clippy::cast_precision_loss, reason = "a count of rows is far below 2^53")]
fn per_second(count: u64, seconds: f64) -> f64 {
    count as f64 / seconds.max(f64::EPSILON)
}

const fn words(why: Skipped) -> &'static str {
    match why {
        Skipped::IdentityMismatch => "the host refused a body that named another agent (identity_mismatch)",
        Skipped::Unavailable => "no component had an answer (unavailable)",
        Skipped::LongTexts => "long texts are kept as digests (long_texts)",
        Skipped::Unreadable => "the request cannot be read (unreadable)",
        Skipped::ComponentMissing => "the store lacks the component that decided (component_missing)",
    }
}

fn print_group(group: &Group, is_faithful: bool, output: &Output) -> Result<(), CliError> {
    let Group { agent_id, operation, recorded, now, count, fields, .. } = group;
    let tone = if recorded.effect == now.effect { Tone::Notice } else { Tone::Bad };
    let change = if recorded.effect == now.effect {
        let fields: Vec<&str> = fields.iter().copied().collect();
        format!("{}, another {}", recorded.effect, fields.join(", "))
    } else {
        format!("{} → {}", recorded.effect, now.effect)
    };
    output.line(format_args!(
        "{count}  {}  {} {operation}",
        output.paint(tone, tame(&change)),
        output.paint(Tone::Strong, tame(agent_id))
    ))?;
    output.line(format_args!("    rules  {} → {}", rules(recorded), rules(now)))?;
    for sample in &group.samples {
        print_sample(sample, is_faithful, output)?;
    }
    output.line("")
}

fn rules(side: &Side) -> String {
    if side.deciding.is_empty() { "(none)".to_owned() } else { tame(&side.deciding.join(" ")) }
}

fn print_sample(sample: &Sample, is_faithful: bool, output: &Output) -> Result<(), CliError> {
    let Sample { seq, request_id, resource, recorded, now, differs } = sample;
    let place = output.paint(Tone::Faint, format_args!("request {}", tame(request_id)));
    output.line(format_args!("    row {seq}  {}  {place}", tame(resource)))?;
    if is_faithful {
        for Difference { field, recorded, now } in differs {
            output.line(format_args!("        its {field} says   {}", tame(recorded)))?;
            output.line(format_args!("        its component    {}", tame(now)))?;
        }
        return Ok(());
    }
    for (when, Answer { effect, reason, detail }) in [("was", recorded), ("now", now)] {
        output.line(format_args!("        {when}  {} {}  {}", tame(effect), tame(reason), tame(detail)))?;
    }
    Ok(())
}
