//! Two runs compared: what differs from run to run gets a name by its first appearance.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// What the log says of a call that does not depend on the machine. Not the fuel: it depends on identifiers, which are
/// new in each store.
const TEXTS: [&str; 19] = [
    "agent_id",
    "agent_type",
    "profile",
    "command",
    "operation",
    "resource",
    "parameters",
    "request",
    "decision",
    "reason",
    "detail",
    "engine",
    "deciding",
    "violations",
    "obligations",
    "component",
    "outcome",
    "result",
    "changes",
];

/// Identifiers, keys and, unless the test holds them, times, each told by its place in the run.
#[derive(Debug, Default)]
pub(crate) struct Masks {
    names: BTreeMap<String, String>,
    /// Times are the same in both runs, and compared.
    is_held: bool,
}

impl Masks {
    /// For runs whose time the test holds.
    pub(crate) fn held() -> Self {
        Self { is_held: true, ..Self::default() }
    }

    pub(crate) fn value(&mut self, value: &Value) -> Value {
        match value {
            Value::String(text) => Value::from(self.text(text)),
            Value::Array(items) => items.iter().map(|item| self.value(item)).collect(),
            Value::Object(map) => {
                let masked = map.iter().map(|(name, value)| match name.as_str() {
                    // How long something took, when it was and what it cost is no part of the answer.
                    "duration_ms" | "duration_us" | "fuel" if value.is_number() => (name.clone(), json!("…")),
                    "last_heartbeat" if value.is_number() && !self.is_held => (name.clone(), json!("…")),
                    _ => (name.clone(), self.value(value)),
                });
                Value::Object(masked.collect::<Map<_, _>>())
            }
            other => other.clone(),
        }
    }

    pub(crate) fn text(&mut self, text: &str) -> String {
        if let Ok(inner) = serde_json::from_str::<Value>(text)
            && (inner.is_object() || inner.is_array())
        {
            return self.value(&inner).to_string();
        }
        if !self.is_held && portreeve::clock::Time::parse(text).is_ok() {
            return "<time>".to_owned();
        }
        let mut masked = String::new();
        let mut rest = text;
        while !rest.is_empty() {
            let id = rest.get(..36).filter(|id| uuid::Uuid::parse_str(id).is_ok());
            let key = rest.strip_prefix("prv_").and_then(|_| rest.get(..68));
            match (id, key) {
                (Some(id), _) => {
                    let next = format!("<id {}>", self.names.len());
                    masked.push_str(self.names.entry(id.to_owned()).or_insert(next));
                    rest = rest.get(36..).unwrap_or_default();
                }
                (_, Some(_)) => {
                    masked.push_str("<key>");
                    rest = rest.get(68..).unwrap_or_default();
                }
                _ => {
                    let first = rest.chars().next().unwrap();
                    masked.push(first);
                    rest = rest.get(first.len_utf8()..).unwrap_or_default();
                }
            }
        }
        masked
    }

    /// A row of the log.
    pub(crate) fn row(&mut self, row: &Value) -> Value {
        let mut line = Map::new();
        for column in TEXTS {
            let masked = self.text(row[column].as_str().unwrap());
            // The order of a document's fields is the store's own.
            line.insert(column.to_owned(), serde_json::from_str(&masked).unwrap_or(Value::from(masked)));
        }
        for column in ["trust_level", "epoch", "facts_version"] {
            line.insert(column.to_owned(), row[column].clone());
        }
        Value::Object(line)
    }
}
