//! Files that were expensive to make: snapshots and ahead-of-time artefacts.
//!
//! An artefact is native code and is trusted when it is loaded. So the folder
//! is the service's own (0700), a file that someone else could have written is
//! never read, and each file carries the digest of its content.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tempfile::NamedTempFile;

use super::digest::hex_of;
use super::error::EngineError;

/// First line of every file.
const MAGIC: &str = "portreeve-cache-1\n";
/// Bits that let somebody else write.
const WRITABLE_BY_OTHERS: u32 = 0o022;
/// Older files go when there are more than this.
const FILES_MAX: usize = 48;

/// What a file holds; its extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A component with a bundle loaded in its memory.
    Snapshot,
    /// Machine code of a component.
    Artefact,
}

impl Kind {
    fn extension(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Artefact => "aot",
        }
    }
}

#[derive(Debug)]
pub(super) struct Cache {
    dir: PathBuf,
    owner: u32,
}

impl Cache {
    /// Opens the folder, making it if need be; refuses one that others can write.
    pub(super) fn open(dir: &Path) -> Result<Self, EngineError> {
        let fail = |source| EngineError::cache(dir, source);
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(fail)?;
        // Whose files ours are is asked of the file system: it needs no system call of our own.
        let owner = NamedTempFile::new_in(dir).and_then(|probe| probe.as_file().metadata()).map_err(fail)?.uid();
        let cache = Self { dir: dir.to_owned(), owner };
        let metadata = fs::metadata(dir).map_err(fail)?;
        if cache.is_ours(&metadata) {
            return Ok(cache);
        }
        Err(fail(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "the folder must belong to the user that runs this and be writable by nobody else; \
             see `chmod 700`",
        )))
    }

    /// The content under this key, made and kept if it is not there.
    ///
    /// One process makes while the others wait. `make` only sees its own
    /// errors: a cache that cannot be written to costs time, not answers.
    pub(super) fn get_or_make(
        &self,
        kind: Kind,
        key: &str,
        make: impl FnOnce() -> Result<Vec<u8>, EngineError>,
    ) -> Result<Vec<u8>, EngineError> {
        if let Some(content) = self.read(kind, key)? {
            return Ok(content);
        }
        let _only_one = self.lock()?;
        if let Some(content) = self.read(kind, key)? {
            return Ok(content);
        }
        let content = make()?;
        if let Err(error) = self.write(kind, key, &content) {
            tracing::warn!(%error, dir = %self.dir.display(), "the engine cache was not written");
        }
        Ok(content)
    }

    /// Forgets a file that turned out to be of no use.
    pub(super) fn remove(&self, kind: Kind, key: &str) -> Result<(), EngineError> {
        let path = self.path(kind, key);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(EngineError::cache(&path, error)),
            _ => Ok(()),
        }
    }

    fn path(&self, kind: Kind, key: &str) -> PathBuf {
        self.dir.join(format!("{key}.{}", kind.extension()))
    }

    fn is_ours(&self, metadata: &fs::Metadata) -> bool {
        metadata.uid() == self.owner && metadata.mode() & WRITABLE_BY_OTHERS == 0
    }

    fn lock(&self) -> Result<File, EngineError> {
        let path = self.dir.join("lock");
        let fail = |source| EngineError::cache(&path, source);
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path).map_err(fail)?;
        file.lock().map_err(fail)?;
        Ok(file)
    }

    fn read(&self, kind: Kind, key: &str) -> Result<Option<Vec<u8>>, EngineError> {
        let path = self.path(kind, key);
        let fail = |source| EngineError::cache(&path, source);
        // A pipe would keep whoever opens it until somebody writes into it.
        if fs::symlink_metadata(&path).is_ok_and(|metadata| !metadata.is_file()) {
            tracing::warn!(path = %path.display(), "not a file: removed from the engine cache");
            self.remove(kind, key)?;
            return Ok(None);
        }
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(fail(error)),
        };
        // Asked of the open file, so that nothing can be put in its place afterwards.
        let metadata = file.metadata().map_err(fail)?;
        if !metadata.is_file() || !self.is_ours(&metadata) {
            tracing::warn!(path = %path.display(), "not ours alone: removed from the engine cache");
            self.remove(kind, key)?;
            return Ok(None);
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(fail)?;
        let header = header_len(key);
        if bytes.len() < header || !bytes.starts_with(&header_of(key, &bytes[header..])) {
            tracing::warn!(path = %path.display(), "damaged: removed from the engine cache");
            self.remove(kind, key)?;
            return Ok(None);
        }
        bytes.drain(..header);
        Ok(Some(bytes))
    }

    fn write(&self, kind: Kind, key: &str, content: &[u8]) -> io::Result<()> {
        // A temporary file is made with mode 0600.
        let mut file = NamedTempFile::new_in(&self.dir)?;
        file.write_all(&header_of(key, content))?;
        file.write_all(content)?;
        file.persist(self.path(kind, key))?;
        self.prune()
    }

    fn prune(&self) -> io::Result<()> {
        let mut files: Vec<(SystemTime, PathBuf)> = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let known = [Kind::Snapshot, Kind::Artefact]
                .iter()
                .any(|kind| path.extension().is_some_and(|ext| ext == kind.extension()));
            if known {
                files.push((fs::metadata(&path)?.modified()?, path));
            }
        }
        files.sort();
        let surplus = files.len().saturating_sub(FILES_MAX);
        for (_, path) in files.into_iter().take(surplus) {
            fs::remove_file(path)?;
        }
        Ok(())
    }
}

/// The key is in the header too, so that a renamed file is a damaged one.
fn header_of(key: &str, content: &[u8]) -> Vec<u8> {
    format!("{MAGIC}{key}\n{}\n", hex_of(content)).into_bytes()
}

fn header_len(key: &str) -> usize {
    MAGIC.len() + key.len() + 1 + 64 + 1
}
