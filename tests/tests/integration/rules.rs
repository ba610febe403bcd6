//! Rules that hold for every keyed endpoint: which key counts, how a body is read, what every answer carries.

use serde_json::{Value, json};

use crate::catalogue::{assert_denial_is_complete, assert_problems};
use crate::harness::{Client, Reply, Request, Server};

const UNKNOWN: &str = "prv_0000000000000000000000000000000000000000000000000000000000000000";

type Headers<'a> = &'a [(&'a str, &'a str)];

/// Who the server takes the sender of these headers for.
async fn who(nobody: &Client, headers: Headers<'_>) -> (u16, Value) {
    let mut request = Request::new("GET", "/profiles/me");
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let reply = nobody.send(request).await;
    (reply.status, reply.body["profile"]["agent_id"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn bearer_goes_before_the_two_headers_and_empty_counts_as_absent() {
    let server = Server::start().await;
    let [a, b, c] =
        [server.agent("a", "codex_local"), server.agent("b", "codex_local"), server.agent("c", "codex_local")];
    let [a, b, c] = [a.await.key.unwrap(), b.await.key.unwrap(), c.await.key.unwrap()];
    let (bearer, padded) = (format!("Bearer {a}"), format!("  {b}  "));
    let (spaced, lower) = (format!("Bearer    {a}  "), format!("bearer {a}"));
    let unknown = format!("Bearer {UNKNOWN}");
    let nobody = server.nobody();
    type Case<'a> = (&'a [(&'a str, &'a str)], Option<&'a str>);
    let cases: [Case<'_>; 13] = [
        (&[("authorization", &bearer), ("x-coordinator-api-key", &b), ("x-api-key", &c)], Some("a")),
        (&[("x-coordinator-api-key", &b), ("x-api-key", &c)], Some("b")),
        (&[("x-api-key", &c)], Some("c")),
        (&[("X-API-KEY", &c), ("AUTHORIZATION", &bearer)], Some("a")),
        (&[("x-coordinator-api-key", &padded)], Some("b")),
        (&[("authorization", &spaced)], Some("a")),
        (&[("authorization", &lower)], Some("a")),
        (&[("authorization", "Bearer "), ("x-api-key", &c)], Some("c")),
        (&[("authorization", "Bearer"), ("x-coordinator-api-key", "   "), ("x-api-key", &c)], Some("c")),
        (&[("authorization", "Basic YTpi"), ("x-api-key", &c)], Some("c")),
        // A key that is there and wrong is not passed over.
        (&[("authorization", &unknown), ("x-api-key", &c)], None),
        (&[("x-coordinator-api-key", UNKNOWN), ("x-api-key", &c)], None),
        (&[("authorization", &a)], None),
    ];
    for (headers, expected) in cases {
        let (status, agent) = who(&nobody, headers).await;
        assert_eq!(status, if expected.is_some() { 200 } else { 401 }, "{headers:?}");
        assert_eq!(agent.as_str(), expected, "{headers:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_not_read_from_body_or_query() {
    let server = Server::start().await;
    let key = server.agent("a", "codex_local").await.key.unwrap();
    let nobody = server.nobody();
    assert_eq!(nobody.get(&format!("/locks?api_key={key}&key={key}")).await.status, 401);
    assert_eq!(nobody.post("/locks/acquire", json!({"file_path": "a", "api_key": key})).await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn absent_null_and_empty_names_mean_the_keys_own() {
    let server = Server::start().await;
    let agent = server.agent("a", "codex_local").await;
    for name in [Value::Null, json!(""), json!("a")] {
        let agent_type = if name == json!("a") { json!("codex") } else { name.clone() };
        let body = json!({"file_path": "src/a.rs", "agent_id": name, "agent_type": agent_type});
        let held = agent.post("/locks/acquire", body).await.done();
        assert_eq!(held["locked_by"], "a");
    }
    for name in [json!(7), json!(["a"]), json!({"id": "a"}), json!(true)] {
        let reply = agent.post("/locks/acquire", json!({"file_path": "src/a.rs", "agent_id": name})).await;
        assert_eq!(reply.status, 422, "{name}: {}", reply.body);
    }
    for name in ["A", "a ", " a", "admin", "system", "a\u{200b}"] {
        agent.post("/locks/acquire", json!({"file_path": "b", "agent_id": name})).await.denied("identity_mismatch");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_fields_and_nulls_for_optional_ones_are_accepted() {
    let server = Server::start().await;
    let agent = server.agent("a", "codex_local").await;
    let lock = json!({
        "file_path": "src/a.rs", "session_id": null, "reason": null, "ttl_minutes": null, "colour": "red",
        "nested": {"deep": [1, null]},
    });
    agent.post("/locks/acquire", lock).await.done();
    let task = json!({
        "task_type": "t", "task_description": "d", "input_data": null, "priority": null, "depends_on": null,
        "deadline": null, "max_attempts": null, "agent_requirements": null, "submitted_by": "admin", "status": "completed",
    });
    let task_id = agent.post("/work/submit", task).await.done()["task_id"].as_str().unwrap().to_owned();
    let task = agent.task(&task_id).await;
    assert_eq!((&task["submitted_by"], &task["status"]), (&json!("a"), &json!("pending")));
    assert_eq!((&task["priority"], &task["max_attempts"], &task["depends_on"]), (&json!(5), &json!(3), &json!([])));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_json_object_is_422() {
    let server = Server::start().await;
    let agent = server.agent("a", "codex_local").await;
    let deep = "[".repeat(100_000);
    let bodies: [&[u8]; 11] = [
        b"",
        b"   ",
        b"{",
        b"{\"file_path\": \"a\"",
        b"{\"file_path\": \"a\"} x",
        b"[]",
        b"null",
        b"\"a\"",
        b"{\"file_path\": \"\xff\xfe\"}",
        b"file_path=a",
        deep.as_bytes(),
    ];
    for body in bodies {
        let reply = agent.send(Request::new("POST", "/locks/acquire").raw(body)).await;
        let shown = String::from_utf8_lossy(body).chars().take(30).collect::<String>();
        assert_eq!(reply.status, 422, "`{shown}`: {}", reply.body);
        assert_problems(&reply.body);
        assert_eq!(reply.body["detail"][0]["loc"][0], "body");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_ids_priorities_and_times_are_422() {
    let server = Server::start().await;
    let agent = server.agent("a", "codex_local").await;
    for id in [json!("1"), json!("not a uuid"), json!(7), json!([]), json!("0196a5a0-0000-7000-8000-00000000000g")] {
        assert_eq!(agent.post("/work/get", json!({"task_id": id})).await.status, 422, "{id}");
    }
    let submit = |more: Value| {
        let mut body = json!({"task_type": "t", "task_description": "d"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        agent.post("/work/submit", body)
    };
    for priority in [json!(0), json!(11), json!(-1), json!(1e30), json!(9_223_372_036_854_775_807_i64)] {
        submit(json!({"priority": priority})).await.invalid("priority_out_of_range");
    }
    for priority in [json!("high"), json!(1.5), json!([1]), json!(true)] {
        assert_eq!(submit(json!({"priority": priority})).await.status, 422, "{priority}");
    }
    for deadline in ["tomorrow", "2031-05-01", "2031-05-01T12:00:00", "2031-13-01T00:00:00Z"] {
        submit(json!({"deadline": deadline})).await.invalid("datetime_parsing");
    }
    submit(json!({"deadline": "2031-06-01T12:00:00+02:00"})).await.done();
    for input in [json!([1]), json!("text"), json!(5)] {
        submit(json!({"input_data": input})).await.invalid("dict_type");
    }
    submit(json!({"agent_requirements": {"min_trust_level": 9}})).await.invalid("out_of_range");
    for blank in ["", "   "] {
        assert_eq!(agent.post("/work/submit", json!({"task_type": blank, "task_description": "d"})).await.status, 422);
    }
    assert_eq!(agent.post("/work/submit", json!({"task_type": "t", "task_description": "a\u{0}b"})).await.status, 422);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_beyond_one_mebibyte_is_413() {
    let server = Server::start().await;
    let agent = server.agent("a", "codex_local").await;
    let body = |bytes: usize| {
        let empty = json!({"task_type": "t", "task_description": ""}).to_string().len();
        json!({"task_type": "t", "task_description": "x".repeat(bytes - empty)}).to_string()
    };
    let send = |body: String| agent.send(Request::new("POST", "/work/submit").raw(body));
    send(body(1 << 20)).await.done();
    for size in [(1 << 20) + 1, 3 << 20] {
        let reply = send(body(size)).await;
        assert_eq!((reply.status, &reply.body["error"]), (413, &json!("body_too_large")), "{}", reply.body);
        assert!(reply.header("x-request-id").is_some());
    }
    // The key comes first: without one, nobody learns that the body was too large.
    assert_eq!(server.nobody().send(Request::new("POST", "/work/submit").raw(body(2 << 20))).await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_carries_a_request_id_which_the_log_knows() {
    let server = Server::start().await;
    let agent = server.agent("a", "codex_remote").await;
    let id_of = |reply: &Reply| reply.header("x-request-id").unwrap().to_owned();
    let seq = server.last_seq().await;
    let mut ids = vec![
        id_of(&agent.acquire("src/a.rs").await),
        id_of(&agent.delete("/locks/src/a.rs").await),
        id_of(&agent.post("/locks/acquire", json!({"file_path": "b", "agent_id": "x"})).await),
    ];
    let logged: Vec<String> = server.audit_after(seq).await.into_iter().map(|line| line.request_id).collect();
    assert_eq!(logged, ids);
    for reply in [
        agent.post("/locks/acquire", json!({})).await,
        agent.get("/nowhere").await,
        agent.send(Request::new("PUT", "/locks/acquire")).await,
        server.nobody().get("/audit").await,
    ] {
        ids.push(id_of(&reply));
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 7);
    let given = Request::new("GET", "/profiles/me").header("x-request-id", "trace-1.a_B");
    assert_eq!(id_of(&agent.send(given).await), "trace-1.a_B");
    for hostile in ["a b", "x".repeat(129).as_str(), "\u{e9}", "a\"b"] {
        let reply = agent.send(Request::new("GET", "/profiles/me").header("x-request-id", hostile)).await;
        assert_ne!(id_of(&reply), hostile);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_says_everything_and_nothing_else() {
    let server = Server::start().await;
    let agent = server.agent("a", "claude_code_reviewer").await;
    let body = agent.acquire("src/a.rs").await.denied("operation_not_allowed");
    let mut keys: Vec<&str> = body.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["decision_id", "detail", "error", "policy", "reason", "remedy", "success"]);
    assert_eq!(body["error"], "denied");
    assert_denial_is_complete(&body);
    let mut policy: Vec<&str> = body["policy"].as_object().unwrap().keys().map(String::as_str).collect();
    policy.sort_unstable();
    assert_eq!(policy, ["component", "epoch"]);
    assert_eq!(body["policy"]["component"], server.app().gate().policy().active().component.digest());
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_tell_how_many_and_whether_there_are_more() {
    let server = Server::start().await;
    let agent = server.agent("a", "codex_local").await;
    for n in 0..4 {
        agent.acquire(&format!("src/{n}.rs")).await.done();
        agent.submit("t", json!({})).await;
    }
    for (path, key) in [("/locks", "locks"), ("/work", "tasks"), ("/audit", "entries"), ("/agents", "agents")] {
        let caller = if key == "agents" { &server.admin } else { &agent };
        if key == "agents" {
            server.agent("b", "codex_local").await;
            server.agent("c", "codex_local").await;
        }
        let cut = caller.get(&format!("{path}?limit=2")).await.ok();
        assert_eq!((cut[key].as_array().unwrap().len(), &cut["count"]), (2, &json!(2)), "{path}");
        assert_eq!(cut["truncated"], true, "{path}");
        assert!(cut["hint"].as_str().is_some_and(|hint| !hint.is_empty()), "{path}: {cut}");
        let whole = caller.get(&format!("{path}?limit=1000")).await.ok();
        assert_eq!(whole["count"], json!(whole[key].as_array().unwrap().len()), "{path}");
        assert_eq!((&whole["truncated"], whole.get("hint")), (&json!(false), None), "{path}");
        for limit in ["0", "-1", "1001", "x", "1.5"] {
            assert_eq!(caller.get(&format!("{path}?limit={limit}")).await.status, 422, "{path} {limit}");
        }
        assert_eq!(caller.get(&format!("{path}?limit=")).await.status, 200, "an empty filter is none");
    }
}
