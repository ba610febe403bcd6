//! The default bundle as a picture: who may do what to what, and why not.
//!
//! EQUIV: native rules, Cedar, both, and the component say the same.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, LazyLock};

use policy_core::{EngineMode, Policy, Request};
use portreeve::engine::types::{
    Decision, Effect, PolicyPrincipal, PolicyRequest, ProfileInfo, Target, TargetKind, TaskTarget, Text, TextFormat,
};
use portreeve::engine::{Cage, Engine, PolicyComponent, default_bundle};
use serde_json::{Value, json};

use crate::harness::{Server, cache_dir};

static COMPONENT: LazyLock<Arc<PolicyComponent>> = LazyLock::new(|| {
    let engine = Engine::open(&cache_dir(), Cage::default()).unwrap();
    engine.load_bundle(&default_bundle(), &|_| ()).unwrap()
});

static NATIVE: LazyLock<Policy> = LazyLock::new(|| {
    let files: Vec<policy_core::BundleFile> = convert(&default_bundle());
    Policy::load(&files).unwrap()
});

/// The host's and the core's types are twins: what one prints, the other reads.
fn convert<A: serde::Serialize, B: serde::de::DeserializeOwned>(from: &A) -> B {
    serde_json::from_value(json!(from)).unwrap()
}

