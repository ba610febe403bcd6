//! The catalogue's entries as tools.

use std::sync::LazyLock;

use rmcp::model::{CallToolResult, ContentBlock, MetaObject, Tool, ToolAnnotations};
use serde_json::{Map, Value, json};

use crate::command::catalogue::{Answer, CATALOGUE, Entry, Kind};
use crate::command::help;

/// The tool that no entry is behind: what the service says of itself.
pub(super) const HELP: &str = "help";

/// All tools, in the catalogue's order, made once.
pub(super) fn all() -> &'static [Tool] {
    static TOOLS: LazyLock<Vec<Tool>> =
        LazyLock::new(|| CATALOGUE.iter().filter_map(tool_of).chain([help_tool()]).collect());
    &TOOLS
}

fn tool_of(entry: &Entry) -> Option<Tool> {
    let tool = entry.tool?;
    let annotations = ToolAnnotations::from_raw(
        Some(title(tool.name)),
        Some(entry.kind == Kind::Query),
        Some(tool.destructive),
        Some(tool.idempotent || entry.kind == Kind::Query),
        Some(false),
    );
    let made = Tool::new(tool.name, entry.description(), entry.input_schema())
        .with_title(title(tool.name))
        .with_raw_output_schema(std::sync::Arc::new(either(entry.output_schema())))
        .with_annotations(annotations);
    Some(made)
}

fn help_tool() -> Tool {
    let input = json!({
        "type": "object",
        "properties": {"topic": {"type": "string", "maxLength": 256, "description": "A topic; without one, the list of them"}},
    });
    let output = json!({
        "type": "object",
        "properties": {"topics": {"type": "array"}, "topic": {"type": "string"}, "tools": {"type": "array"}},
    });
    Tool::new(HELP, "Read how to work with this service: topics, tools, workflows, examples.", object(input))
        .with_title("Help")
        .with_raw_output_schema(std::sync::Arc::new(object(output)))
        .with_annotations(ToolAnnotations::from_raw(
            Some("Help".to_owned()),
            Some(true),
            Some(false),
            Some(true),
            Some(false),
        ))
}

/// `acquire_lock` as people read it.
fn title(name: &str) -> String {
    let words = name.replace('_', " ");
    let mut letters = words.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

/// An answer or a refusal: clients hold both against the one schema, and it has to be of an object.
fn either(answer: Value) -> Map<String, Value> {
    let refusal = json!({
        "type": "object", "required": ["success", "error"],
        "properties": {
            "success": {"const": false},
            "error": {"type": "string", "description": "denied, invalid_request, storage_unavailable …"},
            "reason": {"type": "string"}, "remedy": {"type": "string"}, "decision_id": {"type": "string"},
        },
    });
    object(json!({"type": "object", "anyOf": [answer, refusal]}))
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// An answer as a tool's result: the same body as structure and as text. A refusal is an error that the model reads.
pub(super) fn result(answer: &Answer, request_id: &str) -> CallToolResult {
    let content = vec![ContentBlock::text(answer.body.to_string())];
    let mut result =
        if answer.is_refusal() { CallToolResult::error(content) } else { CallToolResult::success(content) };
    result.structured_content = Some(answer.body.clone());
    let mut meta = MetaObject::new();
    meta.insert("portreeve/requestId".to_owned(), json!(request_id));
    if answer.replayed {
        meta.insert("portreeve/idempotencyReplayed".to_owned(), json!(true));
    }
    result.meta = Some(meta);
    result
}

/// What the help answers.
pub(super) fn help(arguments: &Map<String, Value>) -> Answer {
    match arguments.get("topic").and_then(Value::as_str).filter(|topic| !topic.is_empty()) {
        None => Answer { status: 200, body: help::index(), replayed: false },
        Some(name) => match help::topic(name) {
            Some(body) => Answer { status: 200, body, replayed: false },
            None => Answer::refusal(&crate::error::Error::UnknownTopic(name.chars().take(100).collect())),
        },
    }
}
