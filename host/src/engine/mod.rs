//! Runs the policy component: compiled once, caged always, asked again for
//! every operation.
//!
//! The only place that knows wasmtime. A component imports nothing, so the
//! same request gives the same [`types::Decision`] anywhere; whatever breaks
//! out of its [`Cage`] comes back as an [`EngineError`], and the next decision
//! is not concerned.

mod bindings;
mod bundle;
mod cache;
mod cage;
mod component;
mod convert;
mod digest;
mod error;
mod module;
mod rehearsal;
mod runtime;
mod snapshot;
mod source;
pub mod types;
mod weight;

use std::path::Path;
use std::sync::{Arc, LazyLock};

use wasmtime::component::Component;

pub use bundle::{default_bundle, read_bundle};
pub use cage::{Cage, Isolation};
pub use component::{Decided, PolicyComponent};
pub use digest::digest_of;
pub use error::EngineError;
pub use module::{component_of, is_module};
pub use rehearsal::Rehearsal;
pub use source::source_of;

use cache::{Cache, Kind};
use digest::Key;
use error::short;
use runtime::Runtime;
use types::BundleFile;

/// The component that the binary carries: rules of no bundle, until one is loaded.
static ENGINE_COMPONENT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/policy_engine.wasm"));

static ENGINE_DIGEST: LazyLock<String> = LazyLock::new(|| digest_of(ENGINE_COMPONENT));

/// Counts how snapshots are made; raised when the same input gives other bytes.
const SNAPSHOT_FORMAT: &[u8] = b"2";
/// Largest component that is looked at.
const COMPONENT_BYTES_MAX: usize = 128 << 20;

/// What takes long enough to tell somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The bundle is loaded inside the engine component, some seconds.
    Loading,
    /// The component is compiled to machine code, some seconds.
    Compiling,
}

/// Everything that is shared by the components of a process.
#[derive(Debug)]
pub struct Engine {
    runtime: Arc<Runtime>,
    cache: Cache,
}

impl Engine {
    /// Starts the engine; what is expensive to make is kept in `cache_dir`.
    ///
    /// # Errors
    /// When the folder is not ours alone, or the machine lacks what the engine needs.
    pub fn open(cache_dir: &Path, cage: Cage) -> Result<Self, EngineError> {
        Ok(Self { cache: Cache::open(cache_dir)?, runtime: Arc::new(Runtime::new(cage)?) })
    }

    /// Makes a component of a bundle and prepares it.
    ///
    /// # Errors
    /// [`EngineError::Bundle`] when the bundle has problems.
    pub fn load_bundle(
        &self,
        files: &[BundleFile],
        progress: &dyn Fn(Stage),
    ) -> Result<Arc<PolicyComponent>, EngineError> {
        let snapshot = self.build_bundle(files, progress)?;
        self.prepare(snapshot.into(), progress)
    }

    /// Makes a component of a bundle: its bytes, the same for the same files. The files are in them, for [`source_of`].
    ///
    /// # Errors
    /// [`EngineError::Bundle`] when the bundle has problems.
    pub fn build_bundle(&self, files: &[BundleFile], progress: &dyn Fn(Stage)) -> Result<Vec<u8>, EngineError> {
        let files = sorted(files);
        let memory_bytes_max = self.runtime.cage.memory_bytes_max;
        let key = snapshot_key(&files, memory_bytes_max);
        self.cache.get_or_make(Kind::Snapshot, &key, || {
            progress(Stage::Loading);
            source::with_source(snapshot::take(ENGINE_COMPONENT, &files, memory_bytes_max)?, &files)
        })
    }

    /// Loads a bundle to be tried by its author, without making a component of it.
    ///
    /// # Errors
    /// [`EngineError::Bundle`] when the bundle has problems.
    pub fn rehearse(&self, files: &[BundleFile], progress: &dyn Fn(Stage)) -> Result<Rehearsal, EngineError> {
        let component = self.compiled(ENGINE_COMPONENT, &ENGINE_DIGEST, progress)?;
        Rehearsal::new(Arc::clone(&self.runtime), &component, &sorted(files))
    }

    /// Prepares a component that somebody made.
    ///
    /// # Errors
    /// When it is not a component of our world, or imports something.
    pub fn load_component(
        &self,
        bytes: impl Into<Arc<[u8]>>,
        progress: &dyn Fn(Stage),
    ) -> Result<Arc<PolicyComponent>, EngineError> {
        self.prepare(bytes.into(), progress)
    }

    /// The limits in force.
    #[must_use]
    pub fn cage(&self) -> &Cage {
        &self.runtime.cage
    }

    fn prepare(&self, bytes: Arc<[u8]>, progress: &dyn Fn(Stage)) -> Result<Arc<PolicyComponent>, EngineError> {
        if bytes.len() > COMPONENT_BYTES_MAX {
            return Err(EngineError::NotAComponent(format!(
                "{} bytes, at most {COMPONENT_BYTES_MAX} are read",
                bytes.len()
            )));
        }
        let digest = digest_of(&bytes);
        let component = self.compiled(&bytes, &digest, progress)?;
        let component = PolicyComponent::new(Arc::clone(&self.runtime), bytes, digest, &component)?;
        Ok(Arc::new(component))
    }

    fn compiled(&self, bytes: &[u8], digest: &str, progress: &dyn Fn(Stage)) -> Result<Component, EngineError> {
        let wasm = &self.runtime.wasm;
        let key = Key::default()
            .part(digest.as_bytes())
            // The compiler's settings and wasmtime's version.
            .hashed(wasm.precompile_compatibility_hash())
            .finish_hex();
        let compile = || {
            progress(Stage::Compiling);
            weight::check(bytes)?;
            wasm.precompile_component(bytes).map_err(not_a_component)
        };
        let artefact = self.cache.get_or_make(Kind::Artefact, &key, compile)?;
        match load_artefact(wasm, &artefact) {
            Ok(component) => Ok(component),
            // Intact and still not to be loaded: made by something else. Once more, from scratch.
            Err(_) => {
                self.cache.remove(Kind::Artefact, &key)?;
                let artefact = self.cache.get_or_make(Kind::Artefact, &key, compile)?;
                load_artefact(wasm, &artefact).map_err(not_a_component)
            }
        }
    }
}

/// The component that the binary carries.
#[must_use]
pub fn engine_component() -> &'static [u8] {
    ENGINE_COMPONENT
}

#[expect(unsafe_code, reason = "loading machine code that was compiled before is what makes a start fast")]
fn load_artefact(wasm: &wasmtime::Engine, artefact: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: the bytes came out of `precompile_component`, either just now or
    // through the cache, which reads only files that nobody else could have
    // written and whose digest is right.
    unsafe { Component::deserialize(wasm, artefact) }
}

fn not_a_component(error: wasmtime::Error) -> EngineError {
    EngineError::NotAComponent(short(&error.root_cause().to_string()))
}

fn sorted(files: &[BundleFile]) -> Vec<BundleFile> {
    let mut files = files.to_vec();
    files.sort();
    files
}

fn snapshot_key(files: &[BundleFile], memory_bytes_max: usize) -> String {
    let key = Key::default().part(SNAPSHOT_FORMAT).part(&memory_bytes_max.to_le_bytes()).part(ENGINE_DIGEST.as_bytes());
    files.iter().fold(key, |key, file| key.part(file.path.as_bytes()).part(file.text.as_bytes())).finish_hex()
}