/// Resources of a kind, in the variants that rules of the bundle tell apart.
fn resources(kind: TargetKind) -> Vec<Target> {
    let task = |task_type: &str| {
        Target::Task(TaskTarget { id: "task-1".to_owned(), task_type: task_type.to_owned(), priority: 5 })
    };
    let name = str::to_owned;
    match kind {
        TargetKind::LockKey => vec![Target::LockKey(name("src/a.rs")), Target::LockKey(name("db:migration-slot"))],
        TargetKind::File => vec![Target::File(name("src/a.rs")), Target::File(name(".ssh/authorized_keys"))],
        TargetKind::Domain => {
            ["github.com", "API.github.com.", "example.org", "127.0.0.1"].map(|d| Target::Domain(name(d))).into()
        }
        TargetKind::Task => vec![task(""), task("build"), task("review")],
        TargetKind::Session => vec![Target::Session(name("s"))],
        TargetKind::Memory => vec![Target::Memory(name("m"))],
        TargetKind::Handoff => vec![Target::Handoff(name("h"))],
        TargetKind::Agent => vec![Target::Agent(name("agent-1"))],
        TargetKind::Component => vec![Target::Component(name("sha256:0"))],
        TargetKind::AuditLog => vec![Target::AuditLog],
        TargetKind::Branch => vec![Target::Branch(name("main"))],
        TargetKind::Command => vec![Target::Command(name("cargo test")), Target::Command(name("git push -f"))],
        TargetKind::Tool => vec![Target::Tool(name("shell"))],
    }
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

fn request(profile: &ProfileInfo, operation: &str, target: Target) -> PolicyRequest {
    let agent_type = profile.agent_types[0].replace('*', "claude_code");
    let principal =
        PolicyPrincipal { agent_id: "agent-1".to_owned(), agent_type, profile: profile.name.clone(), suspended: false };
    PolicyRequest { principal, operation: operation.to_owned(), target, texts: Vec::new() }
}

fn component(request: &PolicyRequest) -> Decision {
    COMPONENT.decide(request).unwrap().decision
}

/// `lock_key src/a.rs`
fn shown(target: &Target) -> String {
    match json!(target) {
        Value::String(kind) => kind,
        Value::Object(map) => map.into_iter().map(|(kind, value)| format!("{kind} {}", name_of(&value))).collect(),
        other => other.to_string(),
    }
}

fn name_of(value: &Value) -> String {
    let name = value.as_str().or(value["task_type"].as_str()).unwrap_or_default();
    if name.is_empty() { "(any)".to_owned() } else { name.to_owned() }
}

/// Lines of one operation on one resource: who may, and who may not for which reason.
fn cell(operation: &str, target: &Target) -> String {
    let mut verdicts: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for profile in &COMPONENT.manifest().profiles {
        let decision = component(&request(profile, operation, target.clone()));
        let verdict = match decision.effect {
            Effect::Allow => "✔".to_owned(),
            Effect::Deny => format!("✘ {}", decision.reason),
        };
        verdicts.entry(verdict).or_default().push(&profile.name);
    }
    let mut text = format!("{operation} · {}\n", shown(target));
    // `✔` sorts before `✘`.
    for (verdict, profiles) in verdicts {
        writeln!(text, "    {verdict}: {}", profiles.join(" ")).unwrap();
    }
    text
}

#[test]
fn matrix_of_the_default_bundle() {
    let mut text = String::new();
    for operation in &COMPONENT.manifest().operations {
        writeln!(text, "── {} ({})", operation.name, name_of(&json!(operation.class))).unwrap();
        for target in resources(operation.target) {
            text.push_str(&cell(&operation.name, &target));
        }
    }
    insta::assert_snapshot!("matrix", text);
}

#[test]
fn an_operation_acts_on_one_kind_of_resource() {
    for operation in &COMPONENT.manifest().operations {
        for kind in KINDS.into_iter().filter(|kind| *kind != operation.target) {
            for profile in &COMPONENT.manifest().profiles {
                let decision = component(&request(profile, &operation.name, resources(kind).remove(0)));
                let expected = if profile.trust_level == 0 { "suspended" } else { "wrong_target" };
                assert_eq!(
                    (decision.effect, decision.reason.as_str()),
                    (Effect::Deny, expected),
                    "{} {kind:?}",
                    operation.name
                );
            }
        }
    }
}

/// Without what differs by design: which engine said it, and which of its rules.
fn comparable<D: serde::Serialize>(decision: &D) -> Value {
    let mut value = json!(decision);
    for field in ["engine", "deciding"] {
        value.as_object_mut().unwrap().remove(field);
    }
    value
}

fn assert_all_say_the_same(asked: &PolicyRequest) -> Decision {
    let twin: Request = convert(asked);
    let decided = component(asked);
    assert_eq!(json!(decided), json!(NATIVE.decide(&twin)), "{asked:?}");
    for mode in [EngineMode::Native, EngineMode::Cedar, EngineMode::Both] {
        assert_eq!(comparable(&NATIVE.decide_with(mode, &twin)), comparable(&decided), "{mode:?} {asked:?}");
    }
    decided
}

#[test]
fn native_cedar_both_and_the_component_say_the_same_over_the_matrix() {
    let mut reasons = std::collections::BTreeSet::new();
    for operation in &COMPONENT.manifest().operations {
        for profile in &COMPONENT.manifest().profiles {
            for target in resources(operation.target) {
                let mut asked = request(profile, &operation.name, target);
                reasons.insert(assert_all_say_the_same(&asked).reason);
                asked.principal.suspended = true;
                reasons.insert(assert_all_say_the_same(&asked).reason);
                asked.principal.suspended = false;
                asked.principal.agent_type = "stranger".to_owned();
                asked.texts = vec![plain("text", "then git push -f")];
                reasons.insert(assert_all_say_the_same(&asked).reason);
            }
        }
    }
    for reason in ["allowed", "suspended", "profile_not_for_agent_type", "trust_below_owner", "operation_not_allowed"] {
        assert!(reasons.contains(reason), "{reason} never came up: {reasons:?}");
    }
}

fn plain(label: &str, body: &str) -> Text {
    Text { label: label.to_owned(), format: TextFormat::Plain, body: body.to_owned() }
}

#[test]
fn the_bundles_own_tables_hold_in_the_component_and_natively() {
    let report = COMPONENT.run_tests().unwrap();
    assert_eq!(report.failures, []);
    assert!(report.passed > 50, "{} cases are too few to mean something", report.passed);
    let native = NATIVE.run_tests();
    assert_eq!((native.failures.len(), native.passed), (0, report.passed));
}

// ----------------------------------------------------------------- nesting

const DEPTHS: [usize; 6] = [10, 60, 200, 1_000, 10_000, 60_000];

/// Runs on a stack as small as a worker thread's may be.
fn on_a_small_stack<T: Send>(run: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        std::thread::Builder::new().stack_size(512 << 10).spawn_scoped(scope, run).unwrap().join().unwrap()
    })
}

