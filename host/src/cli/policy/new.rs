//! `portreeve policy new`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use crate::authoring::scaffold::scaffold;
use crate::cli::error::{CliError, EXIT_USAGE};
use crate::cli::output::Output;

/// Start a policy of your own: the default one, as text in a new folder
///
/// Take out what you don't want. The service needs every operation of operations.toml; a policy without one is not activated.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  portreeve policy new ./policies\n  portreeve policy new ./policies --name acme")]
pub(super) struct New {
    /// The folder to write it to: new, or empty
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// What to call it: lower-case letters, digits and underscores [default: the folder's name]
    #[arg(long)]
    name: Option<String>,
}

impl New {
    pub(super) fn run(self, output: &Output) -> Result<ExitCode, CliError> {
        let name = self.name.clone().unwrap_or_else(|| self.folder_name());
        if !is_name(&name) {
            return Err(CliError::new(
                format!("`{}` is not a name for a policy", name.escape_debug()),
                "name it with 1 to 64 lower-case letters, digits and underscores, a letter first: --name acme",
            )
            .with_exit(EXIT_USAGE));
        }
        let written = scaffold(&self.folder, &name).map_err(|error| {
            CliError::new(
                format!("cannot write a policy to `{}`: {error}", self.folder.display()),
                "name a folder that is new or empty, where you may write",
            )
        })?;
        if output.json {
            output.json(&json!({"name": name, "folder": self.folder, "files": written}))?;
        } else {
            let folder = self.folder.display();
            output.line(format_args!(
                "{folder}: the policy `{name}`, {} files; README.md says what each is",
                written.len()
            ))?;
            output.line(format_args!("next: edit them, then `portreeve policy test {folder}`"))?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn folder_name(&self) -> String {
        let absolute = std::path::absolute(&self.folder).unwrap_or_else(|_| self.folder.clone());
        let name = absolute.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
        let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        if is_name(&name) { name } else { "policy".to_owned() }
    }
}

fn is_name(text: &str) -> bool {
    let rest = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    text.len() <= 64 && text.starts_with(|c: char| c.is_ascii_lowercase()) && text.bytes().all(rest)
}
