//! `portreeve policy`: from the text of a policy to the file that decides.

mod build;
mod check;
mod components;
mod describe;
mod diff;
mod extract;
mod format;
mod new;
mod replay;
mod sign;
mod solver;
mod test;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Subcommand};

use super::error::CliError;
use super::output::Output;
use super::progress::Progress;
use super::{failure, folders};
use crate::authoring::source::{Policy as Text, Source};
use crate::engine::types::BundleFile;
use crate::engine::{Cage, Engine, EngineError, PolicyComponent, Stage};
use crate::telemetry;

/// Write a policy, test it, build the one file that decides, and put it in force
///
/// A policy is a folder of text, a bundle, or a component file that was built of one; `default` names the one that the
/// program carries.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  portreeve policy new ./policies\n  portreeve policy test ./policies --watch\n  portreeve policy build ./policies -o policy.wasm"
)]
pub(super) struct Policy {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    New(new::New),
    Fmt(format::Format),
    Check(check::Check),
    Test(test::Test),
    Build(build::Build),
    Diff(diff::Diff),
    Describe(describe::Describe),
    Extract(extract::Extract),
    Replay(replay::Replay),
    Solver(solver::Solver),
    Keygen(sign::Keygen),
    Sign(sign::Sign),
    Push(components::Push),
    Activate(components::Activate),
    List(components::List),
    Show(components::Show),
    Shadow(components::Shadow),
    Report(components::Report),
}

impl Policy {
    pub(super) async fn run(self, output: &Output) -> Result<ExitCode, CliError> {
        telemetry::init_logs("warn");
        match self.action {
            Action::New(new) => new.run(output),
            Action::Fmt(format) => format.run(output),
            Action::Check(check) => check.run(output),
            Action::Test(test) => test.run(output).await,
            Action::Build(build) => build.run(output),
            Action::Diff(diff) => diff.run(output).await,
            Action::Describe(describe) => describe.run(output),
            Action::Extract(extract) => extract.run(output),
            Action::Replay(replay) => replay.run(output).await,
            Action::Solver(solver) => solver.run(output).await,
            Action::Keygen(keygen) => keygen.run(output),
            Action::Sign(sign) => sign.run(output),
            Action::Push(push) => push.run(output).await,
            Action::Activate(activate) => activate.run(output).await,
            Action::List(list) => list.run(output).await,
            Action::Show(show) => show.run(output).await,
            Action::Shadow(shadow) => shadow.run(output).await,
            Action::Report(report) => report.run(output).await,
        }
    }
}

/// Where compiled policies are kept.
#[derive(Debug, Args)]
struct Cache {
    /// Where compiled policies are kept [env: PORTREEVE_CACHE] [default: ~/.cache/portreeve]
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
}

impl Cache {
    fn engine(&self) -> Result<Engine, CliError> {
        let cache = folders::cache(self.cache.clone())?;
        Engine::open(&cache, Cage::default()).map_err(|error| failure::engine(&error, None))
    }
}

/// The text of the policy that somebody names.
fn bundle(source: &Source) -> Result<Vec<BundleFile>, CliError> {
    let files = source.read().and_then(|policy| policy.files()).map_err(|error| explain(&error, source))?;
    files.ok_or_else(|| {
        CliError::new(
            "the component does not carry the text that it was made of",
            "name the folder of its bundle; a component of somebody's own making has none",
        )
    })
}

/// The component of the policy that somebody names.
fn component(engine: &Engine, source: &Source, output: &Output) -> Result<Arc<PolicyComponent>, CliError> {
    let progress = Progress::new(output);
    let show = |stage: Stage| progress.show(stage);
    let loaded = source.read().and_then(|policy| match policy {
        Text::Bundle(files) => engine.load_bundle(&files, &show),
        Text::Component(bytes) => engine.load_component(bytes, &show),
    });
    loaded.map_err(|error| explain(&error, source))
}

fn explain(error: &EngineError, source: &Source) -> CliError {
    match (error, source) {
        (EngineError::Unreadable { .. } | EngineError::NotAComponent(_), Source::File(path)) => CliError::new(
            error.to_string(),
            format!("`{}` is neither a folder with a bundle.toml nor a component file", path.display()),
        ),
        _ => failure::engine(error, source.folder()),
    }
}
