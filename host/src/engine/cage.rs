//! The cage: what a component may use, set on every store there is.

use std::fmt;
use std::num::NonZeroUsize;
use std::thread;
use std::time::Duration;

use wasmtime::{Engine, ResourceLimiter, Store};

use super::error::EngineError;

const MIB: usize = 1 << 20;

/// How often the epoch advances: the grain of every deadline.
const EPOCH_TICK: Duration = Duration::from_millis(10);

/// Decisions after which an instance is discarded: what a new one costs is a small part of theirs by then.
const DECISIONS_OF_AN_INSTANCE: u32 = 256;

/// Bytes by which an instance's memory may have grown for it to decide again: who brings large texts leaves nothing of them
/// to the next one.
const GROWTH_KEPT_MAX: usize = MIB;

/// Tables that a component may have, and elements in each.
const TABLES_MAX: usize = 4;
/// Elements of one table; a component compiled from Rust has some thousands.
pub(super) const TABLE_ELEMENTS_MAX: usize = 50_000;
/// Core instances that a component may consist of.
pub(super) const CORE_INSTANCES_MAX: usize = 4;

/// Limits on a component. They hold for every call, configured or not.
#[derive(Debug, Clone)]
pub struct Cage {
    /// Largest linear memory of an instance.
    pub memory_bytes_max: usize,
    /// Fuel for one decision. Some 430 units read a byte of prose, some 1,300 a
    /// byte of the most tangled JSON: this is enough for what a policy reads at most.
    pub fuel_decide: u64,
    /// Fuel for a run of the bundle's own tests, or for checking a text.
    pub fuel_tests: u64,
    /// Longest time for one decision: the backstop, fuel comes first.
    pub deadline_decide: Duration,
    /// Longest time for a run of the bundle's own tests.
    pub deadline_tests: Duration,
    /// Most bytes of text in a request.
    pub request_bytes_max: usize,
    /// Most bytes that one answer may make the host allocate.
    pub answer_bytes_max: usize,
    /// Decisions that run at once through [`super::PolicyComponent::decide_async`].
    pub concurrency: usize,
    /// Whether an instance decides once or several times.
    pub isolation: Isolation,
}

impl Default for Cage {
    fn default() -> Self {
        Self {
            memory_bytes_max: 64 * MIB,
            fuel_decide: 10_000_000_000,
            fuel_tests: 100_000_000_000,
            deadline_decide: Duration::from_secs(2),
            deadline_tests: Duration::from_secs(60),
            request_bytes_max: 5 * MIB,
            answer_bytes_max: 8 * MIB,
            concurrency: thread::available_parallelism().map_or(2, NonZeroUsize::get),
            isolation: Isolation::Recycled(DECISIONS_OF_AN_INSTANCE),
        }
    }
}

/// How long an instance lives. An answer never depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// Each decision has an instance of its own.
    Fresh,
    /// An instance decides at most this many times, one decision at a time, and never again after a failure or when its
    /// memory has grown. What fails in an instance that has decided before is decided anew by a fresh one.
    Recycled(u32),
}

/// What one call may use.
#[derive(Debug, Clone, Copy)]
pub(super) struct Allowance {
    pub(super) fuel: u64,
    pub(super) deadline: Duration,
}

impl Cage {
    pub(super) fn for_decision(&self) -> Allowance {
        Allowance { fuel: self.fuel_decide, deadline: self.deadline_decide }
    }

    pub(super) fn for_tests(&self) -> Allowance {
        Allowance { fuel: self.fuel_tests, deadline: self.deadline_tests }
    }

    /// A store with every limit set.
    pub(super) fn store(&self, engine: &Engine, allowance: Allowance) -> Result<Store<Warden>, EngineError> {
        let mut store = Store::new(engine, Warden::new(self.memory_bytes_max));
        store.limiter(|warden| warden);
        store.epoch_deadline_trap();
        store.set_hostcall_fuel(self.answer_bytes_max);
        refill(&mut store, allowance)?;
        Ok(store)
    }
}

/// Sets fuel and deadline for the next call.
pub(super) fn refill(store: &mut Store<Warden>, allowance: Allowance) -> Result<(), EngineError> {
    store.set_fuel(allowance.fuel).map_err(|error| EngineError::Unsupported(error.to_string()))?;
    store.set_epoch_deadline(ticks(allowance.deadline));
    Ok(())
}

/// Ticks that are surely no less than the deadline.
pub(super) fn ticks(deadline: Duration) -> u64 {
    let ticks = deadline.as_millis() / EPOCH_TICK.as_millis();
    u64::try_from(ticks).unwrap_or(u64::MAX / 2).saturating_add(1)
}

/// Advances the engine's epoch until the engine is gone.
pub(super) fn start_clock(engine: &Engine) -> Result<(), EngineError> {
    let engine = engine.weak();
    thread::Builder::new()
        .name("policy-epoch".to_owned())
        .spawn(move || {
            while let Some(engine) = engine.upgrade() {
                engine.increment_epoch();
                drop(engine);
                thread::sleep(EPOCH_TICK);
            }
        })
        .map_err(|error| EngineError::Unsupported(error.to_string()))?;
    Ok(())
}

/// Stands at the instance's resources. Growing past a limit ends the call
/// instead of telling the component, so that no component can make a decision
/// out of how much memory there is.
#[derive(Debug)]
pub(super) struct Warden {
    memory_bytes_max: usize,
    /// The memory that the instance began with, and what it has now.
    memory_bytes: Option<(usize, usize)>,
}

impl Warden {
    pub(super) fn new(memory_bytes_max: usize) -> Self {
        Self { memory_bytes_max, memory_bytes: None }
    }

    /// Whether the instance is as small as it was, or nearly.
    pub(super) fn is_small(&self) -> bool {
        self.memory_bytes.is_none_or(|(first, now)| now.saturating_sub(first) <= GROWTH_KEPT_MAX)
    }
}

/// Something grew past its limit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Breach {
    what: &'static str,
    desired: usize,
    limit: usize,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, desired, limit } = self;
        write!(f, "{desired} {what}, limit {limit}")
    }
}

impl std::error::Error for Breach {}

fn within(what: &'static str, desired: usize, limit: usize) -> wasmtime::Result<bool> {
    if desired <= limit {
        return Ok(true);
    }
    Err(wasmtime::Error::new(Breach { what, desired, limit }))
}

impl ResourceLimiter for Warden {
    fn memory_growing(&mut self, _current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let limit = maximum.map_or(self.memory_bytes_max, |own| own.min(self.memory_bytes_max));
        let (first, _) = self.memory_bytes.unwrap_or((desired, desired));
        self.memory_bytes = Some((first, desired));
        within("bytes of memory", desired, limit)
    }

    fn table_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        within("elements of a table", desired, TABLE_ELEMENTS_MAX)
    }

    fn instances(&self) -> usize {
        CORE_INSTANCES_MAX
    }

    fn tables(&self) -> usize {
        TABLES_MAX
    }

    fn memories(&self) -> usize {
        1
    }
}
