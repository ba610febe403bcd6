//! What may be locked: a path relative to the repository, or a logical key.
//!
//! One thing has one name. `./a`, `a/` and `a//b` would be second names of the
//! same file and so let two agents hold it at once; they are refused, not
//! normalised, because the caller then holds a lock on what it did not say.

use std::fmt;

use serde::Serialize;

use super::hidden::is_hidden;

/// Most bytes of a key.
pub const LOCK_KEY_BYTES_MAX: usize = 1024;

const LOGICAL_FORMS: &str = "`api:<METHOD> </path>`, `db:schema:<ident>`, `db:migration-slot`, `event:<dotted.lower>`, \
     `flag:<slash/lower>`, `env:<resource>`, `contract:<path>` or `feature:<id>:<purpose>`";

const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"];

/// A verified lock key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct LockKey(String);

/// Why a text is not a lock key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LockKeyError {
    /// The text is empty.
    #[error("a lock key is empty")]
    Empty,
    /// The text is longer than [`LOCK_KEY_BYTES_MAX`] bytes.
    #[error("a lock key is {0} bytes long; the most is {LOCK_KEY_BYTES_MAX}")]
    TooLong(usize),
    /// A NUL, control character, or invisible formatting character.
    #[error("a lock key holds the character U+{0:04X}, which is not printed")]
    Unprintable(u32),
    /// White space at the beginning or the end.
    #[error("a lock key begins or ends with white space")]
    OuterSpace,
    /// Not a path relative to the repository.
    #[error("`{0}` is not a path relative to the repository: {1}")]
    NotRelative(String, &'static str),
    /// The text before the first colon is not a known namespace.
    #[error("`{0}:` is not a namespace of lock keys; known are {LOGICAL_FORMS}")]
    UnknownNamespace(String),
    /// A known namespace with a malformed rest.
    #[error("`{0}` is not of the form {1}")]
    Malformed(String, &'static str),
}

impl LockKey {
    /// Verifies a text.
    ///
    /// # Errors
    /// When the text is not a lock key; the error says why.
    pub fn parse(text: &str) -> Result<Self, LockKeyError> {
        check_text(text)?;
        match text.split_once(':') {
            None => check_path(text)?,
            Some((namespace, rest)) => check_logical(text, namespace, rest)?,
        }
        Ok(Self(text.to_owned()))
    }

    /// The key as it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn check_text(text: &str) -> Result<(), LockKeyError> {
    if text.is_empty() {
        return Err(LockKeyError::Empty);
    }
    if text.len() > LOCK_KEY_BYTES_MAX {
        return Err(LockKeyError::TooLong(text.len()));
    }
    if let Some(bad) = text.chars().find(|&c| c.is_control() || is_hidden(c)) {
        return Err(LockKeyError::Unprintable(u32::from(bad)));
    }
    if text.trim() != text {
        return Err(LockKeyError::OuterSpace);
    }
    Ok(())
}

fn check_path(path: &str) -> Result<(), LockKeyError> {
    let refuse = |why| Err(LockKeyError::NotRelative(path.to_owned(), why));
    if path.starts_with('/') {
        return refuse("it begins with `/`");
    }
    if path.contains('\\') {
        return refuse("it holds a backslash; write `/`");
    }
    for segment in path.split('/') {
        match segment {
            "" => return refuse("it has an empty segment"),
            "." => return refuse("it has a `.` segment, a second name of the same file"),
            ".." => return refuse("it has a `..` segment"),
            _ if segment.trim() != segment => return refuse("a segment begins or ends with white space"),
            _ => {}
        }
    }
    Ok(())
}

fn check_logical(key: &str, namespace: &str, rest: &str) -> Result<(), LockKeyError> {
    let (fine, form) = match namespace {
        "api" => (is_api(rest), "`api:<METHOD> </path>` with the method in capitals"),
        "db" => (is_db(rest), "`db:schema:<lower-case identifier>` or `db:migration-slot`"),
        "event" => (is_delimited(rest, '.'), "`event:<dotted.lower.case>`"),
        "flag" => (is_delimited(rest, '/'), "`flag:<slash/delimited/lower>`"),
        "env" => (is_env(rest), "`env:<resource>`, not a port number"),
        "contract" => (check_path(rest).is_ok() && !rest.contains(':'), "`contract:<path>`"),
        "feature" => (is_feature(rest), "`feature:<id>:<purpose>`"),
        unknown => return Err(LockKeyError::UnknownNamespace(unknown.to_owned())),
    };
    if fine { Ok(()) } else { Err(LockKeyError::Malformed(key.to_owned(), form)) }
}

fn is_api(rest: &str) -> bool {
    rest.split_once(' ').is_some_and(|(method, path)| {
        METHODS.contains(&method) && path.starts_with('/') && !path.contains(char::is_whitespace) && !leads_around(path)
    })
}

fn is_db(rest: &str) -> bool {
    rest == "migration-slot" || rest.strip_prefix("schema:").is_some_and(is_lower_identifier)
}

fn is_lower_identifier(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

fn is_delimited(text: &str, delimiter: char) -> bool {
    text.split(delimiter).all(|part| {
        part.starts_with(|c: char| c.is_ascii_lowercase())
            && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-'))
    })
}

fn is_env(rest: &str) -> bool {
    is_word(rest) && !rest.chars().all(|c| c.is_ascii_digit())
}

fn is_feature(rest: &str) -> bool {
    rest.split_once(':').is_some_and(|(id, purpose)| is_word(id) && is_word(purpose))
}

fn is_word(text: &str) -> bool {
    !text.is_empty()
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/'))
        && !leads_around(text)
}

/// Whether a text with slashes has a segment that makes it a second name of something shorter.
fn leads_around(text: &str) -> bool {
    text.split('/').any(|segment| matches!(segment, "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_the_contract_names() {
        let long = "a".repeat(LOCK_KEY_BYTES_MAX);
        for key in [
            "src/main.rs",
            "a",
            ".github/x.yml",
            "...",
            "a b/c d",
            "docs/über.md",
            long.as_str(),
            "api:GET /v1/users",
            "db:schema:users",
            "db:schema:_old_users_2",
            "db:migration-slot",
            "event:user.created",
            "event:user_2.e-mail.changed",
            "flag:billing/new-invoice",
            "env:staging-db",
            "env:8080-staging",
            "contract:openapi/v1.yaml",
            "feature:F-12:review",
            "api:GET /",
            "api:GET /v1/a..b/.hidden",
            "env:eu/staging.db",
        ] {
            assert_eq!(LockKey::parse(key).map(|k| k.to_string()), Ok(key.to_owned()));
            assert_eq!(LockKey::parse(key).as_ref().map(LockKey::as_str), Ok(key));
        }
    }

    #[test]
    fn refuses_second_names_and_hostile_text() {
        let long = "a".repeat(LOCK_KEY_BYTES_MAX + 1);
        for key in [
            "",
            "/etc/passwd",
            "./a",
            "a/./b",
            "a/../b",
            "..",
            ".",
            "a//b",
            "a/",
            "a ",
            " a",
            "a /b",
            "a\n",
            "a\0b",
            "a\tb",
            "a\\b",
            "a\u{200b}b",
            "a\u{202e}b",
            long.as_str(),
            "C:/windows",
            "http://x",
            "foo:bar",
            ":a",
            "api:get /x",
            "api:GET x",
            "api:GET",
            "api:GET /a b",
            "db:schema:Users",
            "db:schema:",
            "db:schema:2users",
            "db:schema:us-ers",
            "db:schema:us.ers",
            "db:other",
            "event:User.Created",
            "event:a..b",
            "flag:/a",
            "flag:a/",
            "env:8080",
            "env:",
            "contract:/abs",
            "contract:../up",
            "feature:x",
            "feature::y",
            "feature:x:",
            "api:GET /v1/../users",
            "api:GET /.",
            "env:a/../b",
            "env:.",
            "feature:..:x",
            "feature:x:a/./b",
        ] {
            assert!(LockKey::parse(key).is_err(), "`{key}` was accepted");
        }
    }
}
