//! The OpenAPI 3.1 description of the HTTP surface, made from the catalogue: the lists of fields that read requests,
//! and the types that print answers.

use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use crate::command::catalogue::{CATALOGUE, Entry, Kind, Method};
use crate::command::input::Field;
use crate::command::schema::field_schema;

/// The document, made once.
pub(super) fn document() -> &'static Value {
    static DOCUMENT: LazyLock<Value> = LazyLock::new(make);
    &DOCUMENT
}

fn make() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for entry in CATALOGUE {
        let path = entry.path.replace("{*", "{");
        let item = paths.entry(path).or_insert_with(|| json!({}));
        if let Some(item) = item.as_object_mut() {
            item.insert(entry.method.as_str().to_ascii_lowercase(), operation(entry));
        }
    }
    paths.extend(keyless());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Portreeve",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Coordinates fleets of coding agents; no change gets past policy. Reading is more lenient \
                than these schemas: unknown fields and nulls are tolerated, numbers may be written as text, and an \
                empty identifier counts as absent.",
        },
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}, {"coordinatorKey": []}, {"apiKey": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "The agent's key"},
                "coordinatorKey": {"type": "apiKey", "in": "header", "name": "X-Coordinator-API-Key"},
                "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
            "headers": {
                "RequestId": {"description": "Identifies the request in log and audit row", "schema": {"type": "string"}},
                "Replayed": {
                    "description": "`true` where this is the first answer to a repeated request",
                    "schema": {"type": "string"},
                },
            },
            "schemas": refusals(),
            "responses": responses(),
        },
    })
}

fn operation(entry: &Entry) -> Value {
    let in_path = |field: &&Field| is_in_path(entry, field);
    let mut parameters: Vec<Value> = entry.input.iter().filter(in_path).map(|field| parameter(field, "path")).collect();
    let rest: Vec<Field> = entry.input.iter().filter(|field| !is_in_path(entry, field)).copied().collect();
    let mut operation = json!({
        "operationId": entry.name, "tags": [tag(entry)], "summary": entry.summary, "description": entry.description(),
        "x-policy-operation": entry.operation,
    });
    if entry.method == Method::Post {
        let schema = crate::command::schema::input_schema(&rest);
        let required = rest.iter().any(|field| field.required);
        let mut content = json!({"application/json": {"schema": schema}});
        if let (Some(file), Some(content)) = (entry.file, content.as_object_mut()) {
            content.insert(file.media_type.to_owned(), json!({"schema": {"type": "string", "format": "binary"}}));
        }
        operation["requestBody"] = json!({"required": required, "content": content});
    } else {
        parameters.extend(rest.iter().map(|field| parameter(field, "query")));
    }
    if entry.kind == Kind::Mutation {
        parameters.push(json!({
            "name": "Idempotency-Key", "in": "header", "required": false,
            "description": "A repeat within 24 hours answers what the first did, and changes nothing",
            "schema": {"type": "string", "minLength": 1, "maxLength": 255},
        }));
    }
    operation["parameters"] = json!(parameters);
    operation["responses"] = json!(answers(entry));
    operation
}

fn answers(entry: &Entry) -> Map<String, Value> {
    let mut headers = json!({"x-request-id": {"$ref": "#/components/headers/RequestId"}});
    if entry.kind == Kind::Mutation {
        headers["idempotency-replayed"] = json!({"$ref": "#/components/headers/Replayed"});
    }
    let answered = json!({
        "description": "Answered. A business refusal (held by another, nothing to claim) has `success: false` and a reason",
        "headers": headers,
        "content": {"application/json": {"schema": entry.output_schema()}},
    });
    let mut answers = Map::from_iter([("200".to_owned(), answered)]);
    if entry.method != Method::Post {
        // The server library turns away what it does not even read, in words of its own.
        answers.insert("414".to_owned(), json!({"description": "Path and query are longer than 64 KiB; no body"}));
        answers.insert("431".to_owned(), json!({"description": "Path, query and headers are too long; no body"}));
    }
    let too_large = entry.method == Method::Post;
    for (status, name, applies) in
        RESPONSES.iter().map(|(status, name, _, _)| (status, name, *status != "413" || too_large))
    {
        if applies {
            answers.insert((*status).to_owned(), json!({"$ref": format!("#/components/responses/{name}")}));
        }
    }
    answers
}

fn parameter(field: &Field, place: &str) -> Value {
    let mut schema = field_schema(field);
    if let Some(map) = schema.as_object_mut() {
        map.remove("description");
        // An empty segment is another path.
        if place == "path" {
            map.insert("minLength".to_owned(), json!(1));
        }
    }
    json!({
        "name": field.name, "in": place, "required": place == "path" || field.required, "description": field.doc,
        "schema": schema,
    })
}

fn is_in_path(entry: &Entry, field: &Field) -> bool {
    entry.path.contains(&format!("{{{}}}", field.name)) || entry.path.contains(&format!("{{*{}}}", field.name))
}

/// The noun, for grouping.
fn tag(entry: &Entry) -> &'static str {
    entry.name.split('_').next().unwrap_or(entry.name)
}

// ---------------------------------------------------------------- refusals

/// Status, name, schema and meaning of what any keyed operation may answer instead.
const RESPONSES: [(&str, &str, &str, &str); 5] = [
    ("401", "Unauthenticated", "Refused", "No key, an unknown one or a revoked one; the body was not looked at"),
    ("403", "Denied", "Denied", "Policy said no, or the body names another agent than the key; nothing happened"),
    ("413", "TooLarge", "Refused", "The body is larger than the operation takes: 1 MiB, or what its description says"),
    ("422", "Invalid", "Invalid", "The input is not what the operation takes; nothing happened"),
    ("503", "Unavailable", "Unavailable", "Store or policy component are not usable now; nothing happened"),
];

