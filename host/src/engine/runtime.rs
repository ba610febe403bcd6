//! The two wasmtime engines: one that decides and one that takes snapshots.

use std::sync::Arc;

use tokio::sync::Semaphore;
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig, RegallocAlgorithm,
    WasmFeatures,
};

use super::cage::{CORE_INSTANCES_MAX, Cage, TABLE_ELEMENTS_MAX, start_clock};
use super::error::{EngineError, short};

/// Instances that may be alive at once, over all components, on a machine of few processors.
const INSTANCES_MIN: u32 = 128;
/// The same for each decision that may run at once: deciding, waiting for the next one, and as many of the component before
/// and the one that is looked at.
const INSTANCES_EACH: u32 = 6;
/// Pages that an instance dirtied and that its successor gets ready-made.
const RESIDENT_BYTES_MAX: usize = 8 << 20;
const TABLE_RESIDENT_BYTES_MAX: usize = 1 << 20;
const WASM_STACK_BYTES_MAX: usize = 512 << 10;
/// Parsing a bundle nests deeper than deciding, and runs on a stack of its own.
const SNAPSHOT_STACK_BYTES_MAX: usize = 1 << 20;

/// What every component of an [`super::Engine`] shares.
pub(super) struct Runtime {
    pub(super) wasm: Engine,
    pub(super) cage: Cage,
    pub(super) permits: Arc<Semaphore>,
    /// The one place for checking a policy's text.
    pub(super) validating: Arc<Semaphore>,
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime").field("cage", &self.cage).finish_non_exhaustive()
    }
}

impl Runtime {
    pub(super) fn new(cage: Cage) -> Result<Self, EngineError> {
        let mut config = config(WASM_STACK_BYTES_MAX);
        config.consume_fuel(true).allocation_strategy(InstanceAllocationStrategy::Pooling(pool(&cage)));
        Ok(Self {
            wasm: start(&config)?,
            permits: Arc::new(Semaphore::new(cage.concurrency.max(1))),
            validating: Arc::new(Semaphore::new(1)),
            cage,
        })
    }
}

/// An engine that runs a bundle's loading once. Compiling is most of its work,
/// so it compiles in a hurry; it counts no fuel, its deadline and its memory
/// limit hold.
pub(super) fn snapshot_engine() -> Result<Engine, EngineError> {
    let mut config = config(SNAPSHOT_STACK_BYTES_MAX);
    config.cranelift_opt_level(OptLevel::None).cranelift_regalloc_algorithm(RegallocAlgorithm::SinglePass);
    start(&config)
}

fn start(config: &Config) -> Result<Engine, EngineError> {
    let engine = Engine::new(config).map_err(|error| EngineError::Unsupported(short(&error.to_string())))?;
    start_clock(&engine)?;
    Ok(engine)
}

/// What both have in common: nothing whose result could differ between two
/// machines, and only the features that a compiled component needs.
fn config(stack_bytes_max: usize) -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .max_wasm_stack(stack_bytes_max)
        .cranelift_nan_canonicalization(true)
        .memory_init_cow(true)
        .concurrency_support(false)
        // Errors name the trap, not the place: half the artefact would be for places.
        .generate_address_map(false)
        .native_unwind_info(false)
        .wasm_feature_set();
    config
}

trait FeatureSet {
    fn wasm_feature_set(&mut self) -> &mut Self;
}

impl FeatureSet for Config {
    fn wasm_feature_set(&mut self) -> &mut Self {
        let unneeded = WasmFeatures::THREADS
            | WasmFeatures::RELAXED_SIMD
            | WasmFeatures::MEMORY64
            | WasmFeatures::MULTI_MEMORY
            | WasmFeatures::GC
            | WasmFeatures::FUNCTION_REFERENCES
            | WasmFeatures::EXCEPTIONS;
        self.wasm_features(unneeded, false)
    }
}

fn pool(cage: &Cage) -> PoolingAllocationConfig {
    let core_instances = u32::try_from(CORE_INSTANCES_MAX).unwrap_or(u32::MAX);
    let concurrency = u32::try_from(cage.concurrency).unwrap_or(u32::MAX);
    let instances = concurrency.saturating_mul(INSTANCES_EACH).clamp(INSTANCES_MIN, u32::MAX / core_instances);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(instances)
        .total_core_instances(instances * core_instances)
        .total_memories(instances)
        .total_tables(instances * core_instances)
        .total_stacks(0)
        .max_core_instances_per_component(core_instances)
        .max_memories_per_component(1)
        .max_tables_per_component(core_instances)
        .max_memory_size(cage.memory_bytes_max)
        .table_elements(TABLE_ELEMENTS_MAX)
        .linear_memory_keep_resident(RESIDENT_BYTES_MAX.min(cage.memory_bytes_max))
        .table_keep_resident(TABLE_RESIDENT_BYTES_MAX)
        .pagemap_scan(Enabled::Auto);
    pool
}
