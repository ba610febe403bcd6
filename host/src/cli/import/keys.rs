//! The keys that agents have today. They are hashed as soon as they are read, and never printed, logged or sent.

use super::document::{Node, json};
use crate::authn::{KEY_BYTES_MAX, KeyHashes};

/// Shorter keys can be guessed: behind a fast hash, and by whoever reads a backup.
const BYTES_MIN: usize = 16;
/// Keys below this are worth a remark.
const BYTES_GOOD: usize = 32;

/// A key, by its hashes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) agent_id: String,
    pub(super) agent_type: Option<String>,
    /// The hashes as the service takes them over; none where there is a problem.
    pub(super) hash: Option<String>,
    pub(super) warnings: Vec<String>,
    pub(super) problems: Vec<String>,
}

/// Reads the map from keys to identities: JSON, or a line that sets a variable to it.
pub(super) fn read(text: &str) -> Result<Vec<Known>, String> {
    let Node::Map(entries) = json(value_of(text))? else {
        return Err("it is not a JSON object from keys to identities".to_owned());
    };
    let mut keys: Vec<Known> = entries.iter().map(|(key, identity)| known(key.trim(), identity)).collect();
    // White space at the ends is not part of a key, so two names may be one.
    let mut seen = std::collections::BTreeSet::new();
    for key in &mut keys {
        if key.hash.as_ref().is_some_and(|hash| !seen.insert(hash.clone())) {
            key.problems.push("the same key is in the file twice".to_owned());
            key.hash = None;
        }
    }
    Ok(keys)
}

/// The value of `NAME=VALUE`, as environment files have it; any other text as it is.
fn value_of(text: &str) -> &str {
    let text = text.trim();
    let line = text.strip_prefix("export ").unwrap_or(text);
    let Some((name, value)) = line.split_once('=') else { return text };
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_') {
        return text;
    }
    let quoted = ['\'', '"'].into_iter().find_map(|quote| value.strip_prefix(quote)?.strip_suffix(quote));
    quoted.unwrap_or(value)
}

fn known(key: &str, identity: &Node) -> Known {
    let text =
        |name: &str| identity.get(name).and_then(Node::as_text).filter(|text| !text.is_empty()).map(str::to_owned);
    let (agent_id, agent_type) = (text("agent_id").unwrap_or_default(), text("agent_type"));
    let (mut warnings, mut problems) = (Vec::new(), Vec::new());
    if agent_id.is_empty() {
        problems.push("it names no `agent_id`".to_owned());
    }
    match key.len() {
        0..BYTES_MIN => problems.push(format!(
            "it is shorter than {BYTES_MIN} bytes, so it could be guessed: issue a new one (portreeve agent key NAME new)"
        )),
        BYTES_MIN..BYTES_GOOD => {
            warnings.push(format!("it is shorter than {BYTES_GOOD} bytes: replace it when you can"));
        }
        KEY_BYTES_MAX.. => problems.push(format!("it is longer than {KEY_BYTES_MAX} bytes, the most that a key may have")),
        _ => {}
    }
    if !key.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') {
        problems.push("it holds characters that no header can carry".to_owned());
    }
    let hash = problems.is_empty().then(|| KeyHashes::of(key).to_hex());
    Known { agent_id, agent_type, hash, warnings, problems }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_known_by_their_hashes_alone() {
        let (long, short) = ("k".repeat(40), "s".repeat(20));
        let text = format!(
            "{{\"{long}\": {{\"agent_id\": \"a\", \"agent_type\": \"codex\"}}, \" {short} \": {{\"agent_id\": \"b\"}}}}"
        );
        for text in [text.clone(), format!("export KEY_IDENTITIES='{text}'\n"), format!("KEYS={text}")] {
            let keys = read(&text).unwrap();
            assert_eq!(keys[0].hash, Some(KeyHashes::of(&long).to_hex()));
            assert_eq!((keys[0].agent_type.as_deref(), keys[0].warnings.len()), (Some("codex"), 0));
            assert_eq!((&keys[1].hash, keys[1].warnings.len()), (&Some(KeyHashes::of(&short).to_hex()), 1));
            let shown = format!("{keys:?}");
            assert!(!shown.contains(&long) && !shown.contains(&short));
        }
    }

    #[test]
    fn bad_keys_are_told_without_showing_them() {
        let text = format!(
            "{{\"weak\": {{\"agent_id\": \"a\"}}, \"{}\": {{\"agent_id\": \"a\"}}, \"sch\u{fc}ssel-schl\u{fc}ssel\": {{\"agent_id\": \"a\"}}, \
              \"{}\": \"a\", \"{}\": {{\"agent_id\": \"a\"}}, \"{} \": {{\"agent_id\": \"b\"}}}}",
            "x".repeat(600),
            "n".repeat(32),
            "d".repeat(32),
            "d".repeat(32),
        );
        let keys = read(&text).unwrap();
        let told: Vec<&str> = keys.iter().map(|key| key.problems.first().map_or("", String::as_str)).collect();
        for (told, why) in
            told.iter().zip(["shorter than 16", "longer than", "no header", "no `agent_id`", "", "twice"])
        {
            assert!(told.contains(why), "{told}: {why}");
        }
        assert!(!told.concat().contains("weak"));
        // Turned around, the keys are values.
        let error = read("{\"a\": \"prv_secret\"").unwrap_err();
        assert!(!error.contains("secret"), "{error}");
        assert!(read("[]").is_err());
    }
}
