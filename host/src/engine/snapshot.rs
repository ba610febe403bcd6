//! Loads a bundle inside the engine component and keeps the memory.
//!
//! The result is a component like any other, in which policies are parsed,
//! patterns are compiled and indices are built already. The same files give
//! the same bytes.

use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use wasmtime::Store;
use wasmtime::component::{Component, Instance, Linker};
use wasmtime_wizer::Wizer;

use super::bindings::Policy;
use super::cage::{Warden, ticks};
use super::convert::{lend_files, tame_problems};
use super::error::EngineError;
use super::runtime::snapshot_engine;
use super::types::{BundleFile, Problem};

/// Called once after loading; the snapshot is of the memory that it leaves.
const INIT: &str = "portreeve:policy/decider.ready@0.1.0";
/// Longest time for loading a bundle: thousands of policies take a second.
const LOAD_DEADLINE: Duration = Duration::from_secs(120);

/// The bundle was refused; what is wrong stands beside the snapshot.
#[derive(Debug, thiserror::Error)]
#[error("the bundle has problems")]
struct Refused;

pub(super) fn take(component: &[u8], files: &[BundleFile], memory_bytes_max: usize) -> Result<Vec<u8>, EngineError> {
    let engine = snapshot_engine()?;
    let mut store = Store::new(&engine, Warden::new(memory_bytes_max));
    store.limiter(|warden| warden);
    store.epoch_deadline_trap();
    let mut problems = Vec::new();
    let mut wizer = Wizer::new();
    wizer.init_func(INIT).keep_init_func(true);
    let snapshot = block_on(wizer.run_component(&mut store, component, async |store, component| {
        // Counted from here: compiling came before and takes longer.
        store.set_epoch_deadline(ticks(LOAD_DEADLINE));
        load(store, component, files, &mut problems)
    }));
    match snapshot {
        Ok((snapshot, _)) => Ok(snapshot),
        Err(error) if error.is::<Refused>() => Err(EngineError::Bundle(problems)),
        Err(error) => Err(EngineError::from_call(&error)),
    }
}

fn load(
    store: &mut Store<Warden>,
    component: &Component,
    files: &[BundleFile],
    problems: &mut Vec<Problem>,
) -> wasmtime::Result<Instance> {
    let linker = Linker::new(store.engine());
    let instance = linker.instantiate(&mut *store, component)?;
    let policy = Policy::new(&mut *store, &instance)?;
    let files = lend_files(files);
    match policy.portreeve_policy_decider().call_load(&mut *store, &files)? {
        Ok(_manifest) => Ok(instance),
        Err(found) => {
            *problems = tame_problems(found);
            Err(wasmtime::Error::new(Refused))
        }
    }
}

/// Drives a future that never waits for anything outside.
fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::yield_now(),
        }
    }
}
