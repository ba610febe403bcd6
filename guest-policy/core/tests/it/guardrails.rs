//! Guardrails over whole requests.

use policy_core::{Decision, Effect, Severity, Target, TaskTarget, Text, TextFormat};

use crate::common::{policy, request};

fn submit(profile: &str, texts: &[(&str, TextFormat, String)]) -> Decision {
    let target = Target::Task(TaskTarget { id: "t".into(), task_type: "x".into(), priority: 5 });
    let mut asked = request("codex", profile, "submit_work", target);
    asked.texts = texts
        .iter()
        .map(|(label, format, body)| Text { label: (*label).into(), format: *format, body: body.clone() })
        .collect();
    policy().decide(&asked)
}

fn plain(body: String) -> Decision {
    submit("codex_remote", &[("text", TextFormat::Plain, body)])
}

#[test]
fn texts_are_read_to_their_end() {
    for filler in ["harmless words. ", "x", "don't stop; \"quoted\" \\ text\n", "git push origin main ", "é"] {
        for length in [2_000, 500_000] {
            let mut body = filler.repeat(length / filler.len() + 1);
            assert_eq!(plain(body.clone()).effect, Effect::Allow, "{filler} {length}");
            body.push_str("\ngit push -f");
            let decision = plain(body);
            assert_eq!(decision.reason, "destructive_operation_blocked", "{filler} {length}");
            assert_eq!(decision.detail, "git_force_push");
        }
    }
}

#[test]
fn json_is_read_to_its_end() {
    let words: Vec<String> = (0..50_000).map(|at| format!("word{at}")).collect();
    for last in [r#"{"do":["git","push","--force"]}"#, r#""git push\u0020-f""#, r#"{"git push -f":1}"#] {
        let body = format!("[{},{last}]", serde_json::to_string(&words).unwrap());
        let decision = submit("codex_remote", &[("json", TextFormat::Json, body)]);
        assert_eq!(decision.detail, "git_force_push", "{last}");
    }
}

#[test]
fn every_text_counts() {
    let harmless = || ("a", TextFormat::Plain, "fine".to_owned());
    let mut texts: Vec<_> = (0..511).map(|_| harmless()).collect();
    texts.push(("last", TextFormat::Plain, "rm -rf /".to_owned()));
    let decision = submit("codex_remote", &texts);
    assert_eq!(decision.detail, "rm_recursive_force, rm_rf");
    assert_eq!(decision.violations[0].label, "last");
    texts.push(harmless());
    assert_eq!(submit("codex_remote", &texts).reason, "request_too_large");
}

#[test]
fn trust_passes_and_is_recorded() {
    let decision = submit("codex_local", &[("text", TextFormat::Plain, "git push -f".into())]);
    assert_eq!(decision.effect, Effect::Allow);
    let violation = &decision.violations[0];
    assert!(violation.passed_by_trust && !violation.blocked);
    assert_eq!((violation.severity, violation.min_trust), (Severity::Block, 3));
}

#[test]
fn asking_the_guardrails_tells_what_would_happen() {
    let mut asked = request("claude_code", "claude_code_reviewer", "check_guardrails", Target::Command(String::new()));
    asked.texts = vec![Text { label: "operation_text".into(), format: TextFormat::Plain, body: "git push -f".into() }];
    let decision = policy().decide(&asked);
    assert_eq!(decision.effect, Effect::Allow);
    assert!(decision.violations[0].blocked && !decision.violations[0].remedy.is_empty());
}

#[test]
fn matches_are_quoted_within_bounds() {
    let decision = plain(format!("git push {} -f", "größe ".repeat(1_000)));
    let violation = &decision.violations[0];
    assert_eq!(violation.matched_text.chars().count(), 200);
    assert!(violation.matched_text.starts_with("git push größe"));
}

#[test]
fn violations_are_bounded_and_what_blocks_is_found() {
    let mut texts: Vec<(String, String)> = (0..200).map(|at| (format!("l{at}"), "cat .env".to_owned())).collect();
    texts.push(("end".into(), "git push -f".into()));
    let texts: Vec<_> = texts.iter().map(|(label, body)| (label.as_str(), TextFormat::Plain, body.clone())).collect();
    let decision = submit("codex_remote", &texts);
    assert_eq!(decision.detail, "git_force_push");
    assert!(decision.violations.len() <= 65);
    assert!(decision.violations.iter().any(|violation| violation.blocked));
}

#[test]
fn texts_too_large_are_refused() {
    assert_eq!(plain("x".repeat((4 << 20) + 1)).reason, "request_too_large");
    assert_eq!(plain("x".repeat(4 << 20)).reason, "allowed");
    let deep = "[".repeat(65);
    let decision = submit("codex_remote", &[("json", TextFormat::Json, deep)]);
    assert_eq!(decision.reason, "request_too_complex");
}
