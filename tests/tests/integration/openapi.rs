//! The description that the service serves of itself, held against what it does.

use portreeve::command::catalogue::{CATALOGUE, Entry};
use serde_json::{Value, json};

use crate::harness::{Reply, Server};
use crate::samples::{Scene, sample_of, samples};

async fn document() -> Value {
    let server = Server::start().await;
    server.nobody().get("/openapi.json").await.ok()
}

/// What the document says of an entry.
fn operation<'a>(document: &'a Value, entry: &Entry) -> &'a Value {
    let path = entry.path.replace("{*", "{");
    &document["paths"][path][entry.method.as_str().to_ascii_lowercase()]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_is_this_one() {
    let mut document = document().await;
    document["info"]["version"] = json!("VERSION");
    insta::assert_snapshot!(serde_json::to_string_pretty(&document).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_entry_is_in_it_and_nothing_else_needs_a_key() {
    let document = document().await;
    for entry in CATALOGUE {
        let told = operation(&document, entry);
        assert_eq!(told["operationId"], entry.name);
        assert!(told.get("security").is_none(), "{}", entry.name);
        let in_body = told.pointer("/requestBody/content/application~1json/schema/properties");
        let in_body = in_body.and_then(Value::as_object).map(|map| map.len()).unwrap_or_default();
        let headers = usize::from(entry.kind == portreeve::command::catalogue::Kind::Mutation);
        let elsewhere = told["parameters"].as_array().unwrap().len();
        assert_eq!(in_body + elsewhere - headers, entry.input.len(), "{}", entry.name);
    }
    let operations =
        document["paths"].as_object().unwrap().values().flat_map(|item| item.as_object().unwrap().values());
    let keyed = operations.clone().filter(|operation| operation.get("security").is_none()).count();
    assert_eq!(keyed, CATALOGUE.len());
    assert!(operations.filter(|operation| operation["security"] == json!([])).count() >= 7);
}

/// Fails where a reply has a status or a body that the document does not know.
#[track_caller]
fn assert_documented(document: &Value, entry: &Entry, reply: &Reply) {
    let told = &operation(document, entry)["responses"][reply.status.to_string()];
    let told = match told.get("$ref").and_then(Value::as_str) {
        Some(reference) => document.pointer(reference.trim_start_matches('#')).unwrap(),
        None => told,
    };
    let mut schema = told["content"]["application/json"]["schema"].clone();
    assert!(schema.is_object(), "{}: {} is not documented", entry.name, reply.status);
    schema["components"] = document["components"].clone();
    let validator = jsonschema::draft202012::options().should_validate_formats(true).build(&schema).unwrap();
    let problems: Vec<String> =
        validator.iter_errors(&reply.body).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(problems.is_empty(), "{} {}: {problems:#?}\n{}", entry.name, reply.status, reply.body);
    assert_eq!(reply.header("content-type"), Some("application/json"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_answered_is_what_is_described() {
    let document = document().await;
    let mut seen = std::collections::BTreeSet::new();
    for entry in CATALOGUE {
        let sample = sample_of(entry);
        let scene = Scene::with_actor(sample.fit).await;
        let allowed = scene.actor.send(scene.sample(&sample)).await;
        assert_eq!(allowed.status, 200);
        let mut replies = vec![allowed];
        // The same again is often a business refusal, with other keys set.
        replies.push(scene.actor.send(scene.sample(&sample)).await);
        replies.push(scene.server.nobody().send(scene.sample(&sample)).await);
        if !sample.bad.is_null() {
            replies.push(scene.actor.send(scene.request(entry, &sample.bad)).await);
        }
        scene.server.suspend("actor", true).await;
        replies.push(scene.actor.send(scene.sample(&sample)).await);
        for reply in &replies {
            assert_documented(&document, entry, reply);
            seen.insert(reply.status);
        }
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [200, 401, 403, 422]);
    assert_eq!(samples().len(), CATALOGUE.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schemas_tell_an_answer_from_another() {
    let document = document().await;
    let entry = portreeve::command::catalogue::entry("lock_acquire").unwrap();
    let schema = &operation(&document, entry)["responses"]["200"]["content"]["application/json"]["schema"];
    let validator = jsonschema::draft202012::new(schema).unwrap();
    let scene = Scene::with_actor("claude_code_local").await;
    let grant = scene.actor.acquire("a").await.ok();
    assert!(validator.is_valid(&grant));
    for (field, wrong) in [("success", json!("yes")), ("fencing_token", json!("7")), ("expires_at", json!(5))] {
        let mut bad = grant.clone();
        bad[field] = wrong;
        assert!(!validator.is_valid(&bad), "{field}");
    }
    let mut short = grant.clone();
    short.as_object_mut().unwrap().remove("locked_by");
    assert!(!validator.is_valid(&short), "a key that is always there is required");
}

#[tokio::test(flavor = "multi_thread")]
async fn help_needs_no_key_and_knows_its_topics() {
    let server = Server::start().await;
    let nobody = server.nobody();
    let index = nobody.get("/help").await.ok();
    let topics = index["topics"].as_array().unwrap();
    assert_eq!(index["count"], json!(topics.len()));
    for topic in topics {
        let told = nobody.get(&format!("/help/{}", topic["name"].as_str().unwrap())).await.ok();
        assert_eq!(told["topic"], topic["name"]);
        assert!(!told["tools"].as_array().unwrap().is_empty() && !told["examples"].as_array().unwrap().is_empty());
    }
    for (path, status) in [("/help/nothing", 404), ("/help/", 404), ("/help/%ff", 404), ("/help/locks/x", 404)] {
        let reply = nobody.get(path).await;
        assert_eq!((reply.status, &reply.body["error"]), (status, &json!("not_found")), "{path}");
    }
    assert_eq!(nobody.post("/help", json!({})).await.status, 405);
}
