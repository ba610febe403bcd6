//! Where setup writes: a file of a repository, never outside of it, whole or not at all.

use std::fs::{self, Permissions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use super::entry::Tool;
use crate::cli::error::CliError;

/// A repository.
#[derive(Debug)]
pub(super) struct Repository {
    /// Its top folder, without symbolic links.
    pub(super) root: PathBuf,
    /// Where git keeps what is not part of the repository's content.
    git: PathBuf,
}

impl Repository {
    /// The repository that a folder is in.
    pub(super) fn find(start: &Path) -> Result<Self, CliError> {
        let next = "run this inside of the repository, or name it: --dir REPO";
        let start = start
            .canonicalize()
            .map_err(|error| CliError::new(format!("cannot use the folder `{}`: {error}", start.display()), next))?;
        let found = start.ancestors().find_map(|dir| git_folder(dir).map(|git| (dir.to_owned(), git)));
        let (root, git) =
            found.ok_or_else(|| CliError::new(format!("`{}` is not in a git repository", start.display()), next))?;
        Ok(Self { root, git })
    }

    /// Where setup remembers what it did for a tool.
    pub(super) fn record(&self, tool: Tool) -> PathBuf {
        self.git.join("portreeve").join(format!("setup-{}.json", tool.agent_type()))
    }

    /// The file of a tool. A link must not lead out of the repository: what lies there is not this repository's to set.
    pub(super) fn file(&self, tool: Tool) -> Result<Place, CliError> {
        let (folder, name) = tool.file();
        let shown = folder.map_or_else(|| name.to_owned(), |folder| format!("{folder}/{name}"));
        let folder = match folder {
            None => self.root.clone(),
            Some(folder) => self.root.join(folder),
        };
        let has_folder = folder.symlink_metadata().is_ok();
        let inside = if has_folder { self.inside(&folder, &shown)? } else { folder };
        let path = inside.join(name);
        let path = if path.symlink_metadata().is_ok() { self.inside(&path, &shown)? } else { path };
        Ok(Place { path, shown, has_folder })
    }

    fn inside(&self, path: &Path, shown: &str) -> Result<PathBuf, CliError> {
        let next = "replace the link by a file or folder of the repository";
        let real = path
            .canonicalize()
            .map_err(|error| CliError::new(format!("`{}` leads nowhere: {error}", path.display()), next))?;
        if real.starts_with(&self.root) {
            return Ok(real);
        }
        let cause = format!("`{shown}` leads out of the repository, to `{}`", real.display());
        Err(CliError::new(cause, next))
    }
}

/// The folder that `.git` is or, in a work tree, names.
fn git_folder(dir: &Path) -> Option<PathBuf> {
    let git = dir.join(".git");
    if git.is_dir() {
        return Some(git);
    }
    let text = fs::read_to_string(&git).ok()?;
    let named = dir.join(text.strip_prefix("gitdir:")?.trim());
    // Whoever unpacked the repository may have written any folder there; a git folder has a HEAD.
    named.join("HEAD").is_file().then_some(named)
}

/// The file of a tool in a repository.
#[derive(Debug)]
pub(super) struct Place {
    /// Where it is, links followed.
    pub(super) path: PathBuf,
    /// As people know it.
    pub(super) shown: String,
    /// Whether its folder is there.
    pub(super) has_folder: bool,
}

impl Place {
    /// What the file holds; none where there is none.
    pub(super) fn read(&self) -> Result<Option<String>, CliError> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unusable(&self.path, "read", &error)),
        };
        String::from_utf8(bytes).map(Some).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            CliError::new(
                format!("`{}` is not UTF-8 text (byte {at})", self.shown),
                "convert it first; nothing was changed",
            )
        })
    }

    /// Writes the file, if it still is what was read of it.
    pub(super) fn write(&self, read: Option<&str>, text: &str) -> Result<(), CliError> {
        self.check_unmoved(read)?;
        write_whole(&self.path, text)
    }

    /// Removes the file, if it still is what was read of it, and its folder if that was made for it and is empty.
    pub(super) fn delete(&self, read: Option<&str>, with_folder: bool) -> Result<(), CliError> {
        self.check_unmoved(read)?;
        fs::remove_file(&self.path).map_err(|error| unusable(&self.path, "remove", &error))?;
        if with_folder {
            // Fails when it is not empty, which is as well.
            drop(self.path.parent().map(fs::remove_dir));
        }
        Ok(())
    }

    fn check_unmoved(&self, read: Option<&str>) -> Result<(), CliError> {
        if self.read()?.as_deref() == read {
            return Ok(());
        }
        Err(CliError::new(format!("`{}` was changed meanwhile", self.shown), "run this again; nothing was changed"))
    }
}

/// Writes a file so that whoever looks sees all of it or what was there, with the permissions that were there.
pub(super) fn write_whole(path: &Path, text: &str) -> Result<(), CliError> {
    use std::os::unix::fs::PermissionsExt;
    let failed = |error: std::io::Error| unusable(path, "write", &error);
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    fs::create_dir_all(folder).map_err(failed)?;
    let mut builder = tempfile::Builder::new();
    // The process' mask takes from this what it takes from every new file.
    builder.prefix(".portreeve-").permissions(Permissions::from_mode(0o666));
    let mut file = builder.tempfile_in(folder).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    if let Ok(meta) = path.metadata() {
        file.as_file().set_permissions(meta.permissions()).map_err(failed)?;
    }
    file.as_file().sync_all().map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

pub(super) fn unusable(path: &Path, what: &str, error: &std::io::Error) -> CliError {
    CliError::new(
        format!("cannot {what} `{}`: {error}", path.display()),
        "look at its permissions, then run this again",
    )
}
