//! MCP over HTTP, as a protocol: revisions, headers, errors, and who is let in at all.

use serde_json::{Value, json};

use crate::harness::mcp::{NEW, OLD, bare, hello, message, new, notification, old, own_meta};
use crate::harness::{Client, Request, Server};

async fn agent() -> (Server, Client) {
    let server = Server::start().await;
    let agent = server.agent("agent", "claude_code_local").await;
    (server, agent)
}

#[tokio::test(flavor = "multi_thread")]
async fn older_clients_are_greeted_in_their_revision() {
    let (_server, agent) = agent().await;
    for (asked, answered) in [(OLD[0], OLD[0]), (OLD[1], OLD[1]), ("2024-11-05", OLD[1]), ("2031-01-01", OLD[1])] {
        let reply = agent.send(bare(&hello(asked))).await;
        let label = reply.header("mcp-session-id").map(str::to_owned).expect("a label");
        let result = reply.result();
        assert_eq!(result["protocolVersion"], answered);
        assert_eq!(result["capabilities"], json!({"tools": {}, "resources": {}, "prompts": {}}));
        assert_eq!(
            (&result["serverInfo"]["name"], &result["serverInfo"]["title"]),
            (&json!("portreeve"), &json!("Portreeve"))
        );
        assert!(result["instructions"].as_str().unwrap().contains("acquire_lock"));
        let ready = old(&notification("notifications/initialized", json!({}))).header("mcp-session-id", &label);
        assert_eq!(agent.send(ready).await.status, 202);
        let ping = old(&message(1, "ping", json!({}))).header("mcp-session-id", &label);
        assert_eq!(agent.send(ping).await.result(), json!({}));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn newer_clients_need_no_greeting() {
    let (_server, agent) = agent().await;
    let reply = agent.send(new(&message(1, "server/discover", json!({})))).await;
    assert_eq!(reply.header("mcp-session-id"), None);
    let found = reply.result();
    assert_eq!(found["supportedVersions"], json!([OLD[0], OLD[1], NEW]));
    assert_eq!(found["capabilities"], json!({"tools": {}, "resources": {}, "prompts": {}}));
    assert_eq!((&found["resultType"], &found["cacheScope"]), (&json!("complete"), &json!("public")));
    for method in ["tools/list", "resources/list", "resources/templates/list", "prompts/list"] {
        let list = agent.send(new(&message("a text", method, json!({})))).await.result();
        assert_eq!((&list["resultType"], &list["cacheScope"]), (&json!("complete"), &json!("public")), "{method}");
        assert!(list["ttlMs"].as_u64().is_some_and(|ms| ms > 0), "{method}");
    }
    let read = agent.send(new(&message(1, "resources/read", json!({"uri": "locks://current"})))).await.result();
    assert_eq!(
        (&read["resultType"], &read["ttlMs"], &read["cacheScope"]),
        (&json!("complete"), &json!(0), &json!("private"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_and_message_must_say_the_same() {
    let (_server, agent) = agent().await;
    let call = message(1, "tools/call", json!({"name": "check_locks", "arguments": {}}));
    let with = |name: &str, value: Option<&str>| {
        let mut request = new(&call);
        request.headers.retain(|(known, _)| known != name);
        value.map_or_else(|| request.clone(), |value| request.clone().header(name, value))
    };
    for (name, value) in [
        ("mcp-protocol-version", Some(OLD[1])),
        ("mcp-protocol-version", None),
        ("mcp-method", Some("tools/list")),
        ("mcp-method", None),
        ("mcp-name", Some("acquire_lock")),
        ("mcp-name", None),
    ] {
        agent.send(with(name, value)).await.rpc_error(400, -32020);
    }
    // What the message lacks is another fault than what the headers say.
    let mut bare_message = call.clone();
    bare_message["params"]["_meta"] = json!({"io.modelcontextprotocol/protocolVersion": NEW});
    let request = bare(&bare_message).header("mcp-protocol-version", NEW).header("mcp-method", "tools/call");
    agent.send(request.header("mcp-name", "check_locks")).await.rpc_error(400, -32602);
    assert_eq!(agent.send(new(&call)).await.result()["isError"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revision_that_is_not_served_is_told_which_ones_are() {
    let (_server, agent) = agent().await;
    let in_both = |revision: &str| {
        let message = message(1, "tools/list", json!({"_meta": own_meta(revision)}));
        bare(&message).header("mcp-protocol-version", revision).header("mcp-method", "tools/list")
    };
    let in_header =
        |revision: &str| bare(&message(1, "tools/list", json!({}))).header("mcp-protocol-version", revision);
    for request in [in_both("2031-01-01"), in_both("2025-03-26"), in_header("2031-01-01"), in_header("nonsense")] {
        let error = agent.send(request).await.rpc_error(400, -32022);
        assert_eq!(error["data"]["supported"], json!([OLD[0], OLD[1], NEW]));
    }
    // A client of an older revision may leave the header out.
    assert!(agent.send(bare(&message(1, "tools/list", json!({})))).await.result()["tools"].is_array());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_understood_is_told_in_json_rpc() {
    let (_server, agent) = agent().await;
    let raw = |body: &str| bare(&json!({})).raw(body.to_owned());
    agent.send(raw("{\"jsonrpc\": ")).await.rpc_error(400, -32700);
    agent.send(raw("")).await.rpc_error(400, -32700);
    for body in
        ["[]", "7", "{}", r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#, r#"{"jsonrpc":"2.0","id":{},"method":"ping"}"#]
    {
        agent.send(raw(body)).await.rpc_error(400, -32600);
    }
    for method in ["no/such", "logging/setLevel", "completion/complete", "resources/subscribe", "tasks/list"] {
        let params = json!({"level": "info", "uri": "locks://current", "ref": {"type": "ref/prompt", "name": "x"},
            "argument": {"name": "a", "value": "b"}});
        agent.send(old(&message(1, method, params.clone()))).await.rpc_error(200, -32601);
        agent.send(new(&message(1, method, params))).await.rpc_error(404, -32601);
    }
    // The older revisions have it, the newest does not.
    agent.send(new(&message(1, "ping", json!({})))).await.rpc_error(404, -32601);
    for (method, params) in [
        ("tools/call", json!({"arguments": {}})),
        ("tools/call", json!({"name": 7})),
        ("tools/call", json!({"name": "no_such_tool", "arguments": {}})),
        ("tools/call", json!({"name": "check_locks", "arguments": []})),
        ("tools/list", json!({"cursor": "page2"})),
        ("resources/read", json!({})),
        ("prompts/get", json!({"name": "no_such_prompt"})),
        ("prompts/get", json!({"name": "coordinate_file_edit", "arguments": {"task": "x"}})),
        ("prompts/get", json!({"name": "coordinate_file_edit", "arguments": {"file_path": "../x", "task": "x"}})),
    ] {
        let error = agent.send(old(&message(1, method, params.clone()))).await.rpc_error(200, -32602);
        assert!(error["message"].as_str().is_some_and(|text| !text.is_empty()), "{method} {params}");
    }
    let unknown = message(1, "resources/read", json!({"uri": "locks://past"}));
    agent.send(old(&unknown)).await.rpc_error(200, -32002);
    agent.send(new(&unknown)).await.rpc_error(200, -32602);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_posts_of_json_are_messages() {
    let (_server, agent) = agent().await;
    for method in ["GET", "DELETE", "PUT", "OPTIONS"] {
        let reply = agent.send(Request::new(method, "/mcp").header("accept", "text/event-stream")).await;
        assert_eq!((reply.status, reply.header("allow")), (405, Some("POST")), "{method}");
    }
    let ping = message(1, "ping", json!({}));
    let mut deaf = old(&ping);
    deaf.headers.retain(|(name, _)| name != "accept");
    agent.send(deaf.clone()).await.rpc_error(406, -32600);
    agent.send(deaf.header("accept", "application/json")).await.rpc_error(406, -32600);
    // A message of more than a mebibyte is not read to its end; one of a little less is.
    let padded = |bytes: usize| {
        let mut message =
            message(1, "tools/call", json!({"name": "check_guardrails", "arguments": {"operation_text": ""}}));
        let room = bytes - message.to_string().len();
        message["params"]["arguments"]["operation_text"] = json!("x".repeat(room));
        old(&message)
    };
    let reply = agent.send(padded((1 << 20) + 1)).await;
    assert_eq!((reply.status, &reply.body["error"]), (413, &json!("body_too_large")));
    assert_eq!(agent.send(padded(1 << 20)).await.result()["isError"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_live_key_nothing_is_read() {
    let (server, agent) = agent().await;
    let ping = message(1, "ping", json!({}));
    let key = agent.key.clone().unwrap();
    let nobody = server.nobody();
    for (name, value) in [("x-api-key", key.clone()), ("x-coordinator-api-key", key.clone())] {
        assert_eq!(nobody.send(old(&ping).header(name, &value)).await.result(), json!({}));
    }
    let revoke = format!("/agents/agent/keys/{}", agent.key_id);
    let greeted = agent.send(bare(&hello(OLD[1]))).await;
    let label = greeted.header("mcp-session-id").unwrap().to_owned();
    let seq = {
        server.admin.delete(&revoke).await.done();
        server.last_seq().await
    };
    let unread = [
        old(&ping).header("mcp-session-id", &label),
        new(&ping),
        old(&ping).raw("{\"jsonrpc\": "),
        old(&ping).raw("x".repeat((1 << 20) + 1)),
        Request::new("GET", "/mcp"),
        Request::new("DELETE", "/mcp").header("mcp-session-id", &label),
    ];
    for caller in [&agent, &nobody, &Client::new(agent.address, "prv_unknown")] {
        for request in &unread {
            let reply = caller.send(request.clone()).await;
            assert_eq!((reply.status, reply.header("www-authenticate")), (401, Some("Bearer")), "{:?}", reply.body);
            assert_eq!(reply.body, json!({"success": false, "error": "unauthenticated", "detail": "Invalid API key"}));
        }
    }
    assert_eq!(server.last_seq().await, seq);
    // Keys are no OAuth tokens, so there is no metadata that would send a client to an authorization server.
    assert_eq!(nobody.get("/.well-known/oauth-protected-resource").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_names_and_foreign_pages_are_turned_away_before_the_key() {
    let (server, agent) = agent().await;
    let ping = message(1, "ping", json!({}));
    let own = format!("127.0.0.1:{}", agent.address.port());
    let from = |host: &str, origin: Option<&str>| {
        let request = old(&ping).header("host", host);
        origin.map_or_else(|| request.clone(), |origin| request.clone().header("origin", origin))
    };
    for (host, origin) in [
        (own.as_str(), None),
        ("localhost", None),
        ("[::1]:1", None),
        (&own, Some("http://localhost:6274")),
        (&own, Some(&format!("http://{own}"))),
    ] {
        let reply = agent.send(from(host, origin)).await;
        assert_eq!(reply.header("access-control-allow-origin"), origin);
        assert_eq!(reply.result(), json!({}), "{host} {origin:?}");
    }
    for (host, origin, error) in [
        ("evil.example", None, "host_not_allowed"),
        ("localhost.evil.example", None, "host_not_allowed"),
        (&own, Some("https://evil.example"), "origin_not_allowed"),
        (&own, Some("null"), "origin_not_allowed"),
        (&own, Some("http://localhost.evil.example"), "origin_not_allowed"),
    ] {
        for caller in [&agent, &server.nobody()] {
            let reply = caller.send(from(host, origin)).await;
            assert_eq!((reply.status, &reply.body["error"]), (403, &json!(error)), "{host} {origin:?}");
            assert_eq!(reply.header("access-control-allow-origin"), None);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_is_let_in_may_ask_before_it_sends_its_key() {
    let (server, _agent) = agent().await;
    let ask = Request::new("OPTIONS", "/mcp").header("access-control-request-method", "POST");
    let reply = server.nobody().send(ask.clone().header("origin", "http://localhost:6274")).await;
    assert_eq!(reply.status, 204);
    assert_eq!(reply.header("access-control-allow-origin"), Some("http://localhost:6274"));
    assert!(reply.header("access-control-allow-headers").is_some_and(|names| names.contains("authorization")));
    let foreign = server.nobody().send(ask.header("origin", "https://evil.example")).await;
    assert_eq!((foreign.status, foreign.header("access-control-allow-origin")), (403, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_is_counted() {
    let (server, agent) = agent().await;
    agent.tool("check_locks", json!({})).await;
    portreeve::telemetry::init_metrics();
    agent.tool("check_locks", json!({})).await;
    let text = match server.nobody().get("/metrics").await.body {
        Value::String(text) => text,
        other => panic!("{other}"),
    };
    assert!(text.contains("portreeve_http_requests_total{route=\"mcp\",status=\"200\"}"), "{text}");
    assert!(text.contains("portreeve_mcp_calls_total{tool=\"check_locks\",outcome=\"answered\"}"), "{text}");
}
