//! `portreeve policy extract`.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::{Cache, bundle, explain};
use crate::authoring::source::{Policy as Text, Source};
use crate::cli::error::{CliError, EXIT_REFUSED};
use crate::cli::output::Output;
use crate::cli::progress::Progress;
use crate::signature::unsigned;

/// Write the text that a component was made of into a folder
///
/// A file may say anything of itself: with --verify the component is made again of that text by this program, and must be the
/// same to the byte.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  portreeve policy extract policy.wasm ./policies\n  portreeve policy extract policy.wasm ./policies --verify"
)]
pub(super) struct Extract {
    /// The component file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The folder to write to: new, or empty
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Make the component again, and refuse text that it was not made of
    #[arg(long)]
    verify: bool,
    #[command(flatten)]
    cache: Cache,
}

impl Extract {
    pub(super) fn run(self, output: &Output) -> Result<ExitCode, CliError> {
        let source = Source::named(&self.file);
        let files = bundle(&source)?;
        if self.verify {
            self.make_again(&source, output)?;
        }
        if fs::read_dir(&self.folder).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(CliError::new(
                format!("`{}` holds something already", self.folder.display()),
                "name a folder that is new or empty",
            ));
        }
        for file in &files {
            let path = self.folder.join(&file.path);
            write_new(&path, &file.text).map_err(|error| {
                CliError::new(
                    format!("cannot write `{}`: {error}", path.display()),
                    "choose a folder where you may write",
                )
            })?;
        }
        if output.json {
            let paths: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
            return output
                .json(&json!({"folder": self.folder, "files": paths, "verified": self.verify}))
                .map(|()| ExitCode::SUCCESS);
        }
        let word = if self.verify { ", which the component was made of" } else { "" };
        output.line(format_args!("{}: {} files{word}", self.folder.display(), files.len()))?;
        Ok(ExitCode::SUCCESS)
    }

    fn make_again(&self, source: &Source, output: &Output) -> Result<(), CliError> {
        let read = source.read().map_err(|error| explain(&error, source))?;
        let (Text::Component(bytes), Some(files)) = (&read, read.files().map_err(|error| explain(&error, source))?)
        else {
            return Err(CliError::new("there is nothing to make again", "name a component file"));
        };
        let engine = self.cache.engine()?;
        let progress = Progress::new(output);
        let again = tokio::task::block_in_place(|| engine.build_bundle(&files, &|stage| progress.show(stage)));
        if again.map_err(|error| explain(&error, source))?.as_slice() == unsigned(bytes) {
            return Ok(());
        }
        Err(CliError::new(
            "the component is not what this program makes of the text that it carries; nothing was written",
            "ask its author which version of the program it was built with, and verify it with that one",
        )
        .with_exit(EXIT_REFUSED))
    }
}

fn write_new(path: &Path, text: &str) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::File::create_new(path)?.write_all(text.as_bytes())
}
