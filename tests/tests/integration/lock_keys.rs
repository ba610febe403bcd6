//! One thing has one name: what is and what is not a lock key, over the wire.
//! And how many an agent may hold, however fast it asks.

use std::collections::BTreeSet;

use serde_json::json;

use crate::harness::Server;
use crate::harness::state::scalar;

/// Second names of a file, and text that is no name.
fn hostile() -> Vec<String> {
    let mut keys: Vec<String> = [
        "",
        " ",
        "/etc/passwd",
        "/",
        "./a",
        "a/./b",
        "a/../b",
        "..",
        ".",
        "../a",
        "a/..",
        "a//b",
        "a/",
        "a ",
        " a",
        "a\n",
        "a\u{0}b",
        "a\tb",
        "a\u{7f}b",
        "a\r\nb",
        "a\u{200b}b",
        "a\u{202e}b",
        "C:/windows",
        "http://x",
        "foo:bar",
        ":a",
        "api:get /x",
        "api:GET x",
        "api:GET",
        "api:FETCH /x",
        "db:schema:Users",
        "db:schema:",
        "db:other",
        "event:User.Created",
        "event:a..b",
        "event:",
        "flag:/a",
        "flag:A/b",
        "env:8080",
        "env:",
        "contract:/abs",
        "contract:../up",
        "feature:x",
        "feature::y",
        "feature:x:",
    ]
    .map(str::to_owned)
    .into();
    keys.push("a".repeat(1025));
    keys.push("ü".repeat(513));
    keys
}

const FINE: [&str; 15] = [
    "src/main.rs",
    ".github/x.yml",
    "...",
    "a b/c d",
    "docs/über.md",
    "%2e%2e/a",
    "a?b#c",
    "api:GET /v1/users",
    "db:schema:users",
    "db:migration-slot",
    "event:user.created",
    "flag:billing/new-invoice",
    "env:staging-db",
    "contract:openapi/v1.yaml",
    "feature:F-12:review",
];

/// Every byte percent-encoded, so that nothing on the way reads it.
fn encoded(key: &str) -> String {
    key.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_lock_key_is_refused_wherever_one_is_taken() {
    let server = Server::start().await;
    let agent = server.agent("a", "claude_code_local").await;
    let before = server.state().await;
    for key in hostile() {
        for path in ["/locks/acquire", "/locks/renew", "/locks/release", "/locks/verify"] {
            let reply = agent.post(path, json!({"file_path": key, "fencing_token": 1})).await;
            reply.invalid("invalid_file_path");
        }
        if !key.is_empty() {
            agent.get(&format!("/locks/status/{}", encoded(&key))).await.invalid("invalid_file_path");
            agent.delete(&format!("/locks/{}", encoded(&key))).await.invalid("invalid_file_path");
        }
    }
    for key in [json!(7), json!(null), json!(["a"]), json!({})] {
        assert_eq!(agent.post("/locks/acquire", json!({"file_path": key})).await.status, 422, "{key}");
    }
    agent.get("/locks/status/%ff%fe").await.invalid("invalid_file_path");
    assert_eq!(server.state().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_a_lock_key_keeps_its_name_through_body_and_path() {
    let server = Server::start().await;
    let agent = server.agent("a", "claude_code_local").await;
    let longest = "a".repeat(1024);
    for key in FINE.into_iter().chain([longest.as_str()]) {
        let held = agent.acquire(key).await.done();
        assert_eq!(held["file_path"], key);
        let status = agent.get(&format!("/locks/status/{}", encoded(key))).await.ok();
        assert_eq!((&status["locked"], &status["file_path"]), (&json!(true), &json!(key)));
        assert_eq!(agent.delete(&format!("/locks/{}", encoded(key))).await.ok()["released"], true, "{key}");
    }
    agent.acquire("src/a b.rs").await.done();
    for path in ["/locks/status/src/a%20b.rs", "/locks/status/src%2Fa%20b.rs", "/locks/status/%73rc/a%20b.rs"] {
        assert_eq!(agent.get(path).await.ok()["locked"], true, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_remote_agent_holds_fifty_locks_and_not_one_more() {
    let server = Server::start().await;
    let agent = server.agent("a", "claude_code_remote").await;
    for n in 0..50 {
        agent.acquire(&format!("src/{n}.rs")).await.done();
    }
    let before = server.state().await;
    let seq = server.last_seq().await;
    let body = agent.acquire("src/50.rs").await.denied("lock_limit_reached");
    crate::catalogue::assert_denial_is_complete(&body);
    let line = server.only_line_after(seq).await;
    assert_eq!((line.outcome.as_str(), server.state().await == before), ("denied", true), "{line:#?}");
    // Its own it may still refresh, and one that it gives back makes room for another.
    assert_eq!(agent.acquire("src/7.rs").await.done()["action"], "refreshed");
    agent.release("src/7.rs").await.done();
    agent.acquire("src/50.rs").await.done();
    agent.acquire("src/51.rs").await.denied("lock_limit_reached");
    // Expired ones do not count.
    server.advance(30 * 60).await;
    agent.acquire("src/51.rs").await.done();
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_when_it_asks_for_many_at_once() {
    let server = Server::start().await;
    let agent = server.agent("a", "claude_code_remote").await;
    let workers = (0..16).map(|worker| {
        let agent = agent.clone();
        tokio::spawn(async move {
            let mut granted = 0;
            for n in 0..6 {
                let reply = agent.acquire(&format!("src/{worker}/{n}.rs")).await;
                granted += usize::from(reply.status == 200 && reply.body["success"] == true);
                assert!(matches!(reply.status, 200 | 403), "{}", reply.body);
            }
            granted
        })
    });
    let granted: usize = futures::future::join_all(workers).await.into_iter().map(Result::unwrap).sum();
    assert_eq!(granted, 50);
    assert_eq!(scalar(&mut server.db().await, "SELECT count(*) FROM file_locks").await, 50);
    assert_eq!(scalar(&mut server.db().await, "SELECT count(*) FROM lock_fences").await, 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_contended_key_has_one_holder_at_a_time_and_growing_tokens() {
    let server = Server::start().await;
    let mut workers = Vec::new();
    for n in 0..8 {
        let agent = server.agent(&format!("a{n}"), "claude_code_remote").await;
        workers.push(tokio::spawn(async move {
            let mut tokens = Vec::new();
            for _ in 0..15 {
                let reply = agent.acquire("src/hot.rs").await.ok();
                if reply["success"] == true {
                    tokens.push(reply["fencing_token"].as_i64().unwrap());
                    agent.release("src/hot.rs").await.done();
                }
            }
            tokens
        }));
    }
    let tokens: Vec<i64> = futures::future::join_all(workers).await.into_iter().flat_map(Result::unwrap).collect();
    let distinct: BTreeSet<i64> = tokens.iter().copied().collect();
    assert_eq!(distinct.len(), tokens.len(), "a token was given twice");
    assert_grants_alternate(&server).await;
}

/// In the order of the log, each grant follows a release, with a higher token.
async fn assert_grants_alternate(server: &Server) {
    let (mut held, mut last) = (false, 0);
    for line in server.audit_after(0).await {
        if line.resource != "lock_key:src/hot.rs" || line.outcome != "ok" {
            continue;
        }
        let result: serde_json::Value = serde_json::from_str(&line.result).unwrap();
        if line.command == "lock_acquire" {
            let token = result["fencing_token"].as_i64().unwrap();
            assert!(!held && token > last, "{line:#?}");
            last = token;
        }
        held = line.command == "lock_acquire";
    }
    assert!(last > 8);
}
