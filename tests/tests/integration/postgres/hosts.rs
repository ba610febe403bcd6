//! Several hosts on one database: what one does, the others know; and a server that goes away and comes back.
//!
//! REVOKE: what one host acknowledged all others obey.

use std::sync::Arc;
use std::time::{Duration, Instant};

use portreeve::app::{App, Options};
use portreeve::clock::SystemClock;
use portreeve::engine::{Cage, default_bundle};
use portreeve::gate::Wanted;
use portreeve::store::postgres::Options as Database;
use portreeve::vetting::Gates;
use serde_json::json;
use sqlx::AssertSqlSafe;

use crate::harness::postgres::{self, Kind};
use crate::harness::{Client, Server, Setup, cache_dir};

/// So many hosts on one database, each with a folder of its own.
async fn hosts<const N: usize>() -> [Server; N] {
    let first = tempfile::tempdir().unwrap();
    let database = postgres::clone(first.path(), Kind::Served).await;
    let key = std::fs::read(first.path().join("admin.key")).unwrap();
    let mut servers = vec![Server::start_on(first, Setup::default()).await];
    while servers.len() < N {
        let dir = tempfile::tempdir().unwrap();
        postgres::share(dir.path(), &database);
        std::fs::write(dir.path().join("admin.key"), &key).unwrap();
        servers.push(Server::start_on(dir, Setup::default()).await);
    }
    servers.try_into().unwrap_or_else(|_| panic!("as many as were asked for"))
}

