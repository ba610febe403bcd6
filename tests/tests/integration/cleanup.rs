//! Cleaning up after agents that are no longer heard of, without harm to anybody who is.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::harness::{Client, Server};
use crate::stateful::{any_seed, number, runner};

async fn cleanup(server: &Server, body: Value) -> Value {
    server.admin.post("/discovery/cleanup", body).await.done()
}

fn counts(cleaned: &Value) -> (i64, i64, i64) {
    let count = |field: &str| cleaned[field].as_i64().unwrap();
    (count("agents_cleaned"), count("locks_released"), count("tasks_requeued"))
}

async fn register(client: &Client, session_id: &str) {
    client.post("/discovery/register", json!({"session_id": session_id})).await.done();
}

async fn acquire(client: &Client, file_path: &str, session_id: Value) -> i64 {
    let body = json!({"file_path": file_path, "session_id": session_id, "ttl_minutes": 120});
    client.post("/locks/acquire", body).await.done()["fencing_token"].as_i64().unwrap()
}

async fn held(server: &Server) -> BTreeSet<String> {
    let listing = server.admin.get("/locks?limit=1000").await.ok();
    listing["locks"].as_array().unwrap().iter().map(|lock| lock["file_path"].as_str().unwrap().to_owned()).collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// A claim that outlives the test's hours.
async fn claim(client: &Client, task_type: &str) -> Value {
    client.post("/work/claim", json!({"task_types": [task_type], "lease_seconds": 86_400})).await.done()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_agent_held_is_given_to_others() {
    let server = Server::start().await;
    let (a, b) = (server.agent("a", "codex_remote").await, server.agent("b", "codex_remote").await);
    register(&a, "s").await;
    let token = acquire(&a, "under/session", json!("s")).await;
    acquire(&a, "under/none", Value::Null).await;
    acquire(&a, "under/unknown", json!("from a hook")).await;
    let task = server.admin.submit("t", json!({"max_attempts": 2})).await;
    let claimed = claim(&a, "t").await;
    server.advance(15 * 60 - 1).await;
    assert_eq!(counts(&cleanup(&server, json!({})).await), (0, 0, 0), "an instant too early");
    server.advance(1).await;
    let cleaned = cleanup(&server, json!({})).await;
    let expected = json!({"success": true, "agents_cleaned": 1, "locks_released": 2, "tasks_requeued": 1});
    assert_eq!(cleaned, expected);
    assert_eq!(held(&server).await, set(&["under/unknown"]));
    // The dead agent's claim is over; its attempt counts, and so does the token of its lock.
    let stored = server.admin.task(&task).await;
    assert_eq!((&stored["status"], &stored["attempt_count"]), (&json!("pending"), &json!(1)));
    let late = json!({"task_id": task, "claim_token": claimed["claim_token"], "success": true});
    a.post("/work/complete", late).await.refused("task_not_found_or_not_claimed_by_agent");
    let body = json!({"file_path": "under/session", "fencing_token": token});
    assert_eq!(a.post("/locks/verify", body).await.ok()["valid"], false);
    assert!(acquire(&b, "under/session", Value::Null).await > token);
    assert_eq!(claim(&b, "t").await["attempt"], 2);
    assert_eq!(counts(&cleanup(&server, json!({})).await), (0, 0, 0), "once is enough");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_attempt_of_a_dead_agent_fails_the_task_and_what_depends_on_it() {
    let server = Server::start().await;
    let a = server.agent("a", "codex_remote").await;
    register(&a, "s").await;
    let task = server.admin.submit("t", json!({"max_attempts": 1})).await;
    let dependant = server.admin.submit("t2", json!({"depends_on": [task]})).await;
    claim(&a, "t").await;
    server.advance(3600).await;
    assert_eq!(counts(&cleanup(&server, json!({})).await), (1, 0, 0), "nothing came back into the queue");
    assert_eq!(server.admin.task(&task).await["error_message"], "attempts_exhausted");
    assert_eq!(server.admin.task(&dependant).await["error_message"], "dependency_failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_who_is_there_loses_anything() {
    let server = Server::start().await;
    let profile = "codex_remote";
    let two = server.agent("two_sessions", profile).await;
    let never = server.agent("never_registered", profile).await;
    let busy = server.agent("busy_without_heartbeat", profile).await;
    register(&two, "stale").await;
    acquire(&two, "two/stale", json!("stale")).await;
    acquire(&two, "two/none", Value::Null).await;
    acquire(&never, "never/none", Value::Null).await;
    acquire(&never, "never/of-another", json!("stale")).await;
    register(&busy, "quiet").await;
    acquire(&busy, "busy/old", json!("quiet")).await;
    let refreshed = acquire(&busy, "busy/renewed", json!("quiet")).await;
    for kind in ["two", "never", "beaten", "left"] {
        server.admin.submit(kind, json!({})).await;
    }
    claim(&two, "two").await;
    claim(&never, "never").await;
    let beaten = claim(&busy, "beaten").await;
    claim(&busy, "left").await;
    server.advance(20 * 60).await;
    register(&two, "fresh").await;
    let renew = json!({"file_path": "busy/renewed", "fencing_token": refreshed, "ttl_minutes": 120});
    busy.post("/locks/renew", renew).await.done();
    let beat = json!({"task_id": beaten["task_id"], "claim_token": beaten["claim_token"], "lease_seconds": 86_400});
    busy.post("/work/heartbeat", beat).await.done();
    acquire(&busy, "busy/new", Value::Null).await;
    assert_eq!(counts(&cleanup(&server, json!({})).await), (0, 0, 0));
    let kept = ["two/stale", "two/none", "never/none", "never/of-another", "busy/old", "busy/renewed", "busy/new"];
    assert_eq!(held(&server).await, set(&kept));
    let claims = server.admin.get("/work?status=claimed").await.ok();
    let kinds: BTreeSet<String> =
        claims["tasks"].as_array().unwrap().iter().map(|task| task["task_type"].as_str().unwrap().to_owned()).collect();
    assert_eq!(kinds, set(&["two", "never", "beaten", "left"]));
    let sessions = server.admin.get("/discovery/agents?status=disconnected").await.ok();
    assert_eq!(sessions["count"], 2, "stale sessions end in any case: {sessions}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_counts_the_same_and_changes_nothing() {
    let server = Server::start().await;
    let a = server.agent("a", "codex_remote").await;
    register(&a, "s").await;
    acquire(&a, "x", json!("s")).await;
    server.admin.submit("t", json!({})).await;
    claim(&a, "t").await;
    server.advance(3600).await;
    let (before, seq) = (server.state().await, server.last_seq().await);
    let dry = cleanup(&server, json!({"dry_run": true})).await;
    assert_eq!(server.state().await, before);
    let line = server.only_line_after(seq).await;
    assert_eq!((line.changes.as_str(), line.outcome.as_str()), ("[]", "ok"));
    let entry = server.admin.get("/audit?limit=1").await.ok()["entries"][0].clone();
    assert_eq!(entry["parameters"]["dry_run"], true, "{entry}");
    assert_eq!(counts(&dry), (1, 1, 1));
    assert_eq!(cleanup(&server, json!({"dry_run": "false"})).await, dry);
    assert_ne!(server.state().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn cleanup_is_an_admins_and_its_threshold_has_bounds() {
    let server = Server::start().await;
    let (local, remote) = (server.agent("l", "codex_local").await, server.agent("r", "codex_remote").await);
    remote.post("/discovery/cleanup", json!({})).await.denied("trust_below_admin");
    local.post("/discovery/cleanup", json!({})).await.done();
    for threshold in [json!(0), json!(-1), json!(10_081), json!(1e30)] {
        let reply = local.post("/discovery/cleanup", json!({"stale_threshold_minutes": threshold})).await;
        reply.invalid("threshold_out_of_range");
    }
    register(&remote, "s").await;
    server.advance(60).await;
    assert_eq!(counts(&cleanup(&server, json!({"stale_threshold_minutes": 2})).await), (0, 0, 0));
    assert_eq!(counts(&cleanup(&server, json!({"stale_threshold_minutes": 1})).await), (1, 0, 0));
}

// ------------------------------------------------------------- any history

#[derive(Debug, Clone)]
enum Deed {
    Register(usize, usize),
    Beat(usize, usize),
    Acquire(usize, usize, Option<usize>),
    Claim(usize),
    Pass(i64),
    Cleanup,
}

/// At most eight hours less a little, so that no lock runs out by itself.
fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let deed = prop_oneof![
        2 => (0..3_usize, 0..2_usize).prop_map(|(agent, n)| Deed::Register(agent, n)),
        2 => (0..3_usize, 0..2_usize).prop_map(|(agent, n)| Deed::Beat(agent, n)),
        3 => (0..3_usize, 0..6_usize, proptest::option::of(0..3_usize))
            .prop_map(|(agent, key, session)| Deed::Acquire(agent, key, session)),
        2 => (0..3_usize).prop_map(Deed::Claim),
        3 => (60..900_i64).prop_map(Deed::Pass),
        1 => Just(Deed::Cleanup),
    ];
    proptest::collection::vec(deed, 1..30)
}

const AGENTS: [&str; 3] = ["a", "b", "c"];

/// A session by agent and number.
type Name = (usize, usize);

/// What must be there, by a model that knows nothing of SQL.
#[derive(Debug, Default)]
struct Model {
    now: i64,
    /// Last heartbeat, and whether it is live.
    sessions: BTreeMap<Name, (i64, bool)>,
    /// Holder, last refresh, session.
    locks: BTreeMap<usize, (usize, i64, Option<usize>)>,
    /// Claimant and time of claim.
    claims: Vec<(usize, i64)>,
    /// When each agent was last heard of in any way.
    heard: BTreeMap<usize, i64>,
}

impl Model {
    /// What a cleanup now takes, counted.
    fn cleanup(&mut self) -> (i64, i64, i64) {
        let cutoff = self.now - 15 * 60;
        let mut ended = BTreeSet::new();
        for ((agent, _), (heard, is_live)) in &mut self.sessions {
            if *is_live && *heard <= cutoff {
                *is_live = false;
                ended.insert(*agent);
            }
        }
        let asked = |agent: &usize| self.heard.get(agent).is_some_and(|at| *at > cutoff);
        let alive = |agent: &usize| {
            asked(agent) || self.sessions.iter().any(|((owner, _), (_, is_live))| owner == agent && *is_live)
        };
        let dead: BTreeSet<usize> = ended.into_iter().filter(|agent| !alive(agent)).collect();
        let (locks, claims) = (self.locks.len(), self.claims.len());
        // A name that is no session of the holder's own protects its lock.
        self.locks.retain(|_, (agent, refreshed, session)| {
            let is_own = session.is_none_or(|n| self.sessions.contains_key(&(*agent, n)));
            !(dead.contains(agent) && *refreshed <= cutoff && is_own)
        });
        self.claims.retain(|(agent, at)| !(dead.contains(agent) && *at <= cutoff));
        let count = |number: usize| i64::try_from(number).unwrap();
        (count(dead.len()), count(locks - self.locks.len()), count(claims - self.claims.len()))
    }
}

fn session_name((agent, n): Name) -> String {
    format!("{}-{n}", AGENTS[agent])
}

async fn play(server: &Server, agents: &[Client], model: &mut Model, deed: &Deed) {
    if let Deed::Register(agent, _) | Deed::Beat(agent, _) | Deed::Acquire(agent, ..) | Deed::Claim(agent) = *deed {
        model.heard.insert(agent, model.now);
    }
    match *deed {
        Deed::Register(agent, n) => {
            register(&agents[agent], &session_name((agent, n))).await;
            model.sessions.insert((agent, n), (model.now, true));
        }
        Deed::Beat(agent, n) => {
            let body = json!({"session_id": session_name((agent, n))});
            let beaten = agents[agent].post("/discovery/heartbeat", body).await.ok()["success"] == true;
            let live = model.sessions.get_mut(&(agent, n)).filter(|(_, is_live)| *is_live);
            assert_eq!(beaten, live.is_some());
            if let Some((heard, _)) = live {
                *heard = model.now;
            }
        }
        Deed::Acquire(agent, key, session) => {
            let name = session.map(|n| session_name((agent, n)));
            let body = json!({"file_path": format!("k{key}"), "session_id": name, "ttl_minutes": 480});
            let granted = agents[agent].post("/locks/acquire", body).await.ok()["success"] == true;
            let before = model.locks.get(&key).copied();
            assert_eq!(granted, before.is_none_or(|(holder, ..)| holder == agent));
            if granted {
                let session = session.or(before.and_then(|(_, _, session)| session));
                model.locks.insert(key, (agent, model.now, session));
            }
        }
        Deed::Claim(agent) => {
            server.admin.submit("t", json!({"max_attempts": 100})).await;
            claim(&agents[agent], "t").await;
            model.claims.push((agent, model.now));
        }
        Deed::Pass(seconds) => {
            server.advance(seconds).await;
            model.now += seconds;
        }
        Deed::Cleanup => {
            let dry = cleanup(server, json!({"dry_run": true})).await;
            let cleaned = cleanup(server, json!({})).await;
            assert_eq!(dry, cleaned);
            assert_eq!(counts(&cleaned), model.cleanup(), "{model:#?}");
            let kept: BTreeSet<String> = model.locks.keys().map(|key| format!("k{key}")).collect();
            assert_eq!(held(server).await, kept, "{model:#?}");
            let claimed = server.admin.get("/work?status=claimed&limit=1000").await.ok()["count"].clone();
            assert_eq!(claimed, json!(model.claims.len()), "{model:#?}");
        }
    }
}

async fn is_harmless(deeds: Vec<Deed>) {
    let server = Server::start().await;
    let mut agents = Vec::new();
    for name in AGENTS {
        agents.push(server.agent(name, "codex_local").await);
    }
    let mut model = Model::default();
    for deed in deeds.iter().chain([&Deed::Cleanup, &Deed::Pass(900), &Deed::Cleanup]) {
        play(&server, &agents, &mut model, deed).await;
    }
}

#[test]
fn whatever_happened_before_a_cleanup_harms_no_live_agent() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let seed = number("PORTREEVE_SEED").unwrap_or_else(any_seed);
    println!("cleanup: PORTREEVE_SEED={seed}");
    let ran = runner(seed, 24).run(&deeds(), |deeds| {
        let shown = format!("{deeds:?}");
        runtime
            .block_on(runtime.spawn(is_harmless(deeds)))
            .map_err(|panic| TestCaseError::fail(format!("{shown}: {panic}")))
    });
    ran.unwrap();
}
