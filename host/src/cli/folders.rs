//! Where things are when nobody says: the data folder and the cache of compiled policies.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::error::{CliError, EXIT_USAGE};
use super::failure;
use crate::app;
use crate::store::postgres;
use crate::vetting::{Gates, GatesError};

/// The data folder: as given, else `PORTREEVE_DATA`, else the user's.
pub(super) fn data(given: Option<PathBuf>) -> Result<PathBuf, CliError> {
    given
        .or_else(|| path_of("PORTREEVE_DATA"))
        .or_else(default_data)
        .ok_or_else(|| homeless("data folder", "--data DIR"))
}

/// The database that is named: as given, else `PORTREEVE_DATABASE_URL`, else the one that the folder's service uses; none
/// for the embedded one in the folder.
pub(super) fn database(given: Option<&str>, data: Option<&Path>) -> Result<Option<postgres::Options>, CliError> {
    let variable = || variable("PORTREEVE_DATABASE_URL").map(|url| url.to_string_lossy().into_owned());
    let Some(url) = given.map(str::to_owned).or_else(variable) else {
        let kept = data.map(|data| postgres::Options::kept_in(&app::database_file(data))).transpose();
        return kept.map(Option::flatten).map_err(|error| failure::store(&error));
    };
    let options = postgres::Options::parse(&url);
    options.map(Some).map_err(|error| failure::store(&error).with_exit(EXIT_USAGE))
}

/// The embedded store of a folder, if it has one.
pub(super) fn store_file(data: &Path) -> PathBuf {
    app::store_file(data)
}

/// Whether a service was started on the folder.
pub(super) fn has_store(data: &Path) -> bool {
    store_file(data).is_file() || app::database_file(data).is_file()
}

/// The user's own data folder: where nobody says anything.
pub(super) fn default_data() -> Option<PathBuf> {
    user_folder("XDG_DATA_HOME", ".local/share")
}

/// The cache of a service on a data folder, where it is not in that folder.
pub(super) fn service_cache(given: Option<PathBuf>) -> Option<PathBuf> {
    given.or_else(|| path_of("PORTREEVE_CACHE"))
}

/// The cache of commands that need no data folder.
pub(super) fn cache(given: Option<PathBuf>) -> Result<PathBuf, CliError> {
    service_cache(given)
        .or_else(|| user_folder("XDG_CACHE_HOME", ".cache"))
        .ok_or_else(|| homeless("cache folder", "--cache DIR"))
}

/// The gates of a service that starts on a data folder: in the file that is named, else in the folder's own.
pub(super) fn gates(data: &Path, named: Option<&Path>) -> Result<Gates, CliError> {
    Gates::read(data, named, &solver_cache(data)).map_err(|error| gates_failed(&error))
}

/// The gates of the service whose folder is opened beside it.
pub(super) fn gates_of_service(data: &Path) -> Result<Gates, CliError> {
    Gates::of_service(data, &solver_cache(data)).map_err(|error| gates_failed(&error))
}

/// Without a home there is no cache, and no solver in it; one may still be named or in PATH.
fn solver_cache(data: &Path) -> PathBuf {
    cache(None).unwrap_or_else(|_| data.join("cache"))
}

/// What to do about gates that are not to be had.
pub(super) fn gates_failed(error: &GatesError) -> CliError {
    let next = match error {
        GatesError::Unreadable { .. } | GatesError::Malformed { .. } => {
            "it knows require_tests, refuse_wider, require_replay, trusted_signers and solver_seconds; see docs/policy-gates.md"
        }
        GatesError::Unkept { .. } => "the service writes it into its data folder",
        GatesError::Key(_) => "keys are files in PEM beside it, as `portreeve policy keygen` writes them",
        GatesError::Solver(_) => "portreeve policy solver install",
    };
    CliError::new(error.to_string(), next)
}

/// A variable that is set to something.
pub(super) fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

fn path_of(name: &str) -> Option<PathBuf> {
    variable(name).map(PathBuf::from)
}

/// Relative paths in these variables are to be ignored, says the XDG base directory specification.
fn user_folder(name: &str, below_home: &str) -> Option<PathBuf> {
    let base = path_of(name).filter(|path| path.is_absolute());
    let base = base.or_else(|| path_of("HOME").map(|home| home.join(below_home)));
    base.map(|base| base.join("portreeve"))
}

fn homeless(what: &str, option: &str) -> CliError {
    CliError::new(
        format!("there is no home folder (`HOME` is not set), so no default {what}"),
        format!("name one: {option}"),
    )
}
