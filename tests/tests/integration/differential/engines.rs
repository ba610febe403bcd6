//! Profiles' rules, Cedar, both at once, and the component: one answer.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use policy_core::{EngineMode, Policy, Request};
use portreeve::engine::types::{
    BundleFile, PolicyPrincipal, PolicyRequest, ProfileInfo, Target, TargetKind, TaskTarget, Text, TextFormat,
};
use portreeve::engine::{Cage, Engine, PolicyComponent, default_bundle};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{TestCaseError, TestError};
use serde_json::{Value, json};

use super::{requests, side_by_side};
use crate::harness::cache_dir;
use crate::stateful::{any_seed, number, runner};

/// The host's and the core's types are twins: what one prints, the other reads.
fn convert<A: serde::Serialize, B: serde::de::DeserializeOwned>(from: &A) -> B {
    serde_json::from_value(json!(from)).unwrap()
}

/// What is asked, and who answers.
struct Sides {
    native: Policy,
    component: Arc<PolicyComponent>,
}

/// A profile with what none of the default bundle has: rules of paths and of domains that deny, an operation that is taken
/// away, and less trust than a write takes.
const CLERK: &str = r#"
name = "clerk"
description = "Has every kind of rule."
agent_types = ["claude_code"]
trust = 1
blocked_operations = ["recall"]
grants = ["check_guardrails"]
task_types = ["build"]
[limits]
locks_held = 1
[paths]
allow = ["src/**", "docs/**"]
deny = ["**/deep/**", "docs/credentials.md"]
[[network]]
domain = "raw.githubusercontent.com"
allow = false
"#;

/// The default bundle, and with it the clerk.
fn bundle() -> Vec<BundleFile> {
    let mut files = default_bundle();
    files.push(BundleFile { path: "profiles/clerk.toml".to_owned(), text: CLERK.to_owned() });
    files
}

impl Sides {
    fn open() -> Self {
        let files: Vec<policy_core::BundleFile> = convert(&bundle());
        let engine = Engine::open(&cache_dir(), Cage::default()).unwrap();
        Self { native: Policy::load(&files).unwrap(), component: engine.load_bundle(&bundle(), &|_| ()).unwrap() }
    }

    /// The answer of all, or where they differ.
    fn ask(&self, asked: &PolicyRequest) -> Result<Value, String> {
        let twin: Request = convert(asked);
        let decided = json!(self.component.decide(asked).map_err(|error| format!("{error}: {asked:#?}"))?.decision);
        // The bytes are the same: nothing is left out.
        let native = json!(self.native.decide(&twin));
        let mut found = side_by_side(["native", "component"], [&native, &decided]);
        for (mode, name) in [(EngineMode::Native, "profiles"), (EngineMode::Cedar, "cedar"), (EngineMode::Both, "both")]
        {
            let other = comparable(json!(self.native.decide_with(mode, &twin)));
            let differs = side_by_side([name, "component"], [&other, &comparable(decided.clone())]);
            found = found.or(differs);
        }
        match found {
            None => Ok(decided),
            Some(found) => Err(format!("{}\n{found}", json!(asked))),
        }
    }
}

/// Without what differs by design: which engine said it, and which of its rules.
fn comparable(mut decision: Value) -> Value {
    for field in ["engine", "deciding"] {
        decision.as_object_mut().unwrap().remove(field);
    }
    decision
}

/// What rules tell apart, and what is near it.
const PATHS: [&str; 14] = [
    "src/a.rs",
    "src/deep/er/b.rs",
    ".env",
    ".env.example",
    ".ssh/authorized_keys",
    ".ssh/id_rsa.pub",
    "docs/credentials.md",
    "config/secrets.yaml",
    "api:GET /v1/users",
    "db:migration-slot",
    "db:schema:users",
    "flag:a/b",
    "feature:f-1:plan",
    "",
];
const DOMAINS: [&str; 10] = [
    "github.com",
    "API.GitHub.com.",
    "raw.githubusercontent.com",
    "notgithub.com",
    "github.com.evil.org",
    "127.0.0.1",
    "[::1]",
    "xn--gthub-2ya.com",
    "gïthub.com",
    "a..b",
];
const WORDS: [&str; 40] = [
    "git",
    "push",
    "-f",
    "--force",
    "--force-with-lease",
    "origin",
    "+main",
    ":topic",
    "reset",
    "--hard",
    "clean",
    "-xfd",
    "rm",
    "-rf",
    "-r",
    "/",
    "~",
    "build",
    "sudo",
    "&&",
    ";",
    "|",
    "$(",
    ")",
    "\"",
    "'",
    "DROP",
    "TABLE",
    "users",
    "DELETE",
    "FROM",
    "WHERE",
    "1=1",
    "kubectl",
    "delete",
    "terraform",
    "apply",
    "cargo",
    "publish",
    ".env",
];

