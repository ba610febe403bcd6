//! Small readers and writers of the JSON that goes to the service and comes back.

use serde_json::{Map, Value};

/// The fields of an input that are given.
pub(super) fn fields(input: Value) -> Map<String, Value> {
    match input {
        Value::Object(map) => map.into_iter().filter(|(_, value)| !value.is_null()).collect(),
        _ => Map::new(),
    }
}

/// A text of an answer; empty when it is absent or null.
pub(super) fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// A list of an answer; empty when it is absent.
pub(super) fn items<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// A time as a table shows it: to the second.
pub(super) fn short_time(time: &str) -> String {
    time.split_once('.').map_or_else(|| time.to_owned(), |(seconds, _)| format!("{seconds}Z"))
}

/// What a list says of the entries that it left out.
pub(super) fn hint(body: &Value) -> Option<String> {
    Some(text(body, "hint")).filter(|hint| !hint.is_empty()).map(|hint| format!("There are more; {hint}."))
}
