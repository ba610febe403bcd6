//! Names of what is locked.

use std::path::{Component, Path};

use portreeve::command::input::{FILE_PATH, Field, Input, Place};
use portreeve::domain::hidden::is_hidden;
use portreeve::domain::lock_key::{LOCK_KEY_BYTES_MAX, LockKey};
use serde_json::{Map, json};

use super::Outcome;

static FIELDS: &[Field] = &[FILE_PATH];

/// A text as a lock key: what is accepted is the one name of what it names, and is kept as it was written.
pub fn lock_key(data: &[u8]) -> Outcome {
    let Ok(text) = std::str::from_utf8(data) else { return Outcome::Refused };
    let parsed = LockKey::parse(text);
    // The surfaces read it by way of a field, which must not be of another opinion.
    let fields = Map::from_iter([("file_path".to_owned(), json!(text))]);
    let read = Input::read(FIELDS, &fields, Place::Body);
    assert_eq!(read.is_ok(), parsed.is_ok(), "a field and a key differ about {text:?}");
    match parsed {
        Ok(key) => {
            assert_eq!(key.as_str(), text);
            assert_eq!(key.to_string(), text);
            assert_eq!(serde_json::to_value(&key).unwrap(), json!(text));
            assert_eq!(read.unwrap().lock_key("file_path").unwrap(), key);
            assert_eq!(LockKey::parse(key.as_str()).as_ref(), Ok(&key));
            check_text(text);
            match text.split_once(':') {
                None => check_path(text),
                Some(("contract", path)) => check_path(path),
                Some((namespace, rest)) => check_logical(namespace, rest),
            }
            Outcome::Accepted
        }
        Err(error) => {
            let why = error.to_string();
            assert!(!why.is_empty() && !why.chars().any(char::is_control), "{why:?}");
            assert!(why.len() <= LOCK_KEY_BYTES_MAX + 512, "{} bytes about {} bytes", why.len(), text.len());
            Outcome::Refused
        }
    }
}

fn check_text(text: &str) {
    assert!((1..=LOCK_KEY_BYTES_MAX).contains(&text.len()));
    assert!(!text.chars().any(|c| c.is_control() || is_hidden(c)), "{text:?}");
    assert_eq!(text.trim(), text);
}

/// Whoever joins it to a folder gets a place inside, and walking it gives it back: it has no second name.
fn check_path(path: &str) {
    let parts: Vec<_> = Path::new(path).components().collect();
    assert!(!parts.is_empty() && parts.iter().all(|part| matches!(part, Component::Normal(_))), "{path:?}");
    assert_eq!(parts.iter().collect::<std::path::PathBuf>().to_str(), Some(path));
    assert!(!path.contains(['\\', ':']), "{path:?}");
}

fn check_logical(namespace: &str, rest: &str) {
    assert!(["api", "db", "event", "flag", "env", "feature"].contains(&namespace), "{namespace:?}");
    assert!(!rest.is_empty() && !rest.split('/').any(|part| matches!(part, "." | "..")), "{rest:?}");
}
