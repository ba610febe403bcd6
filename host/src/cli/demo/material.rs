//! What the agents work on: the real files of a git repository.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sha2::{Digest, Sha256};

use crate::cli::error::CliError;
use crate::domain::lock_key::LockKey;
use crate::store::audit::hex;

/// Most files that the agents work on; more are sampled evenly.
const FILES_MAX: usize = 1_000;
/// Most bytes of a file that are read.
const FILE_BYTES_MAX: u64 = 256 * 1024;
/// Files that everybody wants.
const HOT_FILES: usize = 6;

/// A file of the repository.
#[derive(Debug, Clone)]
pub(super) struct Source {
    /// Its path, which is its lock key.
    pub(super) path: String,
    /// Lines of its first 256 KiB.
    pub(super) lines: usize,
    /// Whether a task may quote its path: not where the path itself meets a guardrail.
    pub(super) quotable: bool,
}

/// The files of a repository.
#[derive(Debug)]
pub(super) struct Material {
    root: PathBuf,
    /// The files that the agents work on.
    pub(super) files: Vec<Source>,
    /// Files whose very names the guardrails keep from everybody below an operator, such as private keys.
    pub(super) guarded: Vec<Source>,
    /// Files that git names.
    pub(super) listed: usize,
    /// Names that are no lock keys, and what is no file.
    pub(super) skipped: usize,
}

impl Material {
    /// Reads the list of files of the repository at `repo`, tracked and new, without what it ignores.
    pub(super) fn read(repo: &Path) -> Result<Self, CliError> {
        let root = PathBuf::from(git_text(repo, &["rev-parse", "--show-toplevel"])?.trim_end_matches('\n'));
        let names = git(&root, &["ls-files", "-z", "--cached", "--others", "--exclude-standard"])?;
        let mut names: Vec<&[u8]> = names.split(|byte| *byte == 0).filter(|name| !name.is_empty()).collect();
        names.sort_unstable();
        names.dedup();
        let listed = names.len();
        let keys: Vec<String> = names.into_iter().filter_map(lock_key).collect();
        let step = keys.len().div_ceil(FILES_MAX).max(1);
        let sampled: Vec<&String> = keys.iter().step_by(step).collect();
        let files: Vec<Source> = sampled.iter().filter_map(|path| source(&root, path)).collect();
        let skipped = listed.saturating_sub(keys.len()) + sampled.len().saturating_sub(files.len());
        Ok(Self { root, files, guarded: Vec::new(), listed, skipped })
    }

    /// Two files are the least that agents can collide on and work beside each other.
    pub(super) fn enough(&self) -> Result<(), CliError> {
        if self.files.len() >= 2 {
            return Ok(());
        }
        let root = self.root.display();
        Err(CliError::new(
            format!(
                "the repository `{root}` has {} file(s) that agents may lock; the demo needs two",
                self.files.len()
            ),
            "name a repository with files in it: `portreeve demo --repo PATH`",
        ))
    }

    /// The root of the repository.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// How many files everybody wants.
    pub(super) fn hot(&self) -> usize {
        HOT_FILES.min(self.files.len() / 2)
    }

    /// The beginning of a file, as text; what is no text is replaced.
    pub(super) fn text(&self, file: &Source, bytes: usize) -> String {
        let mut content = beginning(&self.root.join(&file.path)).unwrap_or_default();
        content.truncate(bytes);
        String::from_utf8_lossy(&content).replace('\0', " ")
    }

    /// Reads a file and computes what its digest would be after an edit. Nothing is written.
    pub(super) fn edited_digest(&self, file: &Source, edit: &str) -> io::Result<String> {
        let content = beginning(&self.root.join(&file.path))?;
        Ok(hex(&Sha256::new().chain_update(&content).chain_update(edit.as_bytes()).finalize()))
    }
}

fn lock_key(name: &[u8]) -> Option<String> {
    let name = std::str::from_utf8(name).ok()?;
    // A colon would make it a logical key, which is another thing than a file.
    LockKey::parse(name).ok().filter(|_| !name.contains(':')).map(|key| key.to_string())
}

fn source(root: &Path, path: &str) -> Option<Source> {
    let full = root.join(path);
    // Links may lead out of the repository, submodules are folders, deleted files are gone.
    if !full.symlink_metadata().ok()?.is_file() {
        return None;
    }
    let content = beginning(&full).ok()?;
    let lines = content.iter().filter(|byte| **byte == b'\n').count();
    Some(Source { path: path.to_owned(), lines, quotable: true })
}

fn beginning(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX).read_to_end(&mut content)?;
    Ok(content)
}

fn git_text(repo: &Path, args: &[&str]) -> Result<String, CliError> {
    git(repo, args).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// Asks git, without a shell, without its pager, prompts and file-system monitors.
fn git(repo: &Path, args: &[&str]) -> Result<Vec<u8>, CliError> {
    let mut command = Command::new("git");
    command.args(["--no-pager", "--no-optional-locks", "-c", "core.fsmonitor=false", "-C"]);
    command.arg(repo).args(args.iter().map(OsStr::new)).stdin(Stdio::null());
    command.env("GIT_TERMINAL_PROMPT", "0");
    let output = command.output().map_err(|error| {
        let next = match error.kind() {
            io::ErrorKind::NotFound => "install git; the demo asks it which files belong to the repository",
            _ => "check that `git` on your PATH can be run",
        };
        CliError::new(format!("cannot run git: {error}"), next)
    })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(CliError::new(
        format!("`{}` is not a git repository that can be read: {}", repo.display(), said.trim()),
        "run the demo inside a repository, or name one: `portreeve demo --repo PATH`",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_no_lock_keys_are_left_out() {
        assert_eq!(lock_key(b"src/main.rs").as_deref(), Some("src/main.rs"));
        for bad in [&b"a//b"[..], b" a", b"\xff\xfe", b"flag:a", b"a\\b", b"line\nbreak"] {
            assert_eq!(lock_key(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_folder_without_a_repository_is_an_error_with_a_next_step() {
        let folder = tempfile::tempdir().unwrap();
        let error = Material::read(folder.path()).unwrap_err();
        assert!(error.cause.contains("git"), "{error}");
        assert!(!error.next.is_empty());
    }
}
