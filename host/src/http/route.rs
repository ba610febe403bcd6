//! Finds the catalogue's entry of a method and a path.
//!
//! One router per method, so that `DELETE /locks/status/x` is a lock key
//! `status/x` although `GET /locks/status/…` is another route; and on the raw
//! path, so that a key may hold any percent-encoded byte.

use std::sync::LazyLock;

use axum::http::Method;
use matchit::Router;

use crate::command::catalogue::{CATALOGUE, Entry, Method as EntryMethod};

/// What a path leads to.
pub(super) enum Found {
    /// An entry, with the decoded segments of its path.
    Entry(&'static Entry, Vec<(String, Vec<u8>)>),
    /// A path that these other methods know.
    OtherMethods(String),
    /// No path of this service.
    Nothing,
}

type Table = Vec<(EntryMethod, Router<&'static Entry>)>;

static ROUTES: LazyLock<Table> = LazyLock::new(|| {
    let mut table: Table =
        [EntryMethod::Get, EntryMethod::Post, EntryMethod::Delete].map(|m| (m, Router::new())).into();
    for entry in CATALOGUE {
        for (method, router) in &mut table {
            if *method == entry.method
                && let Err(error) = router.insert(entry.path, entry)
            {
                tracing::error!(error = %error, ?entry, "two entries of the catalogue share a path");
            }
        }
    }
    table
});

/// Looks up a request.
pub(super) fn find(method: &Method, path: &str) -> Found {
    let mut others: Vec<&Entry> = Vec::new();
    for (known, router) in ROUTES.iter() {
        let Ok(matched) = router.at(path) else { continue };
        if known.as_str() == method.as_str() {
            let segments = matched.params.iter().map(|(name, raw)| (name.to_owned(), decode(raw)));
            return Found::Entry(matched.value, segments.collect());
        }
        others.push(*matched.value);
    }
    // `/locks/status/x` is a lock key for DELETE; what is told is what the path is described as.
    let Some(closest) = others.iter().map(|entry| literal(entry.path)).max() else { return Found::Nothing };
    let allowed = others.iter().filter(|entry| literal(entry.path) == closest).map(|entry| entry.method.as_str());
    Found::OtherMethods(allowed.collect::<Vec<_>>().join(", "))
}

/// How much of a path is said literally.
fn literal(path: &str) -> usize {
    path.split('{').next().unwrap_or_default().len()
}

fn decode(raw: &str) -> Vec<u8> {
    percent_encoding::percent_decode_str(raw).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(method: &Method, path: &str) -> Option<(&'static str, Vec<u8>)> {
        match find(method, path) {
            Found::Entry(entry, segments) => {
                Some((entry.name, segments.into_iter().next().map(|(_, value)| value).unwrap_or_default()))
            }
            _ => None,
        }
    }

    #[test]
    fn every_entry_is_found_under_its_own_method() {
        for known in CATALOGUE {
            let path = known.path.replace("{*file_path}", "a/b").replace("{id}", "x").replace("{key_id}", "y");
            let method = Method::from_bytes(known.method.as_str().as_bytes()).unwrap();
            assert_eq!(entry(&method, &path).map(|(name, _)| name), Some(known.name));
        }
    }

    #[test]
    fn a_lock_key_may_be_any_path_and_any_byte() {
        assert_eq!(entry(&Method::DELETE, "/locks/status/x"), Some(("lock_force_release", b"status/x".to_vec())));
        assert_eq!(entry(&Method::DELETE, "/locks/acquire"), Some(("lock_force_release", b"acquire".to_vec())));
        assert_eq!(entry(&Method::GET, "/locks/status/a%2Fb%20%ff"), Some(("lock_status", b"a/b \xff".to_vec())));
        assert!(matches!(find(&Method::PUT, "/locks/acquire"), Found::OtherMethods(allowed) if allowed == "POST"));
        assert!(matches!(find(&Method::GET, "/nowhere"), Found::Nothing));
    }
}
