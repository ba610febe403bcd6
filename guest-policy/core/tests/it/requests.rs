//! Requests out of bounds, and what allowances carry.

use policy_core::{Effect, EngineMode, Target, TaskTarget, no_policy};

use crate::common::{policy, request};

#[test]
fn identifiers_are_bounded() {
    let long = || "x".repeat(4_097);
    let base = || request("codex", "codex_remote", "recall", Target::Memory("m".into()));
    let mut requests = vec![base(), base(), base(), base(), base()];
    requests[0].principal.agent_id = long();
    requests[1].principal.agent_type = long();
    requests[2].principal.profile = long();
    requests[3].operation = long();
    requests[4].target = Target::Memory(long());
    let task = TaskTarget { id: "t".into(), task_type: long(), priority: 1 };
    requests.push(request("codex", "codex_remote", "get_work", Target::Task(task)));
    for asked in requests {
        assert_eq!(policy().decide(&asked).reason, "request_too_large");
    }
    // A command line is a text.
    let asked = request("codex", "codex_remote", "run_command", Target::Command("x ".repeat(9_000)));
    assert_eq!(policy().decide(&asked).reason, "allowed");
}

#[test]
fn obligations_come_with_allowances_alone() {
    let lock = || Target::LockKey("src/a.rs".into());
    let allowed = policy().decide(&request("codex", "codex_remote", "acquire_lock", lock()));
    assert_eq!(allowed.obligations.max_locks_held, Some(50));
    assert_eq!(allowed.obligations.max_ttl_minutes, Some(120));
    assert_eq!((allowed.trust_level, allowed.engine), (2, EngineMode::Both));
    let denied = policy().decide(&request("codex", "codex_remote", "force_release_lock", lock()));
    assert_eq!(denied.obligations, policy_core::Obligations::default());
    assert_eq!(denied.effect, Effect::Deny);
}

#[test]
fn suspension_goes_first_and_means_no_trust() {
    for (agent_type, operation) in [("grok", "recall"), ("codex", "manage_agents"), ("codex", "recall")] {
        let mut asked = request(agent_type, "codex_local", operation, Target::AuditLog);
        asked.principal.suspended = true;
        let decision = policy().decide(&asked);
        assert_eq!((decision.reason.as_str(), decision.trust_level), ("suspended", 0));
    }
}

#[test]
fn without_a_bundle_everything_is_denied() {
    let asked = request("operator", "admin", "recall", Target::Memory("m".into()));
    let decision = no_policy(&asked);
    assert_eq!((decision.effect, decision.reason.as_str()), (Effect::Deny, "no_policy"));
    assert!(!decision.remedy.is_empty());
}

#[test]
fn profiles_can_rule_over_paths_and_names() {
    let mut files = crate::common::files();
    for file in &mut files {
        if file.path == "profiles/codex_remote.toml" {
            file.text.push_str(
                "\n[paths]\nallow = [\"src/**\"]\ndeny = [\"**/.env*\"]\n\n[[network]]\n\
                 domain = \"gist.github.com\"\nallow = false\n",
            );
        }
    }
    let own = policy_core::Policy::load(&files).unwrap();
    let reason = |operation: &str, target: Target| {
        let asked = request("codex", "codex_remote", operation, target);
        let native = own.decide_with(EngineMode::Native, &asked).reason;
        assert_eq!(own.decide_with(EngineMode::Both, &asked).reason, native);
        native
    };
    assert_eq!(reason("edit_file", Target::File("src/a.rs".into())), "allowed");
    assert_eq!(reason("edit_file", Target::File("src/.env".into())), "path_denied");
    assert_eq!(reason("edit_file", Target::File("docs/a.md".into())), "path_not_allowed");
    assert_eq!(reason("acquire_lock", Target::LockKey("src/../.env".into())), "path_denied");
    assert_eq!(reason("acquire_lock", Target::LockKey("docs/a.md".into())), "path_not_allowed");
    assert_eq!(reason("network_access", Target::Domain("gist.github.com".into())), "domain_denied");
    assert_eq!(reason("network_access", Target::Domain("api.github.com".into())), "allowed");
}

#[test]
fn lists_and_thresholds_of_a_profile() {
    let mut files = crate::common::files();
    for file in &mut files {
        if file.path == "profiles/codex_remote.toml" {
            let lists = "trust = 1\nblocked_operations = [\"recall\"]\ngrants = [\"check_guardrails\"]";
            file.text = file.text.replace("trust = 2", lists);
        }
    }
    let own = policy_core::Policy::load(&files).unwrap();
    for (operation, target, reason, rule) in [
        ("recall", Target::Memory("m".into()), "operation_blocked", "profile:codex_remote"),
        ("remember", Target::Memory("m".into()), "trust_below_write", "native:class_threshold"),
        ("query_audit", Target::AuditLog, "allowed", "native:class_threshold"),
        ("check_guardrails", Target::Command("x".into()), "allowed", "profile:codex_remote"),
        ("force_push", Target::Branch("b".into()), "trust_below_admin", "native:class_threshold"),
    ] {
        let decision = own.decide(&request("codex", "codex_remote", operation, target));
        assert_eq!(decision.reason, reason, "{operation}");
        assert!(decision.deciding.iter().any(|id| id == rule), "{operation}: {:?}", decision.deciding);
    }
}
