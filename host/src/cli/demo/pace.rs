//! Tells how the run goes: a bar on a terminal, a line every few seconds elsewhere.

use std::io::{IsTerminal, stderr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};

use super::world::World;
use crate::cli::output::Output;

/// How often the bar moves.
const BAR_TICK: Duration = Duration::from_millis(200);
/// How often a line is printed.
const LINE_TICK: Duration = Duration::from_secs(5);

/// Tells until the time is up or the run is stopped, then stops it.
pub(super) async fn keep(world: &Arc<World>, duration: Duration, output: &Output) {
    let started = Instant::now();
    let bar = stderr().is_terminal().then(|| bar(duration));
    let tick = if bar.is_some() { BAR_TICK } else { LINE_TICK };
    let (mut calls_before, mut told) = (0, started);
    while started.elapsed() < duration && !world.is_stopped() {
        let left = duration.saturating_sub(started.elapsed());
        let pause = tick.min(left).min(BAR_TICK);
        tokio::time::sleep(pause).await;
        if told.elapsed() < tick {
            continue;
        }
        let calls = world.counts.calls.load(Ordering::Relaxed);
        let rate = u128::from(calls.saturating_sub(calls_before)) * 1000 / told.elapsed().as_millis().max(1);
        (calls_before, told) = (calls, Instant::now());
        let line = format!("{calls} calls ({rate}/s), {}", counts(world));
        match &bar {
            Some(bar) => {
                bar.set_position(u64::try_from(started.elapsed().as_millis()).unwrap_or(0));
                bar.set_message(line);
            }
            None => output.note(format_args!("{:>4} s: {line}", started.elapsed().as_secs())),
        }
    }
    world.stop();
}

fn counts(world: &World) -> String {
    let get = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let counts = &world.counts;
    let (changes, denied, conflicts) = (get(&counts.changes), get(&counts.denied), get(&counts.conflicts));
    format!("{changes} changes, {denied} refused by policy or key, {conflicts} conflicts")
}

fn bar(duration: Duration) -> ProgressBar {
    let bar = ProgressBar::new(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
    let bar = bar.with_finish(ProgressFinish::AndClear);
    // A template that does not parse leaves the plain bar.
    let style =
        ProgressStyle::with_template("{bar:30} {elapsed} {msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.set_style(style);
    bar
}
