//! EQUIV: both engines answer alike, over the whole matrix and over noise.

use policy_core::{Decision, Effect, EngineMode, Request, Target, TargetKind, TaskTarget, Text, TextFormat, reason};
use proptest::prelude::*;

use crate::common::{policy, request};

/// Targets of every kind, each in the variants that rules tell apart.
fn targets() -> Vec<Target> {
    let task = |task_type: &str| Target::Task(TaskTarget { id: "t".into(), task_type: task_type.into(), priority: 5 });
    vec![
        Target::LockKey("src/a.rs".into()),
        Target::LockKey("api:GET /v1/users".into()),
        Target::File("src/a.rs".into()),
        Target::File(".ssh/authorized_keys".into()),
        Target::Domain("github.com".into()),
        Target::Domain("example.org".into()),
        Target::Domain("a:1".into()),
        task(""),
        task("review"),
        task("refactor"),
        Target::Session("s".into()),
        Target::Memory("m".into()),
        Target::Handoff("h".into()),
        Target::Agent("agent-1".into()),
        Target::Agent("agent-2".into()),
        Target::Component("sha256:0".into()),
        Target::AuditLog,
        Target::Branch("main".into()),
        Target::Command("cargo test".into()),
        Target::Command("git push -f".into()),
        Target::Tool("shell".into()),
    ]
}

/// The same answer from both engines, and from both at once.
fn assert_equal(request: &Request) -> Decision {
    let native = policy().decide_with(EngineMode::Native, request);
    let cedar = policy().decide_with(EngineMode::Cedar, request);
    let both = policy().decide_with(EngineMode::Both, request);
    for other in [&cedar, &both] {
        let comparable = Decision { engine: native.engine, deciding: native.deciding.clone(), ..other.clone() };
        assert_eq!(comparable, native, "{request:?}");
    }
    if native.effect == Effect::Deny {
        assert!(!native.remedy.is_empty(), "no remedy: {request:?}");
        let code = reason::Reason::from_code(&native.reason);
        assert!(code.is_some(), "unknown code {}", native.reason);
    }
    assert!(both.deciding.is_sorted() && !both.deciding.is_empty(), "{:?}", both.deciding);
    both
}

#[test]
fn the_whole_matrix() {
    let manifest = policy().manifest();
    let mut seen = std::collections::BTreeSet::new();
    for profile in &manifest.profiles {
        for agent_type in ["claude_code", "codex", "operator", "evaluator", "system", "stranger"] {
            for operation in &manifest.operations {
                for target in targets() {
                    for suspended in [false, true] {
                        let mut asked = request(agent_type, &profile.name, &operation.name, target.clone());
                        asked.principal.suspended = suspended;
                        seen.insert(assert_equal(&asked).reason);
                    }
                }
            }
        }
    }
    for code in [
        "allowed",
        "suspended",
        "wrong_target",
        "trust_below_owner",
        "invalid_domain",
        "task_type_not_allowed",
        "destructive_operation_blocked",
        "operation_not_allowed",
    ] {
        assert!(seen.contains(code), "{code} never came up: {seen:?}");
    }
}

#[test]
fn every_kind_of_target_has_an_operation() {
    for kind in TargetKind::ALL {
        let operations = &policy().manifest().operations;
        assert!(operations.iter().any(|operation| operation.target == kind), "{kind:?}");
        assert!(targets().iter().any(|target| target.kind() == kind), "{kind:?}");
    }
}

#[test]
fn answers_do_not_depend_on_what_was_asked_before() {
    let asked = request("codex", "codex_remote", "run_command", Target::Command("rm -rf /".into()));
    let first = policy().decide(&asked);
    policy().warm();
    assert_eq!(policy().decide(&asked), first);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn noise_is_judged_alike(
        agent_id in "\\PC{0,12}",
        profile in 0_usize..12,
        operation in 0_usize..31,
        id in "\\PC{0,40}",
        body in "[git push\\-f rm/'\"\\\\\n;&|(){}$`+:.*~]{0,120}",
        json: bool,
    ) {
        let manifest = policy().manifest();
        let profile = &manifest.profiles[profile % manifest.profiles.len()];
        let operation = &manifest.operations[operation % manifest.operations.len()];
        let target = match operation.target {
            TargetKind::LockKey => Target::LockKey(id),
            TargetKind::File => Target::File(id),
            TargetKind::Domain => Target::Domain(id),
            TargetKind::Task => Target::Task(TaskTarget { id: id.clone(), task_type: id, priority: 0 }),
            TargetKind::Session => Target::Session(id),
            TargetKind::Memory => Target::Memory(id),
            TargetKind::Handoff => Target::Handoff(id),
            TargetKind::Agent => Target::Agent(id),
            TargetKind::Component => Target::Component(id),
            TargetKind::AuditLog => Target::AuditLog,
            TargetKind::Branch => Target::Branch(id),
            TargetKind::Command => Target::Command(id),
            TargetKind::Tool => Target::Tool(id),
        };
        let agent_type = profile.agent_types.first().unwrap().clone();
        let mut asked = request(&agent_type, &profile.name, &operation.name, target);
        asked.principal.agent_id = agent_id;
        let format = if json { TextFormat::Json } else { TextFormat::Plain };
        asked.texts.push(Text { label: "noise".into(), format, body });
        assert_equal(&asked);
    }

    #[test]
    fn any_text_is_read_without_panic(body in "\\PC{0,200}", cedar in "[a-z(){}\\[\\]!.\"&|;@ ]{0,120}") {
        let mut asked = request("codex", "codex_remote", "submit_work", targets()[9].clone());
        for format in [TextFormat::Plain, TextFormat::Json] {
            asked.texts.push(Text { label: "noise".into(), format, body: body.clone() });
        }
        let _ = policy().decide(&asked);
        let _ = policy().validate(&cedar);
        let _ = policy().validate(&body);
    }
}
