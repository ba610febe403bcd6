//! Bundles as files: the default one that the binary carries, and folders.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use include_dir::{Dir, DirEntry, include_dir};

use super::error::EngineError;
use super::types::BundleFile;

/// The default bundle. `build.rs` runs again when a file of it changes.
static POLICIES: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../policies");

/// Files that belong to a bundle; the rest of a folder is not read.
const EXTENSIONS: [&str; 3] = ["toml", "cedar", "cedarschema"];
/// Files that people read; they may be anywhere.
const NOTES: &str = "md";
/// A folder beside a bundle's own: components of somebody's own making, whose crates hold such files too.
const EXAMPLES: &str = "examples";
const FILE_BYTES_MAX: u64 = 1 << 20;
const BUNDLE_BYTES_MAX: usize = 16 << 20;
pub(super) const FILES_MAX: usize = 2_000;
const DEPTH_MAX: usize = 8;

/// The bundle that the binary carries, sorted by path.
#[must_use]
pub fn default_bundle() -> Vec<BundleFile> {
    let mut files = Vec::new();
    collect_embedded(&POLICIES, &mut files);
    files.sort();
    files
}

fn collect_embedded(dir: &Dir<'_>, files: &mut Vec<BundleFile>) {
    for entry in dir.entries() {
        match entry {
            DirEntry::Dir(dir) => collect_embedded(dir, files),
            DirEntry::File(file) => {
                let text = file.contents_utf8();
                if let Some(text) = text.filter(|_| belongs(file.path()) && !is_example(file.path())) {
                    files.push(BundleFile { path: bundle_path(file.path()), text: text.to_owned() });
                }
            }
        }
    }
}

/// Reads a bundle from a folder, sorted by path.
///
/// # Errors
/// When something cannot be read, is larger than any bundle needs, or is a
/// link that leads out of the folder.
pub fn read_bundle(dir: &Path) -> Result<Vec<BundleFile>, EngineError> {
    let root = dir.canonicalize().map_err(|source| unreadable(dir, source))?;
    let mut reader = Reader { root, bytes: 0, files: Vec::new() };
    reader.read_dir(Path::new(""), 0)?;
    reader.files.sort();
    Ok(reader.files)
}

struct Reader {
    root: PathBuf,
    bytes: usize,
    files: Vec<BundleFile>,
}

impl Reader {
    fn read_dir(&mut self, relative: &Path, depth: usize) -> Result<(), EngineError> {
        let dir = self.root.join(relative);
        if depth > DEPTH_MAX {
            return Err(refused(&dir, "folders of a bundle are not nested as deep"));
        }
        let entries = fs::read_dir(&dir).map_err(|source| unreadable(&dir, source))?;
        for entry in entries {
            let entry = entry.map_err(|source| unreadable(&dir, source))?;
            let kind = entry.file_type().map_err(|source| unreadable(&entry.path(), source))?;
            let path = relative.join(entry.file_name());
            if is_hidden(&path) || is_example(&path) {
                continue;
            }
            // A file may be a link to one inside; a folder that is a link would be left out, and its rules with it.
            if kind.is_symlink() && self.root.join(&path).is_dir() {
                return Err(refused(&self.root.join(&path), "a folder of a bundle is not a link"));
            }
            if kind.is_dir() {
                self.read_dir(&path, depth + 1)?;
            } else if belongs(&path) {
                self.read_file(&path)?;
            } else if depth > 0 && path.extension().is_none_or(|ext| ext != NOTES) {
                // Beside the folders there may be a licence and whatever; within them everything but notes is meant as a rule.
                let what = "not a file of a bundle: those end in .toml or .cedar, in small letters";
                return Err(refused(&self.root.join(&path), what));
            }
        }
        Ok(())
    }

    fn read_file(&mut self, relative: &Path) -> Result<(), EngineError> {
        let path = self.root.join(relative);
        let fail = |source| unreadable(&path, source);
        let target = path.canonicalize().map_err(fail)?;
        if !target.starts_with(&self.root) {
            return Err(refused(&path, "a link that leads out of the bundle"));
        }
        if !target.is_file() {
            return Err(refused(&path, "not a file"));
        }
        let mut text = String::new();
        fs::File::open(&target).map_err(fail)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(fail)?;
        self.bytes += text.len();
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(refused(&path, "a file of a bundle has at most 1 MiB"));
        }
        if self.bytes > BUNDLE_BYTES_MAX || self.files.len() >= FILES_MAX {
            return Err(refused(&path, "a bundle has at most 2000 files and 16 MiB"));
        }
        self.files.push(BundleFile { path: bundle_path(relative), text });
        Ok(())
    }
}

fn belongs(path: &Path) -> bool {
    path.extension().and_then(|extension| extension.to_str()).is_some_and(|extension| EXTENSIONS.contains(&extension))
}

fn is_example(path: &Path) -> bool {
    path.starts_with(EXAMPLES)
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'))
}

fn bundle_path(path: &Path) -> String {
    let parts: Vec<_> = path.components().map(|part| part.as_os_str().to_string_lossy()).collect();
    parts.join("/")
}

fn unreadable(path: &Path, source: io::Error) -> EngineError {
    EngineError::Unreadable { path: path.to_owned(), source }
}

fn refused(path: &Path, why: &'static str) -> EngineError {
    unreadable(path, io::Error::new(io::ErrorKind::PermissionDenied, why))
}
