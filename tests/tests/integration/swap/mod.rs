//! Components of a running service: stored, put in force, refused, asked beside the one in force.
//!
//! REVOKE: nothing commits under an epoch that is over.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use portreeve::authn::authenticate;
use portreeve::command::action::Action as _;
use portreeve::command::components::{ComponentActivate, ComponentUpload};
use portreeve::command::input::{Field, Input, Place};
use portreeve::engine::types::{BundleFile, PolicyRequest};
use portreeve::engine::{Cage, Engine, default_bundle, digest_of};
use portreeve::gate::Circumstances;
use portreeve::vetting::Gates;
use serde_json::{Value, json};
use tests::hostile;

use crate::harness::cli::cli;

mod gates;
mod starts;

use crate::harness::{Client, Request, Server, Setup, cache_dir};

/// The default bundle with one file changed.
pub(crate) fn edited(file: &str, from: &str, to: &str) -> Vec<BundleFile> {
    let mut files = default_bundle();
    let found = files.iter_mut().find(|entry| entry.path == file).unwrap();
    assert!(found.text.contains(from), "{file} does not hold `{from}`");
    found.text = found.text.replace(from, to);
    files
}

pub(crate) fn engine() -> Engine {
    Engine::open(&cache_dir(), Cage::default()).unwrap()
}

pub(crate) fn built(files: &[BundleFile]) -> Vec<u8> {
    engine().build_bundle(files, &|_| ()).unwrap()
}

/// Remote agents may not write handoffs, and the tables that promise it are gone. Narrower than the default.
fn without_handoffs() -> Vec<BundleFile> {
    let mut files = edited(
        "profiles/claude_code_remote.toml",
        "trust = 2\n",
        "trust = 2\nblocked_operations = [\"write_handoff\"]\n",
    );
    for file in files.iter_mut().filter(|file| file.path.starts_with("decisions/")) {
        file.text =
            "[[case]]\nname = \"an admin reads\"\nprincipal = { agent_type = \"operator\", profile = \"admin\" }\n\
                     operation = \"check_locks\"\ntarget = { lock_key = \"a\" }\nexpect = { effect = \"allow\", reason = \"allowed\" }\n"
                .to_owned();
    }
    files
}

/// Another version of the default bundle, which decides everything alike.
pub(crate) fn renamed(version: &str) -> Vec<BundleFile> {
    edited("bundle.toml", "version = \"0.1.0\"", &format!("version = \"{version}\""))
}

pub(crate) fn upload(bytes: Vec<u8>) -> Request {
    Request::new("POST", "/components").header("content-type", "application/wasm").raw(bytes)
}

async fn stored(server: &Server, bytes: Vec<u8>) -> String {
    let digest = digest_of(&bytes);
    let body = server.admin.send(upload(bytes)).await.done();
    assert_eq!(body["digest"], json!(digest));
    digest
}

async fn activate(admin: &Client, digest: &str, expected: i64) -> crate::harness::Reply {
    admin.post(&format!("/components/{digest}/activate"), json!({"expected_epoch": expected})).await
}

async fn epoch(server: &Server) -> i64 {
    server.admin.get("/components").await.ok()["epoch"].as_i64().unwrap()
}

