//! A policy component of somebody's own making: built as its README says, and seen to decide.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use portreeve::engine::types::{Effect, PolicyPrincipal, PolicyRequest, Target};
use portreeve::engine::{Cage, Engine, PolicyComponent, default_bundle, digest_of, read_bundle};
use serde_json::json;
use tests::hostile;

use crate::harness::cli::cli;
use crate::harness::{Server, cache_dir};

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("policies/examples/freeze")
}

/// The core module, by the one command of the README. Built where tests build, once.
fn module() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("examples");
    let mut cargo = Command::new(env!("CARGO"));
    // What cargo told this test, and what is meant for the host's build, is not the example's.
    let foreign = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BUILD_", "CARGO_PROFILE_", "RUSTFLAGS"];
    for (name, _) in std::env::vars().filter(|(name, _)| foreign.iter().any(|part| name.starts_with(part))) {
        cargo.env_remove(name);
    }
    cargo.current_dir(example()).args(["build", "--release", "--locked", "--target-dir"]).arg(&target);
    let output = cargo.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    target.join("wasm32-unknown-unknown/release/freeze.wasm")
}

fn decide(component: &PolicyComponent, agent_id: &str, operation: &str, target: Target) -> (Effect, String) {
    let (agent_type, profile) = ("codex".to_owned(), "codex_remote".to_owned());
    let principal = PolicyPrincipal { agent_id: agent_id.to_owned(), agent_type, profile, suspended: false };
    let request = PolicyRequest { principal, operation: operation.to_owned(), target, texts: Vec::new() };
    let decision = component.decide(&request).unwrap().decision;
    // A denial says why, and what to do.
    let is_denied = decision.effect == Effect::Deny;
    assert_eq!(is_denied, !decision.remedy.is_empty(), "{decision:?}");
    assert!(!decision.detail.is_empty() && !decision.deciding.is_empty(), "{decision:?}");
    (decision.effect, decision.reason)
}

#[test]
fn a_policy_of_somebodys_own_making_is_built_and_decides() {
    let (module, dir) = (module(), tempfile::tempdir().unwrap());
    let file = dir.path().join("freeze.policy.wasm");
    let built = cli(["policy", "build"]).arg(&module).arg("-o").arg(&file).json(0);
    let bytes = fs::read(&file).unwrap();
    assert_eq!(built["component"], json!(digest_of(&bytes)));
    let described = cli(["policy", "describe"]).arg(&file).json(0);
    assert_eq!((&described["manifest"], &described["files"]), (&built["manifest"], &json!(null)));

    let ran = cli(["policy", "test"]).arg(&file).json(0);
    assert_eq!((&ran["own_passed"], &ran["own_failures"]), (&described["manifest"]["test_cases"], &json!([])));
    assert!(ran["own_passed"].as_u64().unwrap() > 0);
    let said = cli(["policy", "test"]).arg(&file).told(0);
    assert!(said.contains("cases as promised, all run by the component itself"), "{said}");
    assert!(cli(["policy", "test", "--min-coverage", "1"]).arg(&file).told(1).contains("carries no text"));

    let engine = Engine::open(&cache_dir(), Cage::default()).unwrap();
    let freeze = engine.load_component(bytes, &|_| ()).unwrap();
    let key = |key: &str| Target::LockKey(key.to_owned());
    let denied = |reason: &str| (Effect::Deny, reason.to_owned());
    let allowed = (Effect::Allow, "allowed".to_owned());
    assert_eq!(decide(&freeze, "somebody", "check_locks", key("src/a.rs")), allowed);
    assert_eq!(decide(&freeze, "somebody", "acquire_lock", key("docs/a.md")), denied("frozen"));
    assert_eq!(decide(&freeze, "release-1", "acquire_lock", key("docs/a.md")), allowed);
    assert_eq!(decide(&freeze, "release-1", "acquire_lock", key("src/a.rs")), denied("frozen_path"));
    assert_eq!(decide(&freeze, "release-1", "submit_work", key("docs/a.md")), denied("wrong_target"));
    assert!(!freeze.validate("permit (principal, action, resource);").unwrap().is_empty());

    // It knows what the service asks about, and says of it what the default policy says.
    let default = engine.load_bundle(&default_bundle(), &|_| ()).unwrap();
    let sorted = |component: &PolicyComponent| {
        let mut operations = component.manifest().operations.clone();
        operations.sort_by(|a, b| a.name.cmp(&b.name));
        operations
    };
    assert_eq!(sorted(&freeze), sorted(&default));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_of_somebodys_own_making_is_put_in_force_and_taken_out_again() {
    let (module, dir) = (module(), tempfile::tempdir().unwrap());
    let file = dir.path().join("freeze.policy.wasm");
    cli(["policy", "build"]).arg(&module).arg("-o").arg(&file).json(0);
    let server = Server::start().await;
    let default = server.app().gate().policy().active().component.digest().to_owned();
    let worker = server.agent("worker", "claude_code_remote").await;
    let releaser = server.agent("release-1", "claude_code_remote").await;
    let told = cli(["policy", "push"]).arg(&file).arg("--activate").to(&server.admin).told(0);
    assert!(told.contains("in force as epoch 2"), "{told}");

    let take = |path: &str| json!({"file_path": path, "reason": "notes"});
    worker.post("/locks/acquire", take("docs/notes.md")).await.denied("frozen");
    releaser.post("/locks/acquire", take("src/main.rs")).await.denied("frozen_path");
    releaser.post("/locks/acquire", take("docs/notes.md")).await.done();
    worker.get("/locks/status/docs%2Fnotes.md").await.ok();
    // Over a restart as well, and the way back is open.
    let server = server.restart().await;
    server.again(&worker).post("/locks/acquire", take("docs/notes.md")).await.denied("frozen");
    cli(["policy", "activate"]).arg(&default).to(&server.admin).told(0);
    server.again(&worker).post("/locks/acquire", take("src/main.rs")).await.done();
}

#[test]
fn a_module_that_is_no_policy_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (dir.path().join("other.wasm"), dir.path().join("out.wasm"));
    fs::write(&file, hostile::core_module()).unwrap();
    let said = cli(["policy", "build"]).arg(&file).arg("-o").arg(&out).told(1);
    assert!(said.contains("wit/policy.wit") && !out.exists(), "{said}");
}

#[test]
fn examples_are_no_part_of_a_bundle() {
    let folder = example().ancestors().nth(2).unwrap().to_owned();
    assert!(folder.join("examples/freeze/Cargo.toml").is_file());
    assert_eq!(read_bundle(&folder).unwrap(), default_bundle());
    assert!(default_bundle().iter().all(|file| !file.path.starts_with("examples")));
}
