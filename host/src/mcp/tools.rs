//! The tools: one for each entry of the catalogue that names one, and `help`.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use rmcp::model::{JsonObject, Tool, ToolAnnotations};
use serde_json::{Value, json};

use crate::command::catalogue::{Answer, CATALOGUE, Entry, Kind, Tool as ToolHints};
use crate::command::help;
use crate::error::Error;

/// The tool that is no entry of the catalogue: it asks nobody and tells nothing but what is written.
pub(super) const HELP: &str = "help";

static TOOLS: LazyLock<Vec<Tool>> = LazyLock::new(|| {
    let entries = CATALOGUE.iter().filter_map(|entry| entry.tool.map(|hints| of_entry(entry, hints)));
    std::iter::once(of_help()).chain(entries).collect()
});

static BY_NAME: LazyLock<HashMap<&'static str, &'static Tool>> =
    LazyLock::new(|| TOOLS.iter().map(|tool| (tool.name.as_ref(), tool)).collect());

/// All tools, in the catalogue's order, which does not change while the program runs.
pub(super) fn all() -> &'static [Tool] {
    &TOOLS
}

/// A tool by its name.
pub(super) fn find(name: &str) -> Option<&'static Tool> {
    BY_NAME.get(name).copied()
}

fn of_entry(entry: &'static Entry, hints: ToolHints) -> Tool {
    let reads = entry.kind == Kind::Query;
    let annotations = ToolAnnotations::new()
        .read_only(reads)
        .destructive(hints.destructive)
        .idempotent(reads || hints.idempotent)
        .open_world(false);
    Tool::new(hints.name, entry.description(), Arc::new(entry.input_schema()))
        .with_title(title(hints.name))
        .with_raw_output_schema(Arc::new(answered(&entry.output_schema())))
        .with_annotations(annotations)
}

fn of_help() -> Tool {
    let input = object(json!({
        "type": "object",
        "properties": {"topic": {"type": "string", "maxLength": 256, "description": "A topic; leave it out for a list of them"}},
    }));
    let description = "Explain how to work with the coordinator: topics with tools, workflows and examples. \
        Start here when you are unsure which tool to use.";
    Tool::new(HELP, description, Arc::new(input))
        .with_title("Help")
        .with_raw_output_schema(Arc::new(answered(&json!({"type": "object"}))))
        .with_annotations(ToolAnnotations::new().read_only(true).destructive(false).idempotent(true).open_world(false))
}

/// `acquire_lock` for people: "Acquire lock".
fn title(name: &str) -> String {
    let words = name.replace('_', " ");
    let mut letters = words.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// The schema of whatever a call may answer. Clients check the structured content of errors against it as well, so a
/// refusal is one of its shapes.
fn answered(output: &Value) -> JsonObject {
    object(json!({"type": "object", "anyOf": [output, refusal()]}))
}

/// The body of every refusal, whatever refused.
fn refusal() -> Value {
    let text = || json!({"type": "string"});
    json!({
        "type": "object",
        "description": "A refusal: nothing was done",
        "properties": {
            "success": {"const": false},
            "error": {"type": "string", "description": "denied, invalid_request, storage_unavailable, unreachable …"},
            "reason": text(), "remedy": text(), "decision_id": text(),
        },
        "required": ["success", "error"],
    })
}

fn object(value: Value) -> JsonObject {
    match value {
        Value::Object(map) => map,
        _ => JsonObject::new(),
    }
}

/// What `help` answers: a topic, or the list of topics.
pub(super) fn answer_help(arguments: &JsonObject) -> Answer {
    let topic = match arguments.get("topic") {
        None | Some(Value::Null) => "",
        Some(Value::String(topic)) => topic.trim(),
        Some(_) => return Answer::refusal(&Error::field("topic", "string_type", "input should be a text")),
    };
    let body = if topic.is_empty() { Some(help::index()) } else { help::topic(topic) };
    match body {
        Some(body) => Answer { status: 200, body, replayed: false },
        None => Answer::refusal(&Error::UnknownTopic(topic.chars().take(100).collect())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tool_of_the_catalogue_is_offered_once_and_found() {
        let names: Vec<&str> = all().iter().map(|tool| tool.name.as_ref()).collect();
        let expected = CATALOGUE.iter().filter_map(|entry| entry.tool.map(|tool| tool.name));
        assert_eq!(names, std::iter::once(HELP).chain(expected).collect::<Vec<_>>());
        assert_eq!(BY_NAME.len(), names.len());
        assert_eq!(find("acquire_lock").and_then(|tool| tool.title.as_deref()), Some("Acquire lock"));
        assert!(find("lock_acquire").is_none());
    }
}
