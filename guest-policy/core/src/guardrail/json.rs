//! The texts inside a JSON document.
//!
//! Read as a stream rather than as a tree, so that of two members with one name
//! both are seen.

use std::fmt;

use serde::Deserializer;
use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};

/// Deeper documents are refused: parsing recurses.
const MAX_DEPTH: usize = 64;

/// Members that name a program, and members that hold its arguments. A tool call
/// often splits one command line in two.
const PROGRAM_KEYS: [&str; 5] = ["command", "cmd", "program", "executable", "bin"];
const ARGUMENT_KEYS: [&str; 4] = ["args", "argv", "arguments", "params"];

/// What a JSON text holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Json {
    /// Every string, every key, and every array of strings as one line.
    Texts(Vec<String>),
    /// Not JSON: to be read as it stands.
    Malformed,
    /// Nested too deeply to be read.
    TooDeep,
}

/// Reads a JSON text.
pub(crate) fn read(body: &str) -> Json {
    if is_too_deep(body) {
        return Json::TooDeep;
    }
    let mut texts = Vec::new();
    let mut parser = serde_json::Deserializer::from_str(body);
    match (Node { texts: &mut texts }).deserialize(&mut parser) {
        Ok(shape) if parser.end().is_ok() => {
            if let Shape::String(text) = shape {
                texts.push(text);
            }
            Json::Texts(texts)
        }
        _ => Json::Malformed,
    }
}

/// Whether a JSON text is nested too deeply to be read.
pub(crate) fn is_too_deep(body: &str) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in body.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => depth = depth.saturating_add(1),
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return true;
        }
    }
    false
}

/// What a value was, as far as its parent cares.
enum Shape {
    String(String),
    /// The strings of an array, joined with spaces.
    Line(String),
    Other,
}

struct Node<'a> {
    texts: &'a mut Vec<String>,
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Shape;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Shape, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Shape, E> {
        Ok(Shape::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Shape, E> {
        Ok(Shape::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Shape, E> {
        Ok(Shape::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Shape, E> {
        Ok(Shape::Other)
    }

    fn visit_unit<E>(self) -> Result<Shape, E> {
        Ok(Shape::Other)
    }

    fn visit_str<E>(self, text: &str) -> Result<Shape, E> {
        Ok(Shape::String(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Shape, A::Error> {
        let mut line = String::new();
        while let Some(shape) = items.next_element_seed(Node { texts: &mut *self.texts })? {
            if let Shape::String(text) = shape {
                join(&mut line, &text);
                self.texts.push(text);
            }
        }
        self.texts.push(line.clone());
        Ok(Shape::Line(line))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Shape, A::Error> {
        let (mut program, mut arguments) = (String::new(), String::new());
        while let Some(key) = members.next_key::<String>()? {
            match members.next_value_seed(Node { texts: &mut *self.texts })? {
                Shape::String(text) => {
                    if PROGRAM_KEYS.contains(&key.as_str()) {
                        join(&mut program, &text);
                    } else if ARGUMENT_KEYS.contains(&key.as_str()) {
                        join(&mut arguments, &text);
                    }
                    self.texts.push(text);
                }
                Shape::Line(line) if ARGUMENT_KEYS.contains(&key.as_str()) => {
                    join(&mut arguments, &line);
                }
                Shape::Line(_) | Shape::Other => {}
            }
            self.texts.push(key);
        }
        if !program.is_empty() && !arguments.is_empty() {
            join(&mut program, &arguments);
            self.texts.push(program);
        }
        Ok(Shape::Other)
    }
}

fn join(line: &mut String, text: &str) {
    if !line.is_empty() {
        line.push(' ');
    }
    line.push_str(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(body: &str) -> Vec<String> {
        match read(body) {
            Json::Texts(texts) => texts,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn arrays_become_command_lines() {
        assert!(texts(r#"{"run":["git","push","--force"]}"#).contains(&"git push --force".to_owned()));
        let split = texts(r#"{"args":["push","-f"],"command":"git"}"#);
        assert!(split.contains(&"git push -f".to_owned()));
    }

    #[test]
    fn keys_and_repeated_members_are_seen() {
        let all = texts(r#"{"a":"first","a":"second","rm -rf /":1}"#);
        for text in ["first", "second", "rm -rf /"] {
            assert!(all.contains(&text.to_owned()), "{text}");
        }
    }

    #[test]
    fn depth_is_checked_before_parsing() {
        assert!(matches!(read(&format!("{}{}", "[".repeat(64), "]".repeat(64))), Json::Texts(_)));
        assert_eq!(read(&"[".repeat(65)), Json::TooDeep);
        assert_eq!(read(&"[".repeat(1_000_000)), Json::TooDeep);
        assert!(matches!(read(r#""[[[""#), Json::Texts(_)));
    }

    #[test]
    fn what_is_not_json_is_said() {
        for body in ["", "rm -rf /", "{\"a\":", "[1] 2", r#""\ud800""#] {
            assert_eq!(read(body), Json::Malformed, "{body}");
        }
    }
}
