//! `portreeve policy fmt`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use crate::authoring::format::format;
use crate::cli::error::CliError;
use crate::cli::failure;
use crate::cli::output::Output;
use crate::engine::types::{BundleFile, Problem};
use crate::engine::{EngineError, read_bundle};

/// Bring a policy's files into their one layout
///
/// Neither their meaning nor a comment changes. TOML and Cedar files are laid out; of a Cedar schema, only the ends of lines.
/// A file that does not parse is not touched, and told.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  portreeve policy fmt ./policies\n  portreeve policy fmt ./policies --check")]
pub(super) struct Format {
    /// The folder of the policy
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Write nothing; exit with 1 when something would change
    #[arg(long)]
    check: bool,
}

impl Format {
    pub(super) fn run(self, output: &Output) -> Result<ExitCode, CliError> {
        let files = read_bundle(&self.folder).map_err(|error| failure::engine(&error, Some(&self.folder)))?;
        let (mut changed, mut problems) = (Vec::new(), Vec::<Problem>::new());
        for file in files {
            match format(&file) {
                Ok(text) if text == file.text => {}
                Ok(text) => changed.push(BundleFile { path: file.path, text }),
                Err(problem) => problems.push(problem),
            }
        }
        if !self.check {
            for file in &changed {
                write(&self.folder.join(&file.path), &file.text)?;
            }
        }
        if output.json {
            let paths: Vec<&str> = changed.iter().map(|file| file.path.as_str()).collect();
            output.json(&json!({"changed": paths, "written": !self.check, "problems": problems}))?;
        } else {
            let word = if self.check { "would change" } else { "changed" };
            for file in &changed {
                output.line(format_args!("{word} {}", self.folder.join(&file.path).display()))?;
            }
        }
        if !problems.is_empty() && !output.json {
            return Err(failure::engine(&EngineError::Bundle(problems), Some(&self.folder)));
        }
        let is_fine = problems.is_empty() && (!self.check || changed.is_empty());
        Ok(if is_fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Writes a file whole or not at all.
fn write(path: &Path, text: &str) -> Result<(), CliError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let written = tempfile::NamedTempFile::new_in(folder).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        // A temporary file is its owner's alone; the text keeps who might read it.
        file.as_file().set_permissions(std::fs::metadata(path)?.permissions())?;
        file.persist(path).map_err(|error| error.error)
    });
    let failed =
        |error| CliError::new(format!("cannot write `{}`: {error}", path.display()), "make it writable for you");
    written.map(|_| ()).map_err(failed)
}