#[test]
fn deep_json_in_a_request_is_judged_alike() {
    let profile = COMPONENT.manifest().profiles.iter().find(|info| info.name == "codex_remote").unwrap();
    for depth in DEPTHS {
        for (open, close) in [("[", "]"), ("{\"a\":", "}"), ("[{\"a\":[", "]}]")] {
            let target = Target::Task(TaskTarget { id: "t".to_owned(), task_type: "t".to_owned(), priority: 5 });
            let mut asked = request(profile, "submit_work", target);
            let body = format!("{}\"git push -f\"{}", open.repeat(depth), close.repeat(depth));
            asked.texts = vec![Text { label: "input_data".to_owned(), format: TextFormat::Json, body }];
            let twin: Request = convert(&asked);
            let native = on_a_small_stack(|| NATIVE.decide(&twin));
            assert_eq!(native.effect, policy_core::Effect::Deny, "{depth} of {open}");
            match COMPONENT.decide(&asked) {
                Ok(decided) => assert_eq!(json!(decided.decision), json!(native), "{depth} of {open}"),
                // A trap denies as well.
                Err(error) => assert!(depth > 100, "{depth} of {open}: {error}"),
            }
        }
    }
}

/// Cedar texts that nest or repeat.
fn nested_policies(depth: usize) -> Vec<String> {
    let conditions = [
        format!("{}true{}", "(".repeat(depth), ")".repeat(depth)),
        format!("{}true", "!".repeat(depth)),
        format!("{}1{}.isEmpty()", "[".repeat(depth), "]".repeat(depth)),
        format!("{}1{} == 1", "{a: ".repeat(depth), "}.a".repeat(depth)),
        format!("{}true", "if true then true else ".repeat(depth)),
        format!("{}true", "principal.trust_level > 0 && ".repeat(depth)),
        format!("principal.trust_level{} == 1", ".a".repeat(depth)),
        "(".repeat(depth),
    ];
    let policy = |condition| {
        format!("@id(\"x\") @reason(\"y\") permit (principal is Agent, action, resource) when {{ {condition} }};")
    };
    conditions.into_iter().map(policy).collect()
}

#[test]
fn deep_cedar_text_is_judged_alike() {
    for depth in DEPTHS {
        for text in nested_policies(depth) {
            let native = on_a_small_stack(|| NATIVE.validate(&text));
            let shown: String = text.chars().skip(70).take(40).collect();
            if depth >= 1_000 {
                assert!(!native.is_empty(), "{depth} of `{shown}` is valid");
            }
            if let Ok(problems) = COMPONENT.validate(&text) {
                assert_eq!(json!(problems), json!(native), "{depth} of `{shown}`");
            } else {
                assert!(!native.is_empty(), "{depth} of `{shown}`: the component broke, natively it is valid");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deep_cedar_text_over_the_wire_is_invalid_and_breaks_nothing() {
    let server = Server::start().await;
    let agent = server.agent("a", "codex_remote").await;
    for text in nested_policies(5_000) {
        let reply = agent.post("/policy/validate", json!({"policy_text": text})).await;
        assert!(matches!(reply.status, 200 | 503), "{} {}", reply.status, reply.body);
        assert_ne!(reply.body["valid"], true);
    }
    let fine = "@id(\"x\") @reason(\"y\") permit (principal is Agent, action in Action::\"read\", resource);";
    assert_eq!(agent.post("/policy/validate", json!({"policy_text": fine})).await.ok()["valid"], true);
    let wrong = agent.post("/policy/validate", json!({"policy_text": "permit (principal,\n action)"})).await.ok();
    assert_eq!(wrong["valid"], false);
    assert!(wrong["errors"][0]["message"].is_string() && wrong["errors"][0]["line"].is_number(), "{wrong}");
}
