//! Handoffs: what one agent leaves to the next.

use serde_json::{Value, json};

use crate::harness::{Client, Server};

const KEYS: [&str; 10] = [
    "agent_name",
    "completed_work",
    "created_at",
    "decisions",
    "id",
    "in_progress",
    "next_steps",
    "relevant_files",
    "session_id",
    "summary",
];

async fn write(client: &Client, body: Value) -> String {
    let written = client.post("/handoffs/write", body).await.done();
    let mut keys: Vec<&String> = written.as_object().unwrap().keys().collect();
    keys.sort();
    assert_eq!(keys, ["error", "handoff_id", "success"]);
    assert_eq!(written["error"], Value::Null);
    written["handoff_id"].as_str().unwrap().to_owned()
}

async fn read(client: &Client, body: Value) -> Value {
    client.post("/handoffs/read", body).await.ok()
}

fn summaries(listing: &Value) -> Vec<&str> {
    listing["handoffs"].as_array().unwrap().iter().map(|entry| entry["summary"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handoff_is_read_as_it_was_written_by_anybody_who_may_read() {
    let server = Server::start().await;
    let (a, reviewer) = (server.agent("a", "codex_remote").await, server.agent("r", "claude_code_reviewer").await);
    let body = json!({
        "summary": "the parser is half done \u{1f680} und größer", "session_id": "any-session", "agent_id": "", "agent_type": null,
        "completed_work": ["lexer", "tests"], "in_progress": ["parser"], "decisions": ["no \"recursion\""],
        "next_steps": ["finish\nit"], "relevant_files": ["src/parser.rs"],
    });
    let id = write(&a, body.clone()).await;
    let listing = read(&reviewer, json!({})).await;
    assert_eq!((&listing["count"], &listing["truncated"], listing.get("hint")), (&json!(1), &json!(false), None));
    let entry = &listing["handoffs"][0];
    let mut keys: Vec<&String> = entry.as_object().unwrap().keys().collect();
    keys.sort();
    assert_eq!(keys, KEYS);
    assert_eq!((&entry["id"], &entry["agent_name"]), (&json!(id), &json!("a")));
    assert_eq!(entry["created_at"], json!(server.now().to_string()));
    for field in ["summary", "session_id", "completed_work", "in_progress", "decisions", "next_steps", "relevant_files"]
    {
        assert_eq!(entry[field], body[field], "{field}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_that_were_left_out_are_empty_and_newest_comes_first() {
    let server = Server::start().await;
    let (a, b) = (server.agent("a", "codex_remote").await, server.agent("b", "codex_remote").await);
    // All in one instant: what counts is the order of writing.
    for (client, n) in [(&a, 1), (&b, 2), (&a, 3), (&b, 4)] {
        write(client, json!({"summary": format!("{n}"), "next_steps": null, "decisions": []})).await;
    }
    let one = read(&a, json!({})).await;
    assert_eq!((summaries(&one), &one["truncated"]), (vec!["4"], &json!(true)));
    assert!(one["hint"].as_str().is_some_and(|hint| hint.contains("limit")), "{one}");
    for list in ["completed_work", "in_progress", "decisions", "next_steps", "relevant_files"] {
        assert_eq!(one["handoffs"][0][list], json!([]), "{list}");
    }
    assert_eq!(one["handoffs"][0]["session_id"], Value::Null);
    for nobody in [Value::Null, json!("")] {
        let all = read(&a, json!({"agent_name": nobody, "limit": 100})).await;
        assert_eq!(summaries(&all), ["4", "3", "2", "1"]);
    }
    assert_eq!(summaries(&read(&b, json!({"agent_name": "a", "limit": "2"})).await), ["3", "1"]);
    assert_eq!(read(&b, json!({"agent_name": "nobody"})).await["count"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handoff_says_something_and_not_too_much() {
    let server = Server::start().await;
    let a = server.agent("a", "codex_remote").await;
    for body in [json!({}), json!({"summary": ""}), json!({"summary": " \n"}), json!({"summary": 5})] {
        assert_eq!(a.post("/handoffs/write", body.clone()).await.status, 422, "{body}");
    }
    let many: Vec<&str> = vec!["x"; 201];
    for (field, value, code) in [
        ("next_steps", json!(many), "too_long"),
        ("next_steps", json!(["x".repeat(4097)]), "string_too_long"),
        ("decisions", json!("no list"), "list_type"),
        ("decisions", json!([{"why": "no text"}]), "string_type"),
    ] {
        a.post("/handoffs/write", json!({"summary": "s", field: value})).await.invalid(code);
    }
    for limit in [json!(0), json!(101), json!("x")] {
        assert_eq!(a.post("/handoffs/read", json!({"limit": limit})).await.status, 422, "{limit}");
    }
    assert_eq!(read(&a, json!({})).await["count"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_tells_the_next_agent_to_do_is_read_by_the_guardrails() {
    let server = Server::start().await;
    let (remote, local) = (server.agent("a", "codex_remote").await, server.agent("b", "codex_local").await);
    let body = json!({"summary": "done", "next_steps": ["test", "git push --force origin main"]});
    let denied = remote.post("/handoffs/write", body.clone()).await.denied("destructive_operation_blocked");
    assert!(denied["reason"].as_str().unwrap().contains("git_force_push"), "{denied}");
    assert_eq!(read(&remote, json!({})).await["count"], 0);
    // Whose trust passes the pattern may say so; it is recorded.
    write(&local, body).await;
    let violations = "SELECT count(*) FROM guardrail_violations WHERE agent_id = 'b' AND label = 'next_steps'";
    assert!(crate::harness::state::scalar(&mut server.db().await, violations).await > 0);
}
