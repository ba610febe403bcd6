//! `portreeve policy build`.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use serde_json::json;

use super::{Cache, bundle, explain};
use crate::authoring::source::{Policy as Text, Source};
use crate::authoring::testing;
use crate::cli::error::CliError;
use crate::cli::output::{Output, Tone, tame};
use crate::cli::progress::Progress;
use crate::engine::{EngineError, PolicyComponent, component_of, digest_of, is_module};

/// Build the one file that decides: a component with the policy in it
///
/// Loads the policy inside the component that the program carries and keeps its memory, so that each instance starts with
/// everything parsed. The same text and the same program give the same bytes. The file carries the text that it was made of;
/// see `describe` and `extract`. A policy that fails its own tests is not built.
///
/// A core WebAssembly module, a policy that somebody wrote as a program, is wrapped as a component; it carries no text.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  portreeve policy build ./policies -o policy.wasm\n  portreeve policy build target/wasm32-unknown-unknown/release/freeze.wasm -o freeze.policy.wasm"
)]
pub(super) struct Build {
    /// The folder of the policy, a core module, or `default`
    #[arg(value_name = "POLICY")]
    policy: PathBuf,
    /// The file to write
    #[arg(short, long = "out", value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    cache: Cache,
}

impl Build {
    pub(super) fn run(self, output: &Output) -> Result<ExitCode, CliError> {
        let (source, started) = (Source::named(&self.policy), Instant::now());
        let module = match source.read() {
            Ok(Text::Component(bytes)) if is_module(&bytes) => Some(bytes),
            _ => None,
        };
        let Built { bytes, component, cases, passed } = match module {
            Some(module) => self.wrap(&module, output)?,
            None => self.load(&source, output)?,
        };
        if !passed {
            return Err(CliError::new(
                "the policy does not decide as its own tests say; nothing was written",
                format!("look at what differs: portreeve policy test {}", self.policy.display()),
            ));
        }
        write(&self.out, &bytes)?;
        let manifest = component.manifest();
        if output.json {
            output.json(&json!({
                "file": self.out, "component": digest_of(&bytes), "bytes": bytes.len(), "manifest": manifest,
            }))?;
        } else {
            output.line(format_args!(
                "{}  {} {}",
                self.out.display(),
                tame(&manifest.name),
                tame(&manifest.version)
            ))?;
            output.line(format_args!("component  {}", output.paint(Tone::Good, component.digest())))?;
            let seconds = started.elapsed().as_secs_f64();
            output.line(format_args!("{} bytes in {seconds:.1} s; {} cases as promised", bytes.len(), cases))?;
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Makes the component of a bundle.
    fn load(&self, source: &Source, output: &Output) -> Result<Built, CliError> {
        let files = bundle(source)?;
        let engine = self.cache.engine()?;
        let progress = Progress::new(output);
        let show = |stage| progress.show(stage);
        let built = tokio::task::block_in_place(|| {
            let bytes = engine.build_bundle(&files, &show)?;
            // Compiled here, where it takes nobody's time but the author's, and tried as it will decide.
            let component = engine.load_component(bytes.clone(), &show)?;
            let run = testing::run_built(&component, &files)?;
            Ok::<_, EngineError>(Built { bytes, component, cases: run.cases.len(), passed: run.passed() })
        });
        built.map_err(|error| explain(&error, source))
    }

    /// Makes a component of what somebody compiled, and tries it in the same way.
    fn wrap(&self, module: &[u8], output: &Output) -> Result<Built, CliError> {
        let engine = self.cache.engine()?;
        let progress = Progress::new(output);
        let show = |stage| progress.show(stage);
        let built = tokio::task::block_in_place(|| {
            let bytes = component_of(module)?;
            let component = engine.load_component(bytes.clone(), &show)?;
            let run = testing::run_own(&component)?;
            let cases = usize::try_from(run.own_passed).unwrap_or(usize::MAX);
            Ok::<_, EngineError>(Built { bytes, component, cases, passed: run.passed() })
        });
        let next = "compile it for wasm32-unknown-unknown, with the world of wit/policy.wit and no imports";
        built.map_err(|error| CliError::new(error.to_string(), next))
    }
}

/// A component that was made, and what its tests came to.
struct Built {
    bytes: Vec<u8>,
    component: Arc<PolicyComponent>,
    cases: usize,
    passed: bool,
}

/// Writes a file whole or not at all. Only a file is taken the place of: not a device, and not what a link leads to.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), CliError> {
    if fs::symlink_metadata(path).is_ok_and(|there| !there.is_file()) {
        let what = format!("`{}` is there, and is no file", path.display());
        return Err(CliError::new(what, "choose another file: -o FILE"));
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let written = tempfile::Builder::new().permissions(readable()).tempfile_in(folder).and_then(|mut file| {
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)
    });
    let failed =
        |error| CliError::new(format!("cannot write `{}`: {error}", path.display()), "choose another file: -o FILE");
    written.map(|_| ()).map_err(failed)
}

/// A component is no secret.
fn readable() -> fs::Permissions {
    use std::os::unix::fs::PermissionsExt as _;
    fs::Permissions::from_mode(0o644)
}
