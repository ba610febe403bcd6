//! Locks: who holds a key, until when, under which token.
//!
//! EXCL: tokens grow over every grant, and only the holder's lease keeps others out.

use serde_json::{Value, json};

use crate::harness::{Client, Server};

const KEYS: [&str; 8] =
    ["action", "expires_at", "fencing_token", "file_path", "lock_reason", "locked_by", "reason", "success"];

async fn pair(server: &Server) -> (Client, Client) {
    (server.agent("a", "claude_code_local").await, server.agent("b", "codex_remote").await)
}

fn assert_keys(body: &Value) {
    let mut keys: Vec<&str> = body.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(keys, KEYS);
}

fn token(body: &Value) -> i64 {
    body["fencing_token"].as_i64().unwrap()
}

async fn renew(client: &Client, file_path: &str, fencing_token: i64) -> crate::harness::Reply {
    client
        .post("/locks/renew", json!({"file_path": file_path, "fencing_token": fencing_token, "ttl_minutes": 60}))
        .await
}

async fn verify(client: &Client, file_path: &str, fencing_token: i64) -> Value {
    client.post("/locks/verify", json!({"file_path": file_path, "fencing_token": fencing_token})).await.ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_is_acquired_refreshed_and_blocks_others() {
    let server = Server::start().await;
    let (a, b) = pair(&server).await;
    let first = a.post("/locks/acquire", json!({"file_path": "src/a.rs", "reason": "parser"})).await.done();
    assert_keys(&first);
    assert_eq!(
        (&first["action"], &first["locked_by"], &first["lock_reason"]),
        (&json!("acquired"), &json!("a"), &json!("parser"))
    );
    assert_eq!(first["expires_at"], json!(server.now().plus_minutes(30).to_string()));
    assert_eq!(first["reason"], Value::Null);
    server.advance(60).await;
    let blocked =
        b.post("/locks/acquire", json!({"file_path": "src/a.rs", "reason": "mine"})).await.refused("locked_by_other");
    assert_keys(&blocked);
    assert_eq!(
        (&blocked["action"], &blocked["locked_by"], &blocked["lock_reason"]),
        (&json!("blocked"), &json!("a"), &json!("parser"))
    );
    assert_eq!((&blocked["expires_at"], &blocked["fencing_token"]), (&first["expires_at"], &Value::Null));
    let again = a.post("/locks/acquire", json!({"file_path": "src/a.rs", "ttl_minutes": 480})).await.done();
    assert_keys(&again);
    assert_eq!(
        (&again["action"], token(&again), &again["lock_reason"]),
        (&json!("refreshed"), token(&first), &json!("parser"))
    );
    assert_eq!(again["expires_at"], json!(server.now().plus_minutes(480).to_string()));
    let other = a.post("/locks/acquire", json!({"file_path": "src/a.rs", "reason": "lexer"})).await.done();
    assert_eq!(other["lock_reason"], "lexer");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_grow_over_release_expiry_force_release_and_restart() {
    let server = Server::start().await;
    let (a, b) = pair(&server).await;
    let mut tokens = vec![token(&a.acquire("src/a.rs").await.done())];
    a.release("src/a.rs").await.done();
    tokens.push(token(&b.acquire("src/a.rs").await.done()));
    server.advance(30 * 60).await;
    tokens.push(token(&a.acquire("src/a.rs").await.done()));
    server.advance(30 * 60).await;
    // Its holder's own return after expiry is a new grant as well.
    let back = a.acquire("src/a.rs").await.done();
    assert_eq!(back["action"], "acquired");
    tokens.push(token(&back));
    server.admin.delete("/locks/src/a.rs").await.ok();
    tokens.push(token(&a.acquire("src/a.rs").await.done()));
    a.release("src/a.rs").await.done();
    let server = server.restart().await;
    let (a, b) = (server.again(&a), server.again(&b));
    tokens.push(token(&b.acquire("src/a.rs").await.done()));
    server.advance(-3600).await;
    b.release("src/a.rs").await.ok();
    server.advance(2 * 3600).await;
    tokens.push(token(&a.acquire("src/a.rs").await.done()));
    assert!(tokens.windows(2).all(|pair| pair[0] < pair[1]), "{tokens:?}");
    for old in &tokens[..tokens.len() - 1] {
        assert_eq!(verify(&a, "src/a.rs", *old).await["valid"], false);
    }
    assert_eq!(verify(&a, "src/a.rs", tokens[tokens.len() - 1]).await, json!({"valid": true}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_lock_and_its_token_outlive_a_restart() {
    let server = Server::start().await;
    let (a, b) = pair(&server).await;
    let held = a.acquire("src/a.rs").await.done();
    let server = server.restart().await;
    let (a, b) = (server.again(&a), server.again(&b));
    b.acquire("src/a.rs").await.refused("locked_by_other");
    let again = a.acquire("src/a.rs").await.done();
    assert_eq!((&again["action"], token(&again)), (&json!("refreshed"), token(&held)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_is_free_at_the_instant_it_expires() {
    let server = Server::start().await;
    let (a, b) = pair(&server).await;
    let held = a.post("/locks/acquire", json!({"file_path": "src/a.rs", "ttl_minutes": 1})).await.done();
    server.advance(59).await;
    b.acquire("src/a.rs").await.refused("locked_by_other");
    assert_eq!(b.get("/locks/status/src/a.rs").await.ok()["locked"], true);
    server.advance(1).await;
    let status = b.get("/locks/status/src/a.rs").await.ok();
    assert_eq!(status, json!({"locked": false, "file_path": "src/a.rs"}));
    assert_eq!(b.get("/locks").await.ok()["count"], 0);
    let expired = verify(&a, "src/a.rs", token(&held)).await;
    assert_eq!((&expired["valid"], expired["reason"].is_string()), (&json!(false), true));
    a.release("src/a.rs").await.refused("lock_not_found_or_not_owner");
    renew(&a, "src/a.rs", token(&held)).await.refused("lock_not_found_or_not_owner");
    b.acquire("src/a.rs").await.done();
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_holder_renews_and_only_under_its_token() {
    let server = Server::start().await;
    let (a, b) = pair(&server).await;
    let held = a.post("/locks/acquire", json!({"file_path": "src/a.rs", "reason": "why"})).await.done();
    let renewed = renew(&a, "src/a.rs", token(&held)).await.done();
    assert_keys(&renewed);
    assert_eq!(
        (&renewed["action"], token(&renewed), &renewed["lock_reason"]),
        (&json!("refreshed"), token(&held), &json!("why"))
    );
    assert_eq!(renewed["expires_at"], json!(server.now().plus_minutes(60).to_string()));
    for (client, fencing_token) in [(&a, token(&held) + 1), (&b, token(&held))] {
        let refused = renew(client, "src/a.rs", fencing_token).await.refused("lock_not_found_or_not_owner");
        assert_keys(&refused);
    }
    renew(&a, "src/free.rs", 1).await.refused("lock_not_found_or_not_owner");
    assert_eq!(a.post("/locks/renew", json!({"file_path": "src/a.rs"})).await.status, 422);
}

#[tokio::test(flavor = "multi_thread")]
async fn release_takes_the_holder_and_if_given_its_token() {
    let server = Server::start().await;
    let (a, b) = pair(&server).await;
    let old = token(&a.acquire("src/a.rs").await.done());
    b.release("src/a.rs").await.refused("lock_not_found_or_not_owner");
    b.release("src/never.rs").await.refused("lock_not_found_or_not_owner");
    let released = a.post("/locks/release", json!({"file_path": "src/a.rs", "fencing_token": old})).await.done();
    let mut keys: Vec<&String> = released.as_object().unwrap().keys().collect();
    keys.sort();
    assert_eq!(keys, ["action", "file_path", "reason", "success"]);
    a.release("src/a.rs").await.refused("lock_not_found_or_not_owner");
    let new = token(&a.acquire("src/a.rs").await.done());
    let stale = json!({"file_path": "src/a.rs", "fencing_token": old});
    a.post("/locks/release", stale).await.refused("lock_not_found_or_not_owner");
    assert_eq!(verify(&b, "src/a.rs", new).await["valid"], true);
    a.release("src/a.rs").await.done();
}

#[tokio::test(flavor = "multi_thread")]
async fn force_release_is_the_admins_and_names_the_prior_holder() {
    let server = Server::start().await;
    let (a, b) = pair(&server).await;
    let since = json!(server.now().to_string());
    a.acquire("src/a.rs").await.done();
    b.delete("/locks/src/a.rs").await.denied("trust_below_admin");
    let freed = server.admin.delete("/locks/src/a.rs").await.ok();
    assert_eq!(freed, json!({"released": true, "prior_holder_agent_id": "a", "prior_acquired_at": since}));
    let nothing = server.admin.delete("/locks/src/a.rs").await.ok();
    assert_eq!(nothing, json!({"released": false, "prior_holder_agent_id": null, "prior_acquired_at": null}));
    b.acquire("src/a.rs").await.done();
    // A key that looks like another route of the same prefix.
    a.acquire("status/x").await.done();
    assert_eq!(server.admin.delete("/locks/status/x").await.ok()["released"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_tells_newest_and_live_from_everything_else() {
    let server = Server::start().await;
    let (a, b) = pair(&server).await;
    assert_eq!(verify(&a, "src/a.rs", 1).await["valid"], false);
    let first = token(&a.acquire("src/a.rs").await.done());
    assert_eq!(verify(&b, "src/a.rs", first).await, json!({"valid": true}));
    assert_eq!(verify(&b, "src/a.rs", first + 1).await["valid"], false);
    a.release("src/a.rs").await.done();
    let free = verify(&b, "src/a.rs", first).await;
    assert!(free["valid"] == false && free["reason"].is_string(), "{free}");
    b.acquire("src/a.rs").await.done();
    assert_eq!(verify(&a, "src/a.rs", first).await["valid"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ttl_is_one_minute_to_eight_hours_or_what_the_profile_allows() {
    let server = Server::start().await;
    let (a, b) = pair(&server).await;
    let acquire = |client: &Client, ttl: Value| {
        let client = client.clone();
        async move { client.post("/locks/acquire", json!({"file_path": "src/a.rs", "ttl_minutes": ttl})).await }
    };
    for ttl in [json!(0), json!(-1), json!(481), json!(i64::MAX), json!(1e20), json!(i64::MIN)] {
        acquire(&a, ttl).await.invalid("ttl_out_of_range");
    }
    for ttl in [json!("soon"), json!(1.5), json!([1])] {
        assert_eq!(acquire(&a, ttl).await.status, 422);
    }
    for ttl in [1, 480] {
        acquire(&a, json!(ttl)).await.done();
    }
    a.release("src/a.rs").await.done();
    acquire(&b, json!(121)).await.invalid("ttl_out_of_range");
    assert_eq!(b.get("/locks/status/src/a.rs").await.ok()["locked"], false);
    let held = acquire(&b, json!(120)).await.done();
    let renew = json!({"file_path": "src/a.rs", "fencing_token": token(&held), "ttl_minutes": 121});
    b.post("/locks/renew", renew).await.invalid("ttl_out_of_range");
}

#[tokio::test(flavor = "multi_thread")]
async fn status_and_list_show_held_locks() {
    let server = Server::start().await;
    let (a, b) = pair(&server).await;
    let held = a
        .post("/locks/acquire", json!({"file_path": "src/deep/a.rs", "reason": "why", "session_id": "s"}))
        .await
        .done();
    let status = b.get("/locks/status/src/deep/a.rs").await.ok();
    assert_eq!((&status["locked"], &status["file_path"]), (&json!(true), &json!("src/deep/a.rs")));
    let lock = &status["lock"];
    assert_eq!(
        (&lock["locked_by"], &lock["agent_type"], &lock["reason"]),
        (&json!("a"), &json!("claude_code"), &json!("why"))
    );
    assert_eq!((&lock["fencing_token"], &lock["expires_at"]), (&held["fencing_token"], &held["expires_at"]));
    assert!(lock["locked_at"].as_str().unwrap().ends_with('Z'));
    b.acquire("src/b.rs").await.done();
    b.acquire("src%/c").await.done();
    let keys = |list: Value| -> Vec<String> {
        list["locks"].as_array().unwrap().iter().map(|lock| lock["file_path"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(keys(a.get("/locks").await.ok()), ["src%/c", "src/b.rs", "src/deep/a.rs"]);
    assert_eq!(keys(a.get("/locks?prefix=src/").await.ok()), ["src/b.rs", "src/deep/a.rs"]);
    // A prefix is text and no pattern.
    assert_eq!(keys(a.get("/locks?prefix=src%25").await.ok()), ["src%/c"]);
    assert_eq!(keys(a.get("/locks?prefix=%25").await.ok()), Vec::<String>::new());
    assert_eq!(keys(a.get("/locks?prefix=SRC").await.ok()), Vec::<String>::new());
    assert_eq!(keys(a.get("/locks?agent_id=a").await.ok()), ["src/deep/a.rs"]);
    assert_eq!(keys(a.get("/locks?agent_id=b&prefix=src/").await.ok()), ["src/b.rs"]);
}
