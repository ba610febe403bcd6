//! What tests measured, for the assurance report: one small JSON file each, in `target/assurance`.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// The folder of the figures.
#[must_use]
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/assurance")
}

/// Keeps the figures of a test that passed, in the place of those of a run before.
///
/// # Panics
/// When they cannot be written: a report without them would say that nothing ran.
#[expect(clippy::panic, reason = "a test that cannot keep its figures has to fail")]
pub fn write(name: &str, figures: &Value) {
    let path = folder().join(format!("{name}.json"));
    let written = fs::create_dir_all(folder()).and_then(|()| fs::write(&path, format!("{figures:#}\n")));
    if let Err(error) = written {
        panic!("{}: {error}", path.display());
    }
}
