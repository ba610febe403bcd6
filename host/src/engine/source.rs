//! The bundle that a component was made of, in the component's own file.
//!
//! A custom section of the outermost component holds the files as JSON. Nothing in the component reads it, and it is part of
//! the bytes that the component's digest is about.

use std::borrow::Cow;

use wasm_encoder::{ComponentSection, CustomSection};
use wasmparser::{Parser, Payload};

use super::bundle::FILES_MAX;
use super::error::EngineError;
use super::types::BundleFile;
use crate::bounds::has_few_values;

/// Name of the section.
const SECTION: &str = "portreeve:bundle";
/// Largest section that is read: a bundle has at most 16 MiB of text, and JSON escapes some of it.
const SECTION_BYTES_MAX: usize = 40 << 20;

/// The component's bytes with its bundle behind them.
pub(super) fn with_source(mut component: Vec<u8>, files: &[BundleFile]) -> Result<Vec<u8>, EngineError> {
    let data = serde_json::to_vec(files).map_err(|error| EngineError::Source(error.to_string()))?;
    let section = CustomSection { name: Cow::Borrowed(SECTION), data: Cow::Owned(data) };
    section.append_to_component(&mut component);
    Ok(component)
}

/// The files of the bundle that a component says it was made of; none where it says nothing. What it says may be untrue:
/// only making it again shows that.
///
/// # Errors
/// [`EngineError::NotAComponent`] where the bytes are none, [`EngineError::Source`] where the section is no bundle.
pub fn source_of(component: &[u8]) -> Result<Option<Vec<BundleFile>>, EngineError> {
    if !Parser::is_component(component) {
        return Err(EngineError::NotAComponent("not the binary format of a component".to_owned()));
    }
    let mut found = None;
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(component) {
        match payload.map_err(|error| EngineError::NotAComponent(error.message().to_owned()))? {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::CustomSection(section) if depth == 0 && section.name() == SECTION => {
                if found.is_some() {
                    return Err(EngineError::Source("there are two".to_owned()));
                }
                found = Some(read(section.data())?);
            }
            _ => {}
        }
    }
    Ok(found)
}

fn read(data: &[u8]) -> Result<Vec<BundleFile>, EngineError> {
    if data.len() > SECTION_BYTES_MAX {
        return Err(EngineError::Source(format!("{} bytes, at most {SECTION_BYTES_MAX} are read", data.len())));
    }
    if !has_few_values(data) {
        return Err(EngineError::Source("it holds more values than any bundle".to_owned()));
    }
    let files: Vec<BundleFile> =
        serde_json::from_slice(data).map_err(|error| EngineError::Source(error.to_string()))?;
    if files.len() > FILES_MAX {
        return Err(EngineError::Source(format!("{} files, at most {FILES_MAX} are read", files.len())));
    }
    match files.iter().find(|file| !is_plain(&file.path)) {
        Some(file) => Err(EngineError::Source(format!("`{}` is not a path inside a bundle", file.path.escape_debug()))),
        None => Ok(files),
    }
}

/// A path that leads nowhere else, on whatever system it is written to.
fn is_plain(path: &str) -> bool {
    let is_part = |part: &str| !part.is_empty() && !part.starts_with('.');
    path.len() <= 1_024
        && path.split('/').all(is_part)
        && path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &[u8] = b"\0asm\x0d\0\x01\0";

    fn file(path: &str) -> BundleFile {
        BundleFile { path: path.to_owned(), text: "x = \"é\"\n".to_owned() }
    }

    #[test]
    fn what_goes_in_comes_out() {
        let files = vec![file("bundle.toml"), file("cedar/a.cedar")];
        let bytes = with_source(EMPTY.to_vec(), &files).unwrap();
        assert!(bytes.starts_with(EMPTY));
        assert_eq!(source_of(&bytes).unwrap(), Some(files.clone()));
        assert_eq!(source_of(EMPTY).unwrap(), None);
        let twice = with_source(bytes, &files).unwrap();
        assert!(matches!(source_of(&twice), Err(EngineError::Source(_))));
    }

    #[test]
    fn paths_that_lead_out_are_refused() {
        for path in ["", "/etc/passwd", "../a", "a/../b", "a//b", ".ssh/id", "a\\b", "C:a", "a/./b", "é"] {
            let bytes = with_source(EMPTY.to_vec(), &[file(path)]).unwrap();
            assert!(matches!(source_of(&bytes), Err(EngineError::Source(_))), "{path}");
        }
    }

    #[test]
    fn what_is_no_component_is_refused() {
        for bytes in [&b""[..], b"\0asm\x01\0\0\0", b"hello", b"\0asm\x0d\0\x01\0\0\xff"] {
            assert!(matches!(source_of(bytes), Err(EngineError::NotAComponent(_))), "{bytes:?}");
        }
    }
}