/// A client's key at another host.
fn at(server: &Server, client: &Client) -> Client {
    server.again(client)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_is_held_at_one_host_is_held_at_all() {
    let [one, two] = hosts().await;
    let (a, b) = (one.agent("a", "claude_code_local").await, two.agent("b", "claude_code_local").await);
    let token = a.acquire("src/a.rs").await.done()["fencing_token"].as_i64().unwrap();
    b.acquire("src/a.rs").await.refused("locked_by_other");
    assert_eq!(at(&two, &a).acquire("src/a.rs").await.done()["action"], "refreshed");
    at(&two, &a).release("src/a.rs").await.done();
    assert_eq!(at(&one, &b).acquire("src/a.rs").await.done()["fencing_token"], token + 1);
}

/// Sooner than by looking every second or two: the other host tells.
#[tokio::test(flavor = "multi_thread")]
async fn who_waits_at_one_host_is_woken_by_another() {
    let [one, two] = hosts().await;
    let (a, b) = (one.agent("a", "claude_code_local").await, two.agent("b", "claude_code_local").await);
    // The hosts need a moment to hear each other.
    tokio::time::sleep(Duration::from_millis(700)).await;
    let mut quick = 0;
    for n in 0..6 {
        let path = format!("src/{n}.rs");
        a.acquire(&path).await.done();
        let waiter = b.clone();
        let body = json!({"file_path": path, "wait_seconds": 20});
        let waiting = tokio::spawn(async move { (waiter.post("/locks/acquire", body).await, Instant::now()) });
        tokio::time::sleep(Duration::from_millis(250)).await;
        let released = Instant::now();
        a.release(&path).await.done();
        let (grant, granted) = waiting.await.unwrap();
        grant.done();
        quick += usize::from(granted - released < Duration::from_millis(300));
    }
    // Where nobody tells, a release is noticed half a second later on average; one of two would be quicker by chance.
    assert!(quick >= 5, "{quick} of 6 were quick");
    let mut quick = 0;
    for n in 0..4 {
        let waiter = b.clone();
        let body = json!({"task_types": [format!("t{n}")], "wait_seconds": 20});
        let waiting = tokio::spawn(async move { (waiter.post("/work/claim", body).await, Instant::now()) });
        tokio::time::sleep(Duration::from_millis(300)).await;
        let submitted = Instant::now();
        a.submit(&format!("t{n}"), json!({})).await;
        let (claim, claimed) = waiting.await.unwrap();
        claim.done();
        quick += usize::from(claimed - submitted < Duration::from_millis(500));
    }
    assert!(quick >= 3, "{quick} of 4 were quick");
}

/// Even when no hint arrives: looking is the backstop.
#[tokio::test(flavor = "multi_thread")]
async fn who_waits_finds_out_also_when_nobody_tells() {
    let [one, two] = hosts().await;
    let (a, b) = (one.agent("a", "claude_code_local").await, two.agent("b", "claude_code_local").await);
    a.acquire("src/a.rs").await.done();
    let waiting =
        tokio::spawn(
            async move { b.post("/locks/acquire", json!({"file_path": "src/a.rs", "wait_seconds": 20})).await },
        );
    tokio::time::sleep(Duration::from_millis(300)).await;
    // Released past all hosts.
    let database = postgres::known(one.data()).unwrap();
    let mut conn = postgres::superuser(&database).await;
    let sql = "ALTER TABLE file_locks DISABLE TRIGGER USER; DELETE FROM file_locks";
    sqlx::raw_sql(sql).execute(&mut conn).await.unwrap();
    waiting.await.unwrap().done();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_agent_may_changes_at_all_hosts_at_once() {
    let [one, two] = hosts().await;
    let a = one.agent("a", "claude_code_local").await;
    let there = at(&two, &a);
    for round in 0..5 {
        let path = format!("src/{round}.rs");
        // The other host knows the agent's facts from here on.
        there.acquire(&path).await.done();
        one.suspend("a", true).await;
        there.acquire(&path).await.denied("suspended");
        there.post("/locks/verify", json!({"file_path": path, "fencing_token": 1})).await.denied("suspended");
        one.suspend("a", false).await;
        // Nor is anybody refused for what they were before.
        there.acquire(&path).await.done();
    }
    one.admin.post("/agents/a/profile", json!({"profile": "claude_code_reviewer"})).await.done();
    there.acquire("src/x.rs").await.denied("operation_not_allowed");
    one.admin.delete(&format!("/agents/a/keys/{}", a.key_id)).await.done();
    assert_eq!(there.acquire("src/x.rs").await.status, 401);
    assert_eq!(there.get("/locks").await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_at_another_host_gets_the_first_answer() {
    let [one, two, three] = hosts().await;
    let a = one.agent("a", "claude_code_local").await;
    let body = json!({"task_type": "t", "task_description": "d"});
    let first = a.post_once("/work/submit", "k", body.clone()).await.done();
    for server in [&two, &three] {
        let again = at(server, &a).post_once("/work/submit", "k", body.clone()).await;
        assert_eq!(again.header("idempotency-replayed"), Some("true"));
        assert_eq!(again.done(), first);
    }
    let other = json!({"task_type": "t", "task_description": "another"});
    at(&two, &a).post_once("/work/submit", "k", other).await.invalid("idempotency_key_reused");
    // At the same moment at all of them: one is first.
    let all = [&one, &two, &three].map(|server| at(server, &a));
    let sent = all.iter().map(|client| client.post_once("/work/submit", "at once", body.clone()));
    let answers: Vec<_> = futures::future::join_all(sent).await.into_iter().map(|reply| reply.done()).collect();
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_one_host_puts_in_force_is_in_force_at_all() {
    let [one, two] = hosts().await;
    let a = two.agent("a", "claude_code_local").await;
    a.acquire("src/a.rs").await.done();
    assert_eq!(one.app().gate().policy().active().epoch, 1);
    let mut bundle = default_bundle();
    let guardrails = bundle.iter_mut().find(|file| file.path.ends_with("profiles/claude_code_local.toml")).unwrap();
    guardrails.text.push_str("\n# another revision\n");
    let dir = tempfile::tempdir().unwrap();
    let database = postgres::service_url(&postgres::known(one.data()).unwrap());
    let options = Options {
        data: dir.path().to_owned(),
        database: Some(Database::parse(&database).unwrap()),
        new_admin_key: false,
        cache: Some(cache_dir()),
        wanted: Wanted::named(bundle),
        gates: Gates::default(),
        cage: Cage::default(),
        clock: Arc::new(SystemClock::default()),
    };
    let three = App::open(options, &|_| ()).await.unwrap();
    let active = three.gate().policy().active();
    assert_eq!(active.epoch, 2);
    a.acquire("src/b.rs").await.done();
    let now = two.app().gate().policy().active();
    assert_eq!((now.epoch, now.component.digest()), (2, active.component.digest()));
    let rows = two.app().gate().store().view().audit_rows(0, 1000).await.unwrap();
    let (row, _) = rows.iter().rev().find(|(row, _)| row.agent_id == "a" && row.outcome == "ok").unwrap();
    assert_eq!((row.epoch, row.component.as_str()), (2, active.component.digest()));
    assert!(!dir.path().join("admin.key").exists(), "the admin's key is with the host that made it");
    three.close().await;
}

/// The server ends all connections, lets nobody in for a while, and lets them in again.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_goes_away_is_told_and_found_again() {
    let [one] = hosts().await;
    let a = one.agent("a", "claude_code_local").await;
    a.acquire("src/a.rs").await.done();
    let database = postgres::known(one.data()).unwrap();
    let away = |away: bool| {
        let (database, allow) = (database.clone(), !away);
        async move {
            let mut conn = postgres::superuser("postgres").await;
            let sql = format!(
                "ALTER DATABASE {database} ALLOW_CONNECTIONS {allow};
                 SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'"
            );
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut conn).await.unwrap();
        }
    };
    away(true).await;
    let refused = a.acquire("src/b.rs").await;
    assert_eq!((refused.status, &refused.body["error"]), (503, &json!("storage_unavailable")), "{}", refused.body);
    let text = refused.body.to_string();
    assert!(!text.contains("postgres") && !text.contains(&database), "{text}");
    assert_eq!(one.nobody().get("/ready").await.status, 503);
    assert_eq!(one.nobody().get("/live").await.status, 200);
    away(false).await;
    let start = Instant::now();
    while one.nobody().get("/ready").await.status != 200 {
        assert!(start.elapsed() < Duration::from_secs(20), "it did not come back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    a.acquire("src/b.rs").await.done();
    // Connections that were cut while nobody used them cost nobody an error.
    away(false).await;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    a.acquire("src/c.rs").await.done();
    a.get("/locks").await.ok();
    a.get("/audit").await.ok();
}

/// A transaction that the database gives up for a deadlock is run again, and nobody hears of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_deadlock_is_run_again() {
    let [one, two] = hosts().await;
    // Each of these takes first one's own lock shared and then the other's alone.
    for n in 0..3 {
        for name in ["x", "y"] {
            let body = json!({"agent_id": format!("{name}{n}"), "agent_type": "operator", "profile": "admin"});
            one.admin.post("/agents", body).await.done();
        }
    }
    let operators = async |name: &str| {
        let key = one.admin.post(&format!("/agents/{name}/keys"), json!({})).await.done()["key"].clone();
        (Client::new(one.admin.address, key.as_str().unwrap()), Client::new(two.admin.address, key.as_str().unwrap()))
    };
    for n in 0..3 {
        let (x, y) = (operators(&format!("x{n}")).await.0, operators(&format!("y{n}")).await.1);
        let profile = |of: String| (format!("/agents/{of}/profile"), json!({"profile": "admin"}));
        let ((to_y, body), (to_x, other)) = (profile(format!("y{n}")), profile(format!("x{n}")));
        let rounds = (0..6).map(|_| async { tokio::join!(x.post(&to_y, body.clone()), y.post(&to_x, other.clone())) });
        for (a, b) in futures::future::join_all(rounds).await {
            a.done();
            b.done();
        }
    }
}