fn with(gates: Gates) -> Setup {
    Setup { gates, ..Setup::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_is_stored_activated_listed_and_gone_back_from() {
    let server = Server::start().await;
    let agent = server.agent("worker", "claude_code_remote").await;
    let first = server.app().gate().policy().active().component.digest().to_owned();
    let bytes = built(&without_handoffs());
    let reply = server.admin.send(upload(bytes.clone())).await.done();
    assert_eq!((&reply["action"], &reply["signed_by"]), (&json!("stored"), &Value::Null));
    let second = reply["digest"].as_str().unwrap().to_owned();
    assert_eq!(server.admin.send(upload(bytes)).await.done()["action"], "present");
    // Stored is not in force.
    agent.post("/handoffs/write", json!({"summary": "a"})).await.done();
    let done = activate(&server.admin, &second, 1).await.done();
    assert_eq!((&done["epoch"], &done["digest"]), (&json!(2), &json!(second)));
    assert!(done["evidence"]["tests"]["cases"].as_u64().unwrap() > 0, "{done}");
    let denied = agent.post("/handoffs/write", json!({"summary": "a"})).await.denied("operation_blocked");
    assert_eq!(denied["policy"], json!({"component": second, "epoch": 2}));
    // Somebody else was first: nothing happens, and it is told which epoch stands.
    let refused = activate(&server.admin, &first, 1).await.refused("epoch_moved");
    assert_eq!(refused["epoch"], 2);
    let listed = server.admin.get("/components").await.ok();
    let shown: Vec<(&str, bool)> = listed["components"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| (entry["digest"].as_str().unwrap(), entry["active"].as_bool().unwrap()))
        .collect();
    assert_eq!(shown, [(second.as_str(), true), (first.as_str(), false)]);
    let one = server.admin.get(&format!("/components/{second}")).await.ok();
    assert_eq!((&one["activated_by"], &one["epoch"]), (&json!("admin"), &json!(2)));
    assert!(one["manifest"]["profiles"].as_array().unwrap().len() > 5);
    // Going back is an ordinary activation.
    activate(&server.admin, &first, 2).await.done();
    agent.post("/handoffs/write", json!({"summary": "b"})).await.done();
    assert_eq!(epoch(&server).await, 3);
    server.admin.get(&format!("/components/sha256:{}", "0".repeat(64))).await.invalid("unknown_component");
    activate(&server.admin, &format!("sha256:{}", "0".repeat(64)), 3).await.invalid("unknown_component");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_activated_stays_over_a_restart_and_what_a_start_did_not() {
    let server = Server::start().await;
    let second = stored(&server, built(&renamed("9.0.0"))).await;
    activate(&server.admin, &second, 1).await.done();
    let server = server.restart().await;
    let active = server.app().gate().policy().active();
    assert_eq!((active.epoch, active.component.digest()), (2, second.as_str()));
    // An operator who names one insists.
    let wanted = portreeve::gate::Wanted::named(renamed("9.1.0"));
    let (dir, setup) = (server.stop().await, Setup { wanted, ..Setup::default() });
    let server = Server::start_on(dir, setup).await;
    let active = server.app().gate().policy().active();
    assert_eq!((active.epoch, active.component.manifest().version.as_str()), (3, "9.1.0"));
    // And what only a start put in force gives way to the program's own.
    let server = Server::start_on(server.stop().await, Setup::default()).await;
    let active = server.app().gate().policy().active();
    assert_eq!((active.epoch, active.component.manifest().version.as_str()), (4, "0.1.0"));
}

// ------------------------------------------------------------- bad candidates

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_fit_to_decide_is_refused_by_its_own_name_and_changes_nothing() {
    let server = Server::start().await;
    let failing = edited(
        "decisions/profiles.toml",
        "effect = \"deny\", reason = \"suspended\"",
        "effect = \"deny\", reason = \"operation_blocked\"",
    );
    let lockout = edited("profiles/admin.toml", "trust = 4", "trust = 2");
    // Nobody may be left without a way back: not by rules, and not by limits.
    let limited = |profile: &str, calls: u32| {
        let limit = format!("trust = 4\n[limits]\ncalls_per_minute = {calls}\n");
        let mut files = default_bundle();
        let path = format!("profiles/{profile}.toml");
        let file = files.iter_mut().find(|file| file.path == path).unwrap();
        // Tables come last.
        file.text = file.text.replace("trust = 4\n", "") + &limit;
        built(&files)
    };
    let before = server.state().await;
    for (bytes, kind) in [
        (limited("admin", 9), "self_test_failed"),
        (limited("system", 100), "self_test_failed"),
        (hostile::heavy(), "not_a_component"),
        (b"hello".to_vec(), "not_a_component"),
        (hostile::core_module(), "not_a_component"),
        (hostile::imports_something(), "imports"),
        (hostile::wrong_world(), "wrong_world"),
        (hostile::undescribed(), "undescribed"),
        (hostile::traps(), "trap"),
        (hostile::allows(), "self_test_failed"),
        (hostile::remembers(), "self_test_failed"),
        (built(&failing), "tests_failed"),
        (built(&lockout), "self_test_failed"),
        (Vec::new(), "missing"),
    ] {
        let seq = server.last_seq().await;
        let body = server.admin.send(upload(bytes)).await.invalid(kind);
        assert_eq!(body["detail"][0]["loc"], json!(["body", "component"]), "{body}");
        if kind != "missing" {
            let line = server.only_line_after(seq).await;
            assert_eq!((line.command.as_str(), line.outcome.as_str()), ("component_upload", "failed"));
        }
    }
    // Fuel comes first, but on a busy machine.
    let reason = server.admin.send(upload(hostile::loops())).await.body["reason"].clone();
    assert!(reason == "out_of_fuel" || reason == "deadline", "{reason}");
    // Told by its length alone, before any of it is read.
    let declared = upload(Vec::new()).header("content-length", &(200 << 20).to_string());
    let reply = server.admin.try_send(declared).await.unwrap();
    assert_eq!((reply.status, &reply.body["error"]), (413, &json!("body_too_large")));
    assert_eq!(server.state().await, before);
    assert_eq!(epoch(&server).await, 1);
}

/// The surfaces give every command what looks at components; a caller that forgot to is refused, and not believed.
#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_looked_at_is_neither_stored_nor_put_in_force() {
    let server = Server::start().await;
    let gate = server.app().gate();
    let who = authenticate(gate.store(), server.admin.key.as_deref()).await.unwrap();
    let asked = |fields: &'static [Field], body: Value| {
        let input = Input::read(fields, body.as_object().unwrap(), Place::Body).unwrap();
        let started_at = server.now();
        let circumstances =
            Circumstances { request_id: "r".into(), started_at, idempotency_key: None, parameters: json!({}) };
        (input, circumstances)
    };
    let before = server.state().await;
    let (input, circumstances) =
        asked(ComponentUpload::INPUT, json!({"component": STANDARD.encode(built(&renamed("9.9.9")))}));
    let command = ComponentUpload::parse(&input, &who).unwrap();
    let error = gate.run(&who, command, &circumstances).await.unwrap_err();
    assert_eq!(error.body()["reason"], "not_examined", "{error:?}");
    let stored = gate.policy().active().component.digest().to_owned();
    let (input, circumstances) = asked(ComponentActivate::INPUT, json!({"digest": stored, "expected_epoch": 1}));
    let command = ComponentActivate::parse(&input, &who).unwrap();
    let output = gate.run(&who, command, &circumstances).await;
    assert!(format!("{output:?}").contains("not_weighed"), "{output:?}");
    assert_eq!(before, server.state().await);
}

// ------------------------------------------------------------------- under load

/// What a client saw.
#[derive(Debug, Default)]
struct Seen {
    done: AtomicU64,
    denied: AtomicU64,
}

async fn keep_asking(client: Client, n: usize, seen: Arc<Seen>, stop: Arc<AtomicBool>) {
    let mut round = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        let file = format!("src/{n}/{}.rs", round % 7);
        client.acquire(&file).await.done();
        let reply = client.post("/handoffs/write", json!({"summary": format!("{n} {round}")})).await;
        if reply.status == 200 {
            reply.done();
            seen.done.fetch_add(1, Ordering::Relaxed);
        } else {
            reply.denied("operation_blocked");
            seen.denied.fetch_add(1, Ordering::Relaxed);
        }
        client.release(&file).await.done();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_swaps_under_load_fail_no_request_and_each_row_is_its_epochs() {
    const SWAPS: i64 = 200;
    let server = Server::start_with(Setup::default()).await;
    let first = server.app().gate().policy().active().component.digest().to_owned();
    let second = stored(&server, built(&without_handoffs())).await;
    let (seen, stop) = (Arc::new(Seen::default()), Arc::new(AtomicBool::new(false)));
    let mut clients = Vec::new();
    for n in 0..16 {
        let client = server.agent(&format!("worker-{n}"), "claude_code_remote").await;
        clients.push(tokio::spawn(keep_asking(client, n, Arc::clone(&seen), Arc::clone(&stop))));
    }
    let started = Instant::now();
    for swap in 0..SWAPS {
        let next = if swap % 2 == 0 { &second } else { &first };
        let done = activate(&server.admin, next, swap + 1).await.done();
        assert_eq!(done["epoch"], swap + 2);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let took = started.elapsed();
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    let (done, denied) = (seen.done.load(Ordering::Relaxed), seen.denied.load(Ordering::Relaxed));
    assert!(done > 50 && denied > 50, "{done} done, {denied} denied in {took:?}");

    // Each row was decided by the component of its epoch, and nothing under an epoch that was over.
    let (engine, view) = (engine(), server.app().gate().store().view().clone());
    let mut components = BTreeMap::new();
    for digest in [&first, &second] {
        let bytes = view.component_bytes(digest).await.unwrap().unwrap();
        components.insert(digest.clone(), engine.load_component(bytes, &|_| ()).unwrap());
    }
    let (mut epochs, mut now) = (BTreeMap::from([(1, first.clone())]), 1_i64);
    let (mut after, mut replayed, mut blocked) = (0_i64, 0_u64, 0_u64);
    loop {
        let page = view.audit_rows(after, 1000).await.unwrap();
        let Some((last, _)) = page.last() else { break };
        after = last.seq;
        for (row, _) in page {
            if row.epoch == 0 {
                continue;
            }
            if row.outcome != "failed" {
                assert_eq!(row.epoch, now, "row {} ({}) stands under epoch {now}", row.seq, row.command);
            }
            assert_eq!(row.component, epochs[&row.epoch], "row {}", row.seq);
            let request: Result<PolicyRequest, _> = serde_json::from_str(&row.request);
            if let Ok(request) = request {
                let decision = components[&row.component].decide(&request).unwrap().decision;
                assert_eq!(
                    (row.reason.as_str(), row.detail.as_str()),
                    (decision.reason.as_str(), decision.detail.as_str())
                );
                replayed += 1;
            }
            if row.command == "handoff_write" {
                assert_eq!(row.decision == "deny", row.component == second, "row {}", row.seq);
                // A denial that was out of date by then was decided anew.
                blocked += u64::from(row.outcome == "denied");
            }
            if row.command == "component_activate" && row.outcome == "ok" {
                now += 1;
                let result: Value = serde_json::from_str(&row.result).unwrap();
                assert_eq!(result["epoch"], now);
                epochs.insert(now, result["digest"].as_str().unwrap().to_owned());
            }
        }
    }
    assert_eq!(now, SWAPS + 1);
    assert_eq!(blocked, denied);
    assert!(replayed > 1000, "{replayed}");
}

// ----------------------------------------------------------------------- shadow

#[tokio::test(flavor = "multi_thread")]
async fn a_shadow_sees_the_traffic_says_where_it_differs_and_decides_nothing() {
    let server = Server::start_with(Setup::default()).await;
    let agent = server.agent("worker", "claude_code_remote").await;
    let candidate = stored(&server, built(&without_handoffs())).await;
    let path = format!("/components/{candidate}/shadow");
    let off = json!({"enabled": false});
    server.admin.post(&path, off.clone()).await.refused("not_the_shadow");
    assert_eq!(server.admin.post(&path, json!({})).await.done()["shadow"], json!(candidate));
    for n in 0..5 {
        agent.post("/handoffs/write", json!({"summary": format!("{n}")})).await.done();
        agent.acquire("a").await.done();
    }
    let report = async || server.admin.get(&format!("/components/{candidate}/report")).await.ok();
    let mut seen = report().await;
    for _ in 0..100 {
        if seen["differing"] == 5 && seen["compared"].as_u64().unwrap() >= 10 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        seen = report().await;
    }
    assert_eq!((&seen["differing"], &seen["unanswered"]), (&json!(5), &json!(0)), "{seen}");
    assert!(seen["compared"].as_u64().unwrap() >= 10, "{seen}");
    let kinds = seen["kinds"].as_array().unwrap();
    assert_eq!(kinds.len(), 1, "{seen}");
    assert_eq!(
        kinds[0],
        json!({
            "profile": "claude_code_remote", "operation": "write_handoff", "count": 5,
            "active": "allow allowed", "candidate": "deny operation_blocked",
        })
    );
    let sample = &seen["samples"][0];
    assert_eq!((&sample["agent_id"], &sample["epoch"]), (&json!("worker"), &json!(1)), "{seen}");
    // It is chosen in the store, so that a restart goes on with it; what was seen is this host's and begins anew.
    let server = server.restart().await;
    for _ in 0..100 {
        if server.app().gate().policy().shadow().seen().is_some() {
            break;
        }
        server.admin.get("/locks").await.ok();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(server.admin.get(&format!("/components/{candidate}")).await.ok()["shadow"], true);
    assert_eq!(server.admin.post(&path, off).await.done()["shadow"], Value::Null);
    assert!(server.app().gate().policy().shadow().seen().is_none());
    assert_eq!(epoch(&server).await, 1);
}

// ------------------------------------------------------------ the command line

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_signs_pushes_activates_and_goes_back_with_the_program() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name).display().to_string();
    std::fs::write(file("policy.wasm"), built(&renamed("7.0.0"))).unwrap();
    let key = cli(["policy", "keygen", "-o", &file("release.key")]).json(0);
    assert!(cli(["policy", "keygen", "-o", &file("release.key")]).told(1).contains("not there yet"));
    let public = std::fs::read_to_string(file("release.key.pub")).unwrap();
    let gates =
        Gates { trusted_signers: vec![portreeve::signature::PublicKey::parse(&public).unwrap()], ..Gates::default() };
    let server = Server::start_with(with(gates)).await;
    let first = server.app().gate().policy().active().component.digest().to_owned();
    let to = |words: &[&str]| cli(["policy"]).args(words).to(&server.admin);
    assert!(to(&["push", &file("policy.wasm"), "--activate"]).told(4).contains("not signed"));
    let sign = ["policy", "sign", &file("policy.wasm"), "--version", "2", "-o", &file("signed.wasm")];
    let signed = cli(sign).args(&["--key", &file("release.key")]).json(0);
    assert_eq!((&signed["signed_by"], &signed["signed_version"]), (&key["id"], &json!(2)));
    // The form that OpenSSL writes and reads: the private key alone, 48 bytes.
    let pem = std::fs::read_to_string(file("release.key")).unwrap();
    let der: String = pem.lines().filter(|line| !line.starts_with("---")).collect();
    assert_eq!(STANDARD.decode(der).unwrap().len(), 48);
    // What a signature is about is what is made again.
    let extract = |name: &str| cli(["policy", "extract", "--verify", &file("signed.wasm"), &file(name)]);
    assert!(extract("text").told(0).contains("which the component was made of"));
    let told = to(&["push", &file("signed.wasm"), "--activate"]).told(0);
    assert!(told.contains("in force as epoch 2"), "{told}");
    let listed = to(&["list"]).told(0);
    assert!(listed.contains("in force") && listed.contains("7.0.0"), "{listed}");
    let digest = signed["component"].as_str().unwrap();
    assert_eq!(to(&["show", &digest[..20]]).json(0)["signed_version"], 2);
    assert!(to(&["activate", digest, "--expected-epoch", "1"]).told(4).contains("epoch_moved"));
    // What a start put in force is not signed.
    assert!(to(&["activate", &first]).told(4).contains("not_trusted"));
    assert!(to(&["shadow", &first[..16]]).told(0).contains(&first));
    assert!(to(&["report", &first]).told(0).contains("compared since"));
    assert!(to(&["shadow", &first, "--off"]).told(0).contains("nothing"));
    assert!(to(&["activate", "sha256:ffffffffffff"]).told(1).contains("no stored component"));
    assert!(to(&["push", dir.path().to_str().unwrap()]).told(1).contains("policy build"));
}
