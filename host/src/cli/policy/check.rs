//! `portreeve policy check`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::{Cache, bundle, explain};
use crate::authoring::check::problems;
use crate::authoring::source::Source;
use crate::cli::error::CliError;
use crate::cli::output::{Output, Tone, tame};
use crate::cli::progress::Progress;

/// Tell everything that is wrong with a policy, with file, line and column
///
/// Strict: the schema, the policies against it, expressions and their examples, names of what is not there, and rules that can
/// never match or change nothing. Exits with 1 when anything is told.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  portreeve policy check ./policies\n  portreeve policy check ./policies --json")]
pub(super) struct Check {
    /// The folder of the policy, or a component file
    #[arg(value_name = "POLICY")]
    policy: PathBuf,
    #[command(flatten)]
    cache: Cache,
}

impl Check {
    pub(super) fn run(self, output: &Output) -> Result<ExitCode, CliError> {
        let source = Source::named(&self.policy);
        let files = bundle(&source)?;
        let engine = self.cache.engine()?;
        let found = {
            let progress = Progress::new(output);
            tokio::task::block_in_place(|| problems(&engine, &files, &|stage| progress.show(stage)))
        };
        let found = found.map_err(|error| explain(&error, &source))?;
        if output.json {
            output.json(&json!({"valid": found.is_empty(), "problems": found}))?;
        } else {
            for problem in &found {
                let text = match source.folder() {
                    Some(folder) if !problem.file.is_empty() => folder.join(problem.to_string()).display().to_string(),
                    _ => problem.to_string(),
                };
                output.line(tame(&text))?;
            }
            let text = if found.is_empty() {
                output.paint(Tone::Good, format_args!("{} files, no problem", files.len()))
            } else {
                output.paint(Tone::Bad, format_args!("{} problem(s)", found.len()))
            };
            output.line(text)?;
        }
        Ok(if found.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