fn target(kind: TargetKind) -> BoxedStrategy<Target> {
    let name = prop_oneof![3 => select(&PATHS[..]).prop_map(str::to_owned), 1 => "\\PC{0,24}"];
    let domain = prop_oneof![3 => select(&DOMAINS[..]).prop_map(str::to_owned), 1 => "[a-zA-Z0-9.:\\-]{0,24}"];
    match kind {
        TargetKind::LockKey => name.prop_map(Target::LockKey).boxed(),
        TargetKind::File => name.prop_map(Target::File).boxed(),
        TargetKind::Domain => domain.prop_map(Target::Domain).boxed(),
        TargetKind::Task => {
            let types = select(&["", "build", "review", "evaluate", "Review"][..]);
            let task = (types, 0_u8..12).prop_map(|(task_type, priority)| TaskTarget {
                id: "t".to_owned(),
                task_type: task_type.to_owned(),
                priority,
            });
            task.prop_map(Target::Task).boxed()
        }
        TargetKind::Session => name.prop_map(Target::Session).boxed(),
        TargetKind::Memory => name.prop_map(Target::Memory).boxed(),
        TargetKind::Handoff => name.prop_map(Target::Handoff).boxed(),
        TargetKind::Agent => select(&["agent-1", "agent-2"][..]).prop_map(|id| Target::Agent(id.to_owned())).boxed(),
        TargetKind::Component => name.prop_map(Target::Component).boxed(),
        TargetKind::AuditLog => Just(Target::AuditLog).boxed(),
        TargetKind::Branch => {
            select(&["main", "topic", "release/1"][..]).prop_map(|b| Target::Branch(b.to_owned())).boxed()
        }
        TargetKind::Command => sentence().prop_map(Target::Command).boxed(),
        TargetKind::Tool => name.prop_map(Target::Tool).boxed(),
    }
}

fn sentence() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => proptest::collection::vec(select(&WORDS[..]), 0..9).prop_map(|words| words.join(" ")),
        1 => "[git push\\-f rm/'\"\\\\\n;&|(){}$`+:.*~]{0,60}",
        1 => "\\PC{0,40}",
    ]
}

fn text() -> impl Strategy<Value = Text> {
    let body = prop_oneof![
        3 => sentence().prop_map(|body| (TextFormat::Plain, body)),
        1 => sentence().prop_map(|body| (TextFormat::Json, body)),
        1 => proptest::collection::vec(sentence(), 0..4).prop_map(|all| (TextFormat::Json, json!({"run": all}).to_string())),
    ];
    body.prop_map(|(format, body)| Text { label: "text".to_owned(), format, body })
}

const KINDS: [TargetKind; 13] = [
    TargetKind::LockKey,
    TargetKind::File,
    TargetKind::Domain,
    TargetKind::Task,
    TargetKind::Session,
    TargetKind::Memory,
    TargetKind::Handoff,
    TargetKind::Agent,
    TargetKind::Component,
    TargetKind::AuditLog,
    TargetKind::Branch,
    TargetKind::Command,
    TargetKind::Tool,
];

/// Requests of which most could come from an agent at work.
fn asked(sides: &Sides) -> BoxedStrategy<PolicyRequest> {
    let manifest = sides.component.manifest();
    let profiles: Vec<ProfileInfo> = manifest.profiles.clone();
    let operations: Vec<(String, TargetKind)> =
        manifest.operations.iter().map(|known| (known.name.clone(), known.target)).collect();
    let operation = prop_oneof![
        30 => select(operations.clone()).prop_flat_map(|(name, kind)| target(kind).prop_map(move |t| (name.clone(), t))),
        2 => (select(operations), select(&KINDS[..])).prop_flat_map(|((name, _), kind)| {
            target(kind).prop_map(move |t| (name.clone(), t))
        }),
        1 => ("[a-z_]{0,12}", select(&KINDS[..])).prop_flat_map(|(name, kind)| target(kind).prop_map(move |t| (name.clone(), t))),
    ];
    let profile = (select(profiles), 0_u8..20).prop_map(|(profile, luck)| {
        let own = profile.agent_types.first().map_or("", String::as_str).replace('*', "claude_code");
        let agent_type = if luck == 0 { "stranger".to_owned() } else { own };
        (if luck == 1 { "nobody".to_owned() } else { profile.name }, agent_type)
    });
    let agent_id = prop_oneof![8 => Just("agent-1".to_owned()), 1 => "\\PC{0,12}"];
    let texts = proptest::collection::vec(text(), 0..4);
    (agent_id, profile, 0_u8..20, operation, texts)
        .prop_map(|(agent_id, (profile, agent_type), luck, (operation, target), texts)| PolicyRequest {
            principal: PolicyPrincipal { agent_id, agent_type, profile, suspended: luck == 0 },
            operation,
            target,
            texts,
        })
        .boxed()
}

