//! Documents that others wrote, as plain nodes: no tags, no duplicates, no more nodes than anybody needs. What is wrong
//! is told by its place, never by its content: there may be keys in it.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, Visitor};

/// Most bytes of a document.
pub(super) const BYTES_MAX: usize = 1 << 20;
/// Most nodes: aliases can make a small document a huge one.
const NODES_MAX: usize = 100_000;

/// A part of a document.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    Null,
    Bool,
    Int(i64),
    /// A number that is not whole.
    Number,
    Text(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

impl Node {
    pub(super) fn as_text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    pub(super) fn get(&self, name: &str) -> Option<&Self> {
        let Self::Map(fields) = self else { return None };
        fields.iter().find(|(field, _)| field == name).map(|(_, node)| node)
    }
}

/// Reads YAML.
pub(super) fn yaml(text: &str) -> Result<Node, String> {
    let limits = Limits::default();
    limits.seed().deserialize(yaml_serde::Deserializer::from_str(text)).map_err(|error| {
        let place = error.location().map(|at| (at.line(), at.column()));
        limits.explain("YAML", place)
    })
}

/// Reads JSON.
pub(super) fn json(text: &str) -> Result<Node, String> {
    let limits = Limits::default();
    let mut reader = serde_json::Deserializer::from_str(text);
    let read = limits.seed().deserialize(&mut reader).and_then(|node| reader.end().map(|()| node));
    read.map_err(|error| limits.explain("JSON", Some((error.line(), error.column()))))
}

/// What a reader counts, and what it found wrong.
#[derive(Default)]
struct Limits {
    nodes: Cell<usize>,
    why: Cell<Option<&'static str>>,
}

impl Limits {
    const fn seed(&self) -> Seed<'_> {
        Seed(self)
    }

    fn refuse<E: Error>(&self, why: &'static str) -> E {
        self.why.set(Some(why));
        E::custom(why)
    }

    fn explain(&self, language: &str, place: Option<(usize, usize)>) -> String {
        let why = self.why.get().map_or_else(|| format!("it is not {language}"), str::to_owned);
        place.map_or_else(|| why.clone(), |(line, column)| format!("{why} (line {line} column {column})"))
    }
}

#[derive(Clone, Copy)]
struct Seed<'a>(&'a Limits);

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        let count = self.0.nodes.get().saturating_add(1);
        self.0.nodes.set(count);
        if count > NODES_MAX {
            return Err(self.0.refuse("it has too many parts"));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a plain value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
        Ok(Node::Bool)
    }

    fn visit_i64<E>(self, number: i64) -> Result<Node, E> {
        Ok(Node::Int(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Node, E> {
        Ok(i64::try_from(number).map_or(Node::Number, Node::Int))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
        Ok(Node::Number)
    }

    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        Ok(Node::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            list.push(item);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
        let mut map = Vec::<(String, Node)>::new();
        let mut names = std::collections::BTreeSet::new();
        while let Some(name) = entries.next_key_seed(self)? {
            let name = match name {
                Node::Text(name) => name,
                Node::Int(number) => number.to_string(),
                _ => return Err(self.0.refuse("a name in it is no text")),
            };
            if !names.insert(name.clone()) {
                return Err(self.0.refuse("a name in it is given twice"));
            }
            map.push((name, entries.next_value_seed(self)?));
        }
        Ok(Node::Map(map))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, _: A) -> Result<Node, A::Error> {
        Err(self.0.refuse("it has a YAML tag, which is not read"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_documents_are_read() {
        let text = |text: &str| Node::Text(text.to_owned());
        let expected = Node::Map(vec![
            ("a".to_owned(), Node::List(vec![Node::Int(1), text("x"), Node::Bool, Node::Null])),
            ("7".to_owned(), Node::Number),
        ]);
        assert_eq!(yaml("a: [1, x, true, ~]\n7: 1.5\n").unwrap(), expected);
        assert_eq!(json("{\"a\": [1, \"x\", true, null], \"7\": 1.5}").unwrap(), expected);
        assert_eq!(yaml("").unwrap(), Node::Null);
        assert_eq!(yaml("a: &x 1\nb: *x").unwrap().get("b"), Some(&Node::Int(1)));
    }

    #[test]
    fn hostile_documents_are_refused_without_repeating_them() {
        let wide = format!("a: &a [{}]\nb: [{}]", "x,".repeat(50_000), "*a,".repeat(1000));
        let laughs: String = (1..30).fold("a0: &a0 x\n".to_owned(), |text, n| {
            text + &format!("a{n}: &a{n} [*a{m}, *a{m}, *a{m}, *a{m}]\n", m = n - 1)
        });
        let deep = "[".repeat(100_000);
        for (text, why) in [
            (wide.as_str(), "too many parts"),
            (&laughs, ""),
            (&deep, ""),
            ("a: !secret prv_1", "tag"),
            ("secret: 1\nsecret: 2", "twice"),
            ("? [secret]\n: 1", "no text"),
            ("secret: [", "not YAML (line"),
        ] {
            let error = yaml(text).unwrap_err();
            assert!(error.contains(why) && !error.contains("secret") && error.len() < 200, "{error}");
        }
        for text in ["{\"secret\": 1, \"secret\": 2}", "{\"secret\": 'x'}", "{} secret", &"[".repeat(100_000)] {
            let error = json(text).unwrap_err();
            assert!(!error.contains("secret") && error.contains("line"), "{error}");
        }
    }
}
