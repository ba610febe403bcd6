//! Texts that guardrails read.

use std::collections::BTreeSet;

use policy_core::{Principal, Request, Target, Text, TextFormat};
use serde_json::json;

use super::Outcome;
use super::decision::{POLICY, check};

/// A text: what is found in it does not depend on how it came or on what stands around it, and more trust is stopped by less.
pub fn guardrail_text(data: &[u8]) -> Outcome {
    let Ok(text) = std::str::from_utf8(data) else { return Outcome::Refused };
    let found = found("codex_remote", TextFormat::Plain, text);
    assert_eq!(self::found("codex_remote", TextFormat::Plain, text), found);
    // In JSON it is the same text.
    for body in [json!(text), json!([text]), json!({"a": {"b": text}})] {
        let inside = self::found("codex_remote", TextFormat::Json, &body.to_string());
        assert!(found.all.is_subset(&inside.all), "{body}: {inside:?} instead of {found:?}");
    }
    // Harmless commands before and after it hide nothing. SQL runs over lines, so what is after it begins with its end.
    for around in [format!("true\n{text}"), format!("{text}\n;\ntrue\n")] {
        let among = self::found("codex_remote", TextFormat::Plain, &around);
        assert!(found.all.is_subset(&among.all), "{around:?}: {among:?} instead of {found:?}");
    }
    let trusted = self::found("codex_local", TextFormat::Plain, text);
    assert_eq!(trusted.all, found.all);
    assert!(trusted.blocking.is_subset(&found.blocking), "{trusted:?} with more trust than {found:?}");
    Outcome::accepted_if(found.blocking.is_empty())
}

#[derive(Debug, PartialEq, Eq)]
struct Found {
    all: BTreeSet<String>,
    blocking: BTreeSet<String>,
}

fn found(profile: &str, format: TextFormat, body: &str) -> Found {
    let principal = Principal {
        agent_id: "agent-1".to_owned(),
        agent_type: "codex".to_owned(),
        profile: profile.to_owned(),
        suspended: false,
    };
    let text = Text { label: "text".to_owned(), format, body: body.to_owned() };
    let operation = "check_guardrails".to_owned();
    let request = Request { principal, operation, target: Target::Command(String::new()), texts: vec![text] };
    let decision = POLICY.decide(&request);
    check(&decision, &request);
    let names = |blocked: bool| {
        let violations = decision.violations.iter().filter(|violation| !blocked || violation.blocked);
        violations.map(|violation| violation.pattern_name.clone()).collect()
    };
    Found { all: names(false), blocking: names(true) }
}