/// Reasons that have to come up, or the requests would be about too little.
const REASONS: [&str; 18] = [
    "allowed",
    "suspended",
    "wrong_target",
    "unknown_operation",
    "unknown_profile",
    "profile_not_for_agent_type",
    "operation_not_allowed",
    "operation_blocked",
    "trust_below_write",
    "trust_below_admin",
    "trust_below_owner",
    "destructive_operation_blocked",
    "task_type_not_allowed",
    "path_denied",
    "path_not_allowed",
    "domain_denied",
    "domain_not_allowed",
    "invalid_domain",
];

#[test]
fn engines_and_builds_agree_about_random_requests() {
    let (sides, reasons) = (Sides::open(), RefCell::new(BTreeMap::<String, usize>::new()));
    let seed = number("PORTREEVE_SEED").unwrap_or_else(any_seed);
    let cases = requests();
    println!("engines: PORTREEVE_SEED={seed}, {cases} requests");
    let begun = std::time::Instant::now();
    let result = runner(seed, u32::try_from(cases).unwrap()).run(&asked(&sides), |asked| {
        let decided = sides.ask(&asked).map_err(TestCaseError::fail)?;
        *reasons.borrow_mut().entry(decided["reason"].as_str().unwrap().to_owned()).or_default() += 1;
        Ok(())
    });
    if let Err(TestError::Fail(why, _)) = &result {
        panic!("PORTREEVE_SEED={seed}: the smallest request that they disagree about:\n{why}");
    }
    result.unwrap();
    let reasons = reasons.borrow();
    println!("{reasons:#?}");
    let missing: Vec<_> = REASONS.iter().filter(|reason| !reasons.contains_key(**reason)).collect();
    assert!(cases < 10_000 || missing.is_empty(), "{missing:?} never came up: {reasons:#?}");
    let figures = json!({
        "layer": "differential", "name": "engines", "seed": seed, "requests": cases, "reasons": *reasons,
        "seconds": begun.elapsed().as_secs(), "result": "passed",
    });
    tests::figures::write("differential-engines", &figures);
}

#[test]
fn engines_and_builds_agree_about_everything_that_can_be_counted() {
    let sides = Sides::open();
    let manifest = sides.component.manifest();
    let mut count = 0_usize;
    for profile in &manifest.profiles {
        for agent_type in ["claude_code", "codex", "cursor", "evaluator", "operator", "system", "stranger"] {
            for operation in &manifest.operations {
                for target in counted() {
                    for suspended in [false, true] {
                        let principal = PolicyPrincipal {
                            agent_id: "agent-1".to_owned(),
                            agent_type: agent_type.to_owned(),
                            profile: profile.name.clone(),
                            suspended,
                        };
                        let texts = Vec::new();
                        let (operation, target) = (operation.name.clone(), target.clone());
                        sides
                            .ask(&PolicyRequest { principal, operation, target, texts })
                            .unwrap_or_else(|why| panic!("{why}"));
                        count += 1;
                    }
                }
            }
        }
    }
    tests::figures::write(
        "differential-matrix",
        &json!({"layer": "differential", "name": "matrix", "requests": count, "result": "passed"}),
    );
}

/// One target of each kind, and those that rules tell apart.
fn counted() -> Vec<Target> {
    let task =
        |task_type: &str| Target::Task(TaskTarget { id: "t".to_owned(), task_type: task_type.to_owned(), priority: 5 });
    let name = str::to_owned;
    vec![
        Target::LockKey(name("src/a.rs")),
        Target::LockKey(name("db:migration-slot")),
        Target::File(name("src/a.rs")),
        Target::File(name(".ssh/authorized_keys")),
        Target::Domain(name("github.com")),
        Target::Domain(name("example.org")),
        task(""),
        task("review"),
        task("build"),
        Target::Session(name("s")),
        Target::Memory(name("m")),
        Target::Handoff(name("h")),
        Target::Agent(name("agent-1")),
        Target::Agent(name("agent-2")),
        Target::Component(name("sha256:0")),
        Target::AuditLog,
        Target::Branch(name("main")),
        Target::Command(name("cargo test")),
        Target::Command(name("git push -f")),
        Target::Tool(name("shell")),
    ]
}
