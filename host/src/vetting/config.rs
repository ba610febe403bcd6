//! The operator's gates as a file: `gates.toml` in the data folder, unless another one is named.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::Gates;
use crate::authoring::solver::{self, Solver, SolverError};
use crate::signature::{KeyError, PublicKey};

/// Name of the file in the data folder.
pub const FILE: &str = "gates.toml";
/// Name of the note that says where the gates are, when the service was started with a file elsewhere.
const NOTE: &str = "gates.path";
/// Most rows of the log that are asked again before an activation.
const REPLAY_MAX: u64 = 10_000_000;

/// What the file says.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Text {
    require_tests: bool,
    refuse_wider: bool,
    require_replay: Option<u64>,
    trusted_signers: Option<Vec<PathBuf>>,
    solver_seconds: Option<u64>,
}

/// Why the gates are not known. A service does not start then: an operator who closed a gate relies on it.
#[derive(Debug, thiserror::Error)]
pub enum GatesError {
    /// The file cannot be read.
    #[error("cannot read the gates `{path}`: {cause}")]
    Unreadable {
        /// Which file.
        path: String,
        /// Why.
        cause: std::io::Error,
    },
    /// The file does not say what the gates are.
    #[error("the gates `{path}` are not understood: {cause}")]
    Malformed {
        /// Which file.
        path: String,
        /// What is wrong with it.
        cause: String,
    },
    /// Where the gates are cannot be noted in the data folder.
    #[error("cannot note in `{path}` where the gates are: {cause}")]
    Unkept {
        /// The note.
        path: String,
        /// Why not.
        cause: std::io::Error,
    },
    /// A signer's key cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// There is no solver to prove anything.
    #[error("refuse_wider needs a solver: {0}")]
    Solver(#[from] SolverError),
}

impl Gates {
    /// Notes in the data folder which file a service on it was started with, or that it was started without one.
    ///
    /// # Errors
    /// [`GatesError::Unkept`].
    pub fn keep(data: &Path, named: Option<&Path>) -> Result<(), GatesError> {
        let note = data.join(NOTE);
        let done = match named {
            Some(named) => {
                std::path::absolute(named).and_then(|named| std::fs::write(&note, named.as_os_str().as_bytes()))
            }
            None => match std::fs::remove_file(&note) {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
        };
        done.map_err(|cause| GatesError::Unkept { path: note.display().to_string(), cause })
    }

    /// The file that a service on the folder was started with last, if it is another than the folder's own.
    fn kept(data: &Path) -> Result<Option<PathBuf>, GatesError> {
        let note = data.join(NOTE);
        match std::fs::read(&note) {
            Ok(path) => Ok(Some(PathBuf::from(OsString::from_vec(path)))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(GatesError::Unreadable { path: note.display().to_string(), cause }),
        }
    }

    /// Reads the gates that the service on a folder was started with last, for whoever opens the folder beside it.
    ///
    /// # Errors
    /// As [`Self::read`]; also when the file that the service was started with is gone.
    pub fn of_service(data: &Path, cache: &Path) -> Result<Self, GatesError> {
        Self::read(data, Self::kept(data)?.as_deref(), cache)
    }

    /// Reads the gates of a data folder, or of the file that is named. Without a file in the folder there are none. `cache`
    /// is where an installed solver is looked for; keys are looked for beside the file.
    ///
    /// # Errors
    /// When a file that is there, or is named, cannot be used as it is.
    pub fn read(data: &Path, named: Option<&Path>, cache: &Path) -> Result<Self, GatesError> {
        let path = named.map_or_else(|| data.join(FILE), Path::to_owned);
        let shown = || path.display().to_string();
        let unreadable = |cause| GatesError::Unreadable { path: shown(), cause };
        // A link that leads nowhere is there: somebody meant to close gates.
        let is_absent = std::fs::symlink_metadata(&path).is_err_and(|error| error.kind() == ErrorKind::NotFound);
        if is_absent && named.is_none() {
            return Ok(Self::default());
        }
        if !std::fs::metadata(&path).map_err(unreadable)?.is_file() {
            return Err(unreadable(std::io::Error::new(ErrorKind::InvalidInput, "it is not a file")));
        }
        let text = std::fs::read_to_string(&path).map_err(unreadable)?;
        let malformed = |cause: String| GatesError::Malformed { path: shown(), cause };
        let text: Text = toml::from_str(&text).map_err(|error| malformed(error.to_string()))?;
        if text.require_replay.is_some_and(|rows| !(1..=REPLAY_MAX).contains(&rows)) {
            return Err(malformed(format!("require_replay is a number of rows from 1 to {REPLAY_MAX}")));
        }
        let limit = text.solver_seconds.unwrap_or(10);
        if !(1..=3600).contains(&limit) {
            return Err(malformed("solver_seconds is from 1 to 3600".to_owned()));
        }
        let folder = path.parent().unwrap_or(data);
        if text.trusted_signers.as_ref().is_some_and(Vec::is_empty) {
            return Err(malformed("trusted_signers names nobody: name a key's file, or leave it out".to_owned()));
        }
        let signers = text.trusted_signers.unwrap_or_default();
        let keys = signers.iter().map(|key| PublicKey::read(&folder.join(key)));
        let refuse_wider = text.refuse_wider.then(|| solver::find(&solver::folder(cache))).transpose()?;
        Ok(Self {
            require_tests: text.require_tests,
            refuse_wider: refuse_wider.map(|program| Solver { program, limit: Duration::from_secs(limit) }),
            require_replay: text.require_replay,
            trusted_signers: keys.collect::<Result<_, _>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signature::PrivateKey;

    fn read(text: &str) -> Result<Gates, GatesError> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), text).unwrap();
        let key = PrivateKey::generate().unwrap().public().to_pem().unwrap();
        std::fs::write(dir.path().join("release.pub"), key).unwrap();
        Gates::read(dir.path(), None, dir.path())
    }

    #[test]
    fn a_folder_opened_beside_the_service_has_the_gates_of_the_service() {
        let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (data, file) = (dir.path(), elsewhere.path().join("closed.toml"));
        let names = || Gates::of_service(data, data).map(|gates| gates.names());
        std::fs::write(&file, "require_tests = true").unwrap();
        assert!(names().unwrap().is_empty());
        Gates::keep(data, Some(&file)).unwrap();
        assert_eq!(names().unwrap(), ["require_tests"]);
        std::fs::remove_file(&file).unwrap();
        assert!(matches!(names(), Err(GatesError::Unreadable { .. })));
        Gates::keep(data, None).unwrap();
        assert!(names().unwrap().is_empty());
        Gates::keep(data, None).unwrap();
    }

    #[test]
    fn what_the_file_closes_is_closed_and_what_it_does_not_know_is_refused() {
        let gates = read("require_tests = true\nrequire_replay = 500\ntrusted_signers = [\"release.pub\"]\n").unwrap();
        assert_eq!(gates.names(), ["require_tests", "require_replay", "trusted_signers"]);
        assert_eq!((gates.require_replay, gates.trusted_signers.len()), (Some(500), 1));
        assert!(read("").unwrap().names().is_empty());
        let nobody = "trusted_signers = []";
        for wrong in
            ["require_test = true", "require_replay = 0", "solver_seconds = 0", "require_tests = 1", "[", nobody]
        {
            assert!(matches!(read(wrong), Err(GatesError::Malformed { .. })), "{wrong}");
        }
        assert!(matches!(read("trusted_signers = [\"missing.pub\"]"), Err(GatesError::Key(_))));
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/nonexistent/gates.toml", dir.path().join(FILE)).unwrap();
        assert!(matches!(Gates::read(dir.path(), None, dir.path()), Err(GatesError::Unreadable { .. })));
        let nowhere = Path::new("/nonexistent");
        assert!(Gates::read(nowhere, None, nowhere).unwrap().names().is_empty());
        assert!(Gates::read(nowhere, Some(&nowhere.join(FILE)), nowhere).is_err());
    }
}
