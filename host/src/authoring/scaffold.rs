//! A bundle to start from.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::engine::default_bundle;

/// What the notes of a new bundle say: the default bundle's.
const NOTES: &str = include_str!("../../../policies/README.md");

/// Writes the default bundle into a folder, under a name of its own and as its first version. The service needs every
/// operation that it knows, so a bundle starts whole, and what is not wanted is taken out. Answers what was written.
///
/// # Errors
/// When the folder is there and holds something, or cannot be written.
pub fn scaffold(folder: &Path, name: &str) -> io::Result<Vec<PathBuf>> {
    if fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(io::Error::new(io::ErrorKind::DirectoryNotEmpty, "the folder holds something already"));
    }
    let mut written = Vec::new();
    let mut files: Vec<(String, String)> = default_bundle().into_iter().map(|file| (file.path, file.text)).collect();
    files.push(("README.md".to_owned(), NOTES.to_owned()));
    for (path, text) in files {
        let text = if path == "bundle.toml" { header(&text, name)? } else { text };
        let path = folder.join(path);
        fs::create_dir_all(path.parent().unwrap_or(folder))?;
        fs::File::create_new(&path)?.write_all(text.as_bytes())?;
        written.push(path);
    }
    Ok(written)
}

fn header(text: &str, name: &str) -> io::Result<String> {
    let mut document: toml_edit::DocumentMut = text.parse().map_err(io::Error::other)?;
    for (key, value) in [("name", name), ("version", "0.1.0")] {
        if let Some(item) = document.get_mut(key).and_then(toml_edit::Item::as_value_mut) {
            let decor = item.decor().clone();
            *item = value.into();
            *item.decor_mut() = decor;
        }
    }
    let text = document.to_string();
    // The first comment is about the default bundle.
    Ok(text.replacen(
        "# The default bundle. README.md says what each file is.",
        "# README.md says what each file is.",
        1,
    ))
}