fn responses() -> Map<String, Value> {
    let made = RESPONSES.iter().map(|(status, name, schema, meaning)| {
        let mut headers = json!({"x-request-id": {"$ref": "#/components/headers/RequestId"}});
        if *status == "503" {
            headers["retry-after"] = json!({"description": "Seconds", "schema": {"type": "string"}});
        }
        let content = json!({"application/json": {"schema": {"$ref": format!("#/components/schemas/{schema}")}}});
        ((*name).to_owned(), json!({"description": meaning, "headers": headers, "content": content}))
    });
    made.collect()
}

fn refusals() -> Map<String, Value> {
    let body = |error: Value, mut more: Value, required: &[&str]| {
        let mut properties = json!({"success": {"const": false}, "error": error});
        if let (Some(properties), Some(more)) = (properties.as_object_mut(), more.as_object_mut()) {
            properties.append(more);
        }
        let required: Vec<&str> = ["success", "error", "detail"].into_iter().chain(required.iter().copied()).collect();
        json!({"type": "object", "properties": properties, "required": required})
    };
    let text = || json!({"type": "string"});
    let problem = json!({
        "type": "object", "required": ["loc", "msg", "type"],
        "properties": {"loc": {"type": "array", "items": text()}, "msg": text(), "type": text()},
    });
    let policy = json!({
        "type": "object", "required": ["component", "epoch"],
        "properties": {"component": text(), "epoch": {"type": "integer"}},
    });
    let denied = json!({
        "detail": text(), "reason": {"type": "string", "description": "`code: detail`"},
        "remedy": {"type": "string", "description": "What would be allowed, or who can change it"},
        "decision_id": {"type": "string", "format": "uuid", "description": "The row of the audit log"}, "policy": policy,
    });
    Map::from_iter([
        ("Refused".to_owned(), body(text(), json!({"detail": text()}), &[])),
        (
            "Denied".to_owned(),
            body(
                json!({"enum": ["denied", "identity_mismatch"]}),
                denied,
                &["reason", "remedy", "decision_id", "policy"],
            ),
        ),
        (
            "Invalid".to_owned(),
            body(
                json!({"const": "invalid_request"}),
                json!({"reason": text(), "detail": {"type": "array", "items": problem, "minItems": 1}}),
                &["reason"],
            ),
        ),
        (
            "Unavailable".to_owned(),
            body(
                json!({"enum": ["policy_unavailable", "storage_unavailable", "contention"]}),
                json!({"detail": text(), "reason": text(), "decision_id": text()}),
                &[],
            ),
        ),
    ])
}

// ------------------------------------------------------------ without a key

fn keyless() -> Map<String, Value> {
    let word = || json!({"type": "string"});
    let live = json!({
        "type": "object", "required": ["status", "version"], "properties": {"status": word(), "version": word()},
    });
    let ready = json!({
        "type": "object", "required": ["status", "version", "db", "policy"],
        "properties": {
            "status": word(), "version": word(), "db": word(), "policy": word(), "component": word(),
            "epoch": {"type": "integer"}, "reason": word(), "detail": word(),
        },
    });
    let topics = json!({
        "type": "object", "required": ["topics", "count"],
        "properties": {"topics": {"type": "array", "items": {"type": "object"}}, "count": {"type": "integer"}},
    });
    let topic = json!({
        "type": "object", "required": ["topic", "summary", "tools", "workflow", "examples"],
        "properties": {
            "topic": word(), "summary": word(), "tools": {"type": "array"}, "workflow": {"type": "array"},
            "examples": {"type": "array"},
        },
    });
    let object = json!({"type": "object"});
    let get = |id: &str, summary: &str, mime: &str, schema: &Value, also: &[(&str, &str, Value)]| {
        let answer =
            |meaning: &str, schema: &Value| json!({"description": meaning, "content": {mime: {"schema": schema}}});
        let mut responses = Map::from_iter([("200".to_owned(), answer("Answered", schema))]);
        responses.extend(also.iter().map(|(status, meaning, schema)| ((*status).to_owned(), answer(meaning, schema))));
        json!({"get": {
            "operationId": id, "tags": ["service"], "summary": summary, "security": [], "responses": responses,
        }})
    };
    let refused = json!({"$ref": "#/components/schemas/Refused"});
    let unusable = [("503", "Store or policy component are not usable", ready.clone())];
    let mut help = get("help_topic", "Read one topic of the help", JSON, &topic, &[("404", "No such topic", refused)]);
    help["get"]["parameters"] =
        json!([{"name": "topic", "in": "path", "required": true, "schema": {"type": "string", "minLength": 1}}]);
    [
        ("/live", get("live", "Whether the process answers", JSON, &live, &[])),
        ("/ready", get("ready", "Whether store and policy are usable", JSON, &ready, &unusable)),
        ("/health", get("health", "The same as /ready", JSON, &ready, &unusable)),
        ("/help", get("help", "List the topics of the help", JSON, &topics, &[])),
        ("/help/{topic}", help),
        ("/openapi.json", get("openapi", "This document", JSON, &object, &[])),
        ("/metrics", get("metrics", "Metrics in Prometheus' text format", "text/plain", &word(), &[])),
    ]
    .map(|(path, item)| (path.to_owned(), item))
    .into_iter()
    .collect()
}

const JSON: &str = "application/json";
