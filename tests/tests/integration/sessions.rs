//! Sessions, heartbeats and status reports: who is here, and whose a session is.

use serde_json::{Value, json};

use crate::harness::{Client, Server};

async fn register(client: &Client, body: Value) -> Value {
    client.post("/discovery/register", body).await.ok()
}

async fn beat(client: &Client, session_id: Value) -> Value {
    client.post("/discovery/heartbeat", json!({"session_id": session_id})).await.ok()
}

async fn listed(client: &Client, query: &str) -> Vec<Value> {
    let listing = client.get(&format!("/discovery/agents{query}")).await.ok();
    let agents = listing["agents"].as_array().unwrap().clone();
    assert_eq!((&listing["count"], &listing["truncated"]), (&json!(agents.len()), &json!(false)), "{listing}");
    agents
}

async fn names(client: &Client, query: &str) -> Vec<String> {
    listed(client, query).await.iter().map(|entry| entry["session_id"].as_str().unwrap().to_owned()).collect()
}

fn keys(body: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = body.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_registered_named_or_not_and_seen_by_all() {
    let server = Server::start().await;
    let (a, r) = (server.agent("a", "codex_remote").await, server.agent("r", "claude_code_reviewer").await);
    let given = register(&a, json!({})).await;
    assert_eq!(keys(&given), ["error", "reason", "session_id", "success"]);
    assert!(uuid::Uuid::parse_str(given["session_id"].as_str().unwrap()).is_ok(), "{given}");
    server.advance(1).await;
    let body = json!({
        "agent_id": "a", "agent_type": "codex", "session_id": "mine/1 ü", "capabilities": ["rust", "sql", "rust", ""],
        "current_task": "the parser",
    });
    let named = register(&a, body).await;
    let success = json!({"success": true, "session_id": "mine/1 ü", "reason": null, "error": null});
    assert_eq!(named, success);
    let now = server.now().to_string();
    assert_eq!(
        listed(&r, "").await[0],
        json!({
            "agent_id": "a", "agent_type": "codex", "session_id": "mine/1 ü", "capabilities": ["rust", "sql"],
            "status": "active", "current_task": "the parser", "last_heartbeat": now, "started_at": now,
            "phase": null, "message": null, "needs_human": null,
        })
    );
    assert_eq!(listed(&r, "").await.len(), 2);
    for bad in [json!({"capabilities": "rust"}), json!({"capabilities": vec!["x"; 101]}), json!({"session_id": "a\nb"})]
    {
        assert_eq!(a.post("/discovery/register", bad.clone()).await.status, 422, "{bad}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_cannot_be_taken_or_kept_alive_by_another() {
    let server = Server::start().await;
    let (a, b) = (server.agent("a", "codex_remote").await, server.agent("b", "codex_local").await);
    register(&a, json!({"session_id": "s", "capabilities": ["rust"]})).await;
    let before = server.state().await;
    let body = json!({"session_id": "s", "capabilities": ["theft"], "current_task": "mine now"});
    for thief in [&b, &server.admin] {
        let refused = thief.post("/discovery/register", body.clone()).await.refused("session_owned_by_other");
        assert_eq!((&refused["session_id"], &refused["error"]), (&Value::Null, &json!("session_owned_by_other")));
        // What is another's and what is not there look alike.
        for name in ["s", "no such session"] {
            let answer = beat(thief, json!(name)).await;
            let error = "session_not_found";
            assert_eq!(answer, json!({"success": false, "session_id": name, "error": error, "reason": error}));
        }
        assert_eq!(beat(thief, Value::Null).await["error"], "session_not_found");
    }
    assert_eq!(server.state().await, before);
    a.post("/discovery/register", json!({"agent_id": "b"})).await.denied("identity_mismatch");
    a.post("/discovery/heartbeat", json!({"agent_id": "b"})).await.denied("identity_mismatch");
}

#[tokio::test(flavor = "multi_thread")]
async fn registering_again_changes_only_what_is_said() {
    let server = Server::start().await;
    let a = server.agent("a", "codex_remote").await;
    register(&a, json!({"session_id": "s", "capabilities": ["rust"], "current_task": "lexer"})).await;
    let started = server.now().to_string();
    server.advance(60).await;
    register(&a, json!({"session_id": "s", "current_task": "parser"})).await;
    let entry = listed(&a, "").await[0].clone();
    assert_eq!((&entry["capabilities"], &entry["current_task"]), (&json!(["rust"]), &json!("parser")));
    assert_eq!((&entry["started_at"], &entry["last_heartbeat"]), (&json!(started), &json!(server.now().to_string())));
    register(&a, json!({"session_id": "s", "capabilities": []})).await;
    assert_eq!(listed(&a, "").await[0]["capabilities"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_keep_a_session_active() {
    let server = Server::start().await;
    let a = server.agent("a", "codex_remote").await;
    for name in ["old", "new"] {
        register(&a, json!({"session_id": name})).await;
        server.advance(60).await;
    }
    // Without a name, the one last heard of.
    assert_eq!(
        beat(&a, Value::Null).await,
        json!({"success": true, "session_id": "new", "error": null, "reason": null})
    );
    assert_eq!(beat(&a, json!("")).await["session_id"], "new");
    assert_eq!(beat(&a, json!("old")).await["session_id"], "old");
    server.advance(1).await;
    assert_eq!(beat(&a, json!("old")).await["success"], true);
    assert_eq!(beat(&a, Value::Null).await["session_id"], "old");
    server.advance(15 * 60 - 1).await;
    assert_eq!(names(&a, "?status=active").await, ["old"]);
    assert_eq!(names(&a, "?status=idle").await, ["new"]);
    server.advance(1).await;
    assert_eq!(names(&a, "?status=active").await, Vec::<String>::new());
    assert_eq!(names(&a, "?status=idle").await, ["old", "new"]);
    assert_eq!(beat(&a, json!("new")).await["success"], true);
    assert_eq!(names(&a, "?status=active").await, ["new"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ended_session_goes_on_only_when_it_is_registered_again() {
    let server = Server::start().await;
    let a = server.agent("a", "codex_remote").await;
    register(&a, json!({"session_id": "s", "capabilities": ["rust"]})).await;
    server.advance(3600).await;
    server.admin.post("/discovery/cleanup", json!({})).await.done();
    assert_eq!(names(&a, "").await, Vec::<String>::new());
    assert_eq!(names(&a, "?status=disconnected").await, ["s"]);
    for name in [json!("s"), Value::Null] {
        let ended = beat(&a, name).await;
        let error = "session_ended";
        assert_eq!(ended, json!({"success": false, "session_id": "s", "error": error, "reason": error}));
    }
    // A report is heard, and brings nothing to life.
    a.post("/status/report", json!({"message": "still here"})).await.done();
    assert_eq!(names(&a, "").await, Vec::<String>::new());
    assert_eq!(register(&a, json!({"session_id": "s"})).await["success"], true);
    let entry = listed(&a, "?status=active").await[0].clone();
    assert_eq!((&entry["capabilities"], &entry["started_at"]), (&json!(["rust"]), &json!(server.now().to_string())));
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_found_by_capability_standing_and_agent() {
    let server = Server::start().await;
    let (a, b) = (server.agent("a", "codex_remote").await, server.agent("b", "codex_remote").await);
    register(&a, json!({"session_id": "1", "capabilities": ["rust", "sql"]})).await;
    server.advance(1).await;
    register(&b, json!({"session_id": "2", "capabilities": ["rust", "c++"]})).await;
    assert_eq!(names(&a, "?capability=rust").await, ["2", "1"]);
    assert_eq!(names(&a, "?capability=sql").await, ["1"]);
    assert_eq!(names(&a, "?capability=c%2B%2B").await, ["2"]);
    for nothing in ["?capability=ru", "?capability=RUST", "?capability=%25", "?capability=%22rust%22", "?agent_name=c"]
    {
        assert_eq!(names(&a, nothing).await, Vec::<String>::new(), "{nothing}");
    }
    assert_eq!(names(&a, "?capability=rust&agent_name=b&status=active").await, ["2"]);
    assert_eq!(names(&a, "?capability=&status=&agent_name=").await, ["2", "1"]);
    let cut = a.get("/discovery/agents?limit=1").await.ok();
    assert_eq!((&cut["count"], &cut["truncated"], cut["hint"].is_string()), (&json!(1), &json!(true), true));
    for bad in ["?status=asleep", "?limit=0", "?limit=1001"] {
        assert_eq!(a.get(&format!("/discovery/agents{bad}")).await.status, 422, "{bad}");
    }
    a.get("/discovery/agents?agent_id=b").await.denied("identity_mismatch");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_tells_its_urgency_and_is_seen_beside_the_session() {
    let server = Server::start().await;
    let a = server.agent("a", "codex_remote").await;
    register(&a, json!({"session_id": "s"})).await;
    server.advance(600).await;
    let report = |body: Value| a.post("/status/report", body);
    for (body, urgency) in [
        (json!({}), "low"),
        (json!({"event_type": "progress", "needs_human": false}), "low"),
        (json!({"event_type": "unblocked", "message": "error"}), "low"),
        (json!({"event_type": "error"}), "medium"),
        (json!({"event_type": "Blocked"}), "medium"),
        (json!({"event_type": "ESCALATION"}), "medium"),
        (json!({"event_type": "failed"}), "medium"),
        (json!({"event_type": "failed", "needs_human": true}), "high"),
        (json!({"needs_human": "true"}), "high"),
    ] {
        assert_eq!(report(body.clone()).await.ok(), json!({"success": true, "urgency": urgency}), "{body}");
    }
    let body = json!({
        "phase": "testing", "message": "rm -rf destroyed the cache; need help", "needs_human": true, "change_id": "c-1",
        "metadata": {"tests": {"red": 3}}, "agent_id": "a",
    });
    report(body).await.done();
    let entry = listed(&a, "").await[0].clone();
    assert_eq!((&entry["phase"], &entry["needs_human"]), (&json!("testing"), &json!(true)));
    assert_eq!(entry["message"], "rm -rf destroyed the cache; need help");
    // It counts as a heartbeat, and what it quotes is recorded.
    assert_eq!(entry["last_heartbeat"], json!(server.now().to_string()));
    let mut db = server.db().await;
    let recorded =
        "SELECT count(*) FROM guardrail_violations WHERE agent_id = 'a' AND pattern_name = 'rm_rf' AND blocked";
    assert!(crate::harness::state::scalar(&mut db, recorded).await > 0);
    assert_eq!(crate::harness::state::scalar(&mut db, "SELECT count(*) FROM agent_status").await, 1);
    assert_eq!(crate::harness::state::scalar(&mut db, "SELECT report_count FROM agent_status").await, 10);
    for bad in [json!({"needs_human": "perhaps"}), json!({"metadata": []}), json!({"phase": "x".repeat(257)})] {
        assert_eq!(report(bad.clone()).await.status, 422, "{bad}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_keeps_alive_only_the_agents_own_session() {
    let server = Server::start().await;
    let (a, b) = (server.agent("a", "codex_remote").await, server.agent("b", "codex_remote").await);
    register(&a, json!({"session_id": "of-a"})).await;
    register(&b, json!({"session_id": "of-b"})).await;
    server.advance(3600).await;
    for session_id in ["of-b", "made up by a hook"] {
        a.post("/status/report", json!({"session_id": session_id})).await.done();
    }
    assert_eq!(names(&a, "?status=active").await, Vec::<String>::new());
    a.post("/status/report", json!({"session_id": "of-a"})).await.done();
    assert_eq!(names(&a, "?status=active").await, ["of-a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_not_opened_for_what_is_blocked() {
    let server = Server::start().await;
    let a = server.agent("a", "codex_remote").await;
    let body = json!({"current_task": "git push --force origin main"});
    a.post("/discovery/register", body).await.denied("destructive_operation_blocked");
    assert_eq!(names(&a, "").await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_check_answers_what_policy_says_of_the_name() {
    let server = Server::start().await;
    let (a, reviewer) = (server.agent("a", "codex_remote").await, server.agent("r", "claude_code_reviewer").await);
    let check = |domain: &str| a.post("/network/check", json!({"domain": domain}));
    let allowed = check("API.github.com.").await.ok();
    assert_eq!((&allowed["allowed"], &allowed["rule"]), (&json!(true), &json!("*.github.com")));
    assert_eq!(
        (&allowed["domain"], keys(&allowed)),
        (&json!("API.github.com."), vec!["allowed", "domain", "reason", "rule"])
    );
    for (domain, code) in [
        ("example.org", "domain_not_allowed"),
        ("evilgithub.com", "domain_not_allowed"),
        ("http://github.com/", "invalid_domain"),
        ("a b", "invalid_domain"),
    ] {
        let seq = server.last_seq().await;
        let denied = check(domain).await.ok();
        assert_eq!((&denied["allowed"], &denied["rule"]), (&json!(false), &Value::Null), "{denied}");
        assert!(denied["reason"].as_str().unwrap().starts_with(&format!("{code}: ")), "{denied}");
        assert!(denied["remedy"].as_str().is_some_and(|remedy| remedy.len() > 10), "{denied}");
        let line = server.only_line_after(seq).await;
        assert_eq!((line.decision.as_str(), line.reason.as_str(), line.outcome.as_str()), ("deny", code, "denied"));
    }
    for bad in [json!({}), json!({"domain": ""}), json!({"domain": " "}), json!({"domain": 5})] {
        assert_eq!(a.post("/network/check", bad.clone()).await.status, 422, "{bad}");
    }
    // Who may not ask gets no answer.
    reviewer.post("/network/check", json!({"domain": "github.com"})).await.denied("operation_not_allowed");
    server.suspend("a", true).await;
    check("example.org").await.denied("suspended");
}
