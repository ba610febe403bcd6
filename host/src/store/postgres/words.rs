//! The words of memories and of searches, cut here and not by the server: no dictionary and no locale has a say, and words
//! are those of the embedded store's index (letters and digits, in lower case, without diacritics).

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

use crate::command::memories::Words;
use crate::domain::memory::Content;
use crate::store::audit::hex;

/// The words of a text, in order.
pub(super) fn words(text: &str) -> Vec<String> {
    let plain: String = text.to_lowercase().nfd().filter(|c| !is_combining_mark(*c)).nfc().collect();
    let words = plain.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_owned).collect()
}

/// What `tsquery` reads: all of these words, a word of several parts as a phrase. Words are letters and digits and stand in
/// quotes, so nothing in them is an operator. None when nothing is left to look for.
pub(super) fn query(looked_for: &Words) -> Option<String> {
    let phrase = |word: &String| {
        let parts: Vec<String> = words(word).iter().map(|part| format!("'{part}'")).collect();
        (!parts.is_empty()).then(|| format!("({})", parts.join(" <-> ")))
    };
    let phrases: Vec<String> = looked_for.as_slice().iter().filter_map(phrase).collect();
    (!phrases.is_empty()).then(|| phrases.join(" & "))
}

/// The words of a memory by what holds them, so that what a merge replaces takes its words with it.
pub(super) fn lists(summary: &str, content: &Content) -> Value {
    let mut lists = Map::new();
    let mut add = |kind: &str, name: &str, text: &str| {
        let words = words(text);
        if !words.is_empty() {
            lists.insert(key(kind, name), json!(words));
        }
    };
    add("summary", "", summary);
    content.lessons.iter().for_each(|lesson| add("lesson", lesson, lesson));
    content.tags.iter().for_each(|tag| add("tag", tag, tag));
    for (name, value) in content.details.iter().flatten() {
        // An empty list as well: it takes the place of the words that stood there.
        let mut text = name.clone();
        atoms(value, &mut text);
        lists.insert(key("detail", name), json!(words(&text)));
    }
    Value::Object(lists)
}

/// A short name for what holds words: it is compared and never read.
fn key(kind: &str, name: &str) -> String {
    let digest = Sha256::digest(name.as_bytes());
    format!("{kind} {}", hex(digest.get(..12).unwrap_or_default()))
}

/// Keys and atoms of a document, one a line. The input's cap on nesting bounds the recursion.
fn atoms(value: &Value, text: &mut String) {
    match value {
        Value::Null => {}
        Value::String(atom) => line(text, atom),
        Value::Bool(_) | Value::Number(_) => line(text, &value.to_string()),
        Value::Array(items) => items.iter().for_each(|item| atoms(item, text)),
        Value::Object(map) => map.iter().for_each(|(name, value)| {
            line(text, name);
            atoms(value, text);
        }),
    }
}

fn line(text: &mut String, more: &str) {
    text.push('\n');
    text.push_str(more);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::memories::words_of;

    #[test]
    fn words_are_letters_and_digits_without_marks() {
        assert_eq!(
            words("It's 100% NEAR-by, naïve Größe\tc++ 数据库 🚀"),
            ["it", "s", "100", "near", "by", "naive", "große", "c", "数据库"]
        );
        assert_eq!(words("… -- 🚀"), Vec::<String>::new());
    }

    #[test]
    fn nothing_in_a_query_is_an_operator() {
        let query = |text: &str| query(&words_of(text).unwrap()).unwrap();
        assert_eq!(query("a & !b | 'c':*"), "('a') & ('b') & ('c')");
        assert_eq!(query("parser.rs <-> x"), "('parser' <-> 'rs') & ('x')");
        assert_eq!(query("it's\\'"), "('it' <-> 's')");
    }
}
