//! `docs/moving.md`: each change to the policy that it offers is applied here, keeps the bundle's promises, and allows
//! what it says; without it that is denied.

use std::fs;
use std::path::Path;

use policy_core::{BundleFile, Decision, Effect, Policy, Request};
use portreeve::engine::default_bundle;
use serde_json::{Value, json};

fn bundle() -> Vec<BundleFile> {
    serde_json::from_value(json!(default_bundle())).unwrap()
}

/// The changes of the document, in its order: heading and diff.
fn changes() -> Vec<(String, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("docs/moving.md");
    let text = fs::read_to_string(path).unwrap();
    let sections = text.split("\n### ").skip(1);
    let found = sections.map(|section| {
        let (heading, body) = section.split_once('\n').unwrap();
        let (_, diff) = body.split_once("```diff\n").unwrap_or_else(|| panic!("{heading} shows no change"));
        (heading.to_owned(), diff.split_once("\n```").unwrap().0.to_owned())
    });
    found.collect()
}

/// Applies a unified diff; every hunk must fit where its context stands, once.
fn apply(mut files: Vec<BundleFile>, diff: &str) -> Vec<BundleFile> {
    let (mut path, mut old, mut new) = (String::new(), String::new(), String::new());
    for line in diff.lines().chain(["@@"]) {
        let is_head = ["--- ", "+++ ", "@@"].iter().any(|head| line.starts_with(head));
        if is_head && !(old.is_empty() && new.is_empty()) {
            replace(&mut files, &path, &std::mem::take(&mut old), &std::mem::take(&mut new));
        }
        if let Some(file) = line.strip_prefix("+++ b/policies/") {
            file.clone_into(&mut path);
        }
        if is_head {
            continue;
        }
        let (sign, rest) = if line.is_empty() { (" ", "") } else { line.split_at(1) };
        for (text, signs) in [(&mut old, " -"), (&mut new, " +")] {
            if signs.contains(sign) {
                text.push_str(rest);
                text.push('\n');
            }
        }
    }
    files
}

fn replace(files: &mut Vec<BundleFile>, path: &str, old: &str, new: &str) {
    if old.is_empty() {
        assert!(files.iter().all(|file| file.path != path), "{path} is there already");
        files.push(serde_json::from_value(json!({"path": path, "text": new})).unwrap());
        return;
    }
    let file = files.iter_mut().find(|file| file.path == path).unwrap_or_else(|| panic!("there is no {path}"));
    assert_eq!(file.text.matches(old).count(), 1, "{path} does not hold once:\n{old}");
    file.text = file.text.replace(old, new);
}

fn decide(files: &[BundleFile], request: &Value) -> Decision {
    let policy = Policy::load(files).unwrap_or_else(|problems| panic!("{problems:#?}"));
    let report = policy.run_tests();
    assert!(report.failures.is_empty(), "{:#?}", report.failures);
    let request: Request = serde_json::from_value(request.clone()).unwrap();
    policy.decide(&request)
}

fn request(kind: &str, profile: &str, operation: &str, target: Value, text: &str) -> Value {
    let principal = json!({"agent_id": "a", "agent_type": kind, "profile": profile, "suspended": false});
    let texts = if text.is_empty() { json!([]) } else { json!([{"label": "t", "format": "plain", "body": text}]) };
    json!({"principal": principal, "operation": operation, "target": target, "texts": texts})
}

fn task(task_type: &str) -> Value {
    json!({"task": {"id": "t", "task_type": task_type, "priority": 5}})
}

#[test]
fn each_change_that_the_document_offers_does_what_it_says() {
    let lock = || json!({"lock_key": "deploy/prod.yaml"});
    let allowed = |decision: &Decision| decision.effect == Effect::Allow;
    let long_locks = |decision: &Decision| {
        let limits = &decision.obligations;
        (limits.max_ttl_minutes, limits.max_locks_held) == (Some(480), Some(100))
    };
    // What is asked, and what the change makes true of the answer.
    type Says<'a> = (Value, &'a dyn Fn(&Decision) -> bool);
    let said: [Says<'_>; 8] = [
        (request("claude_code", "claude_code_review_worker", "get_work", task("review"), ""), &allowed),
        (request("evaluator", "evaluator", "get_work", task("test"), ""), &allowed),
        (request("codex", "codex_remote", "network_access", json!({"domain": "packages.example.org"}), ""), &allowed),
        (request("codex", "codex_local", "network_access", json!({"domain": "any.example.net"}), ""), &allowed),
        (request("codex", "codex_remote", "submit_work", task("x"), "cargo publish"), &allowed),
        (request("claude_code", "claude_code_remote", "acquire_lock", lock(), ""), &long_locks),
        (request("claude_code", "claude_code_remote", "acquire_lock", lock(), ""), &|decision| {
            decision.reason == "path_denied"
        }),
        (request("codex", "codex_remote_keeper", "force_release_lock", lock(), ""), &allowed),
    ];
    let changes = changes();
    assert_eq!(changes.len(), said.len(), "a change is not tried");
    for (n, ((heading, diff), (request, is_so))) in changes.iter().zip(said).enumerate() {
        assert!(heading.starts_with(&format!("{}. ", n + 1)), "{heading}");
        let before = decide(&bundle(), &request);
        assert!(!is_so(&before), "{heading} changes nothing: {before:#?}");
        let after = decide(&apply(bundle(), diff), &request);
        assert!(is_so(&after), "{heading}: {after:#?}");
    }
    // What such a profile is kept from.
    let keeper = apply(bundle(), &changes[7].1);
    let push = request("codex", "codex_remote_keeper", "force_push", json!({"branch": "main"}), "");
    assert_eq!(decide(&keeper, &push).reason, "operation_blocked");
    let worker = apply(bundle(), &changes[0].1);
    let build = request("claude_code", "claude_code_review_worker", "get_work", task("build"), "");
    assert_eq!(decide(&worker, &build).reason, "task_type_not_allowed");
}
