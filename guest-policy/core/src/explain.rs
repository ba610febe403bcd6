//! Reasons in words: what was refused, and what would be allowed.

use crate::decide::Facts;
use crate::paths::PathOutcome;
use crate::reason::{ALLOWED, Reason};
use crate::request::Request;
use crate::resolve::{MAX_IDENTIFIER_BYTES, MAX_TEXT_BYTES, MAX_TEXTS};

/// Longest quotation of what a caller sent.
const MAX_SHOWN: usize = 120;

/// Detail and remedy of a decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Words {
    pub(crate) detail: String,
    pub(crate) remedy: String,
}

const ASK: &str = "ask whoever keeps the policy bundle to change it";

/// Puts a code into words. Facts are there once operation and profile are known.
pub(crate) fn explain(code: &str, request: &Request, facts: Option<&Facts<'_>>) -> Words {
    let operation = shown(&request.operation);
    let profile = shown(&request.principal.profile);
    if code == ALLOWED {
        let detail = format!("profile `{profile}` may `{operation}`");
        return Words { detail, remedy: String::new() };
    }
    let words = match (Reason::from_code(code), facts) {
        (Some(reason), Some(facts)) => about_facts(reason, request, facts),
        (Some(reason), None) => about_request(reason, request),
        (None, _) => None,
    };
    let (detail, remedy) =
        words.unwrap_or_else(|| (format!("the policies forbid `{operation}` to profile `{profile}`"), ASK.to_owned()));
    Words { detail, remedy }
}

type Pair = Option<(String, String)>;

/// Reasons that hold before operation and profile are known.
fn about_request(reason: Reason, request: &Request) -> Pair {
    let operation = shown(&request.operation);
    let profile = shown(&request.principal.profile);
    Some(match reason {
        Reason::NoPolicy => {
            ("no policy bundle is loaded".into(), "ask an operator to activate a policy component".into())
        }
        Reason::RequestTooLarge => (
            "the request is larger than the policy reads".into(),
            format!(
                "send at most {MAX_TEXTS} texts, {MAX_TEXT_BYTES} bytes of text and identifiers of {MAX_IDENTIFIER_BYTES} bytes"
            ),
        ),
        Reason::RequestTooComplex => {
            ("a JSON text is nested too deeply".into(), "send JSON that is nested at most 64 levels deep".into())
        }
        Reason::UnknownOperation => (
            format!("the bundle has no operation `{operation}`"),
            "ask for an operation that the bundle defines".into(),
        ),
        Reason::UnknownProfile => (
            format!("the bundle has no profile `{profile}`"),
            "ask an operator to give the agent a profile of the bundle".into(),
        ),
        Reason::WrongTarget => (
            format!("`{operation}` does not act on a target of kind `{}`", request.target.kind().name()),
            "give the kind of target that the operation acts on".into(),
        ),
        Reason::Suspended => suspended(request),
        _ => return None,
    })
}

fn suspended(request: &Request) -> (String, String) {
    let agent = shown(&request.principal.agent_id);
    (format!("agent `{agent}` is suspended"), "ask an operator to lift the suspension".into())
}

/// Reasons that the rules give.
fn about_facts(reason: Reason, request: &Request, facts: &Facts<'_>) -> Pair {
    match reason {
        Reason::Suspended => Some(suspended(request)),
        Reason::ProfileNotForAgentType
        | Reason::OperationBlocked
        | Reason::OperationNotAllowed
        | Reason::TaskTypeNotAllowed => about_profile(reason, request, facts),
        Reason::TrustBelowRead | Reason::TrustBelowWrite | Reason::TrustBelowAdmin | Reason::TrustBelowOwner => {
            Some(about_trust(request, facts))
        }
        Reason::PathDenied | Reason::PathNotAllowed => Some(about_path(request, facts)),
        Reason::InvalidDomain | Reason::DomainDenied | Reason::DomainNotAllowed => {
            Some(about_domain(reason, request, facts))
        }
        Reason::DestructiveOperationBlocked => Some(about_guardrails(facts)),
        other => about_engines(other, request),
    }
}

fn about_profile(reason: Reason, request: &Request, facts: &Facts<'_>) -> Pair {
    let (profile, operation) = (&facts.profile.info, &facts.operation.info.name);
    let name = &profile.name;
    Some(match reason {
        Reason::ProfileNotForAgentType => (
            format!("profile `{name}` is not for agent type `{}`", shown(&request.principal.agent_type)),
            "ask an operator to give the agent a profile of its own type".into(),
        ),
        Reason::OperationBlocked => (
            format!("profile `{name}` blocks `{operation}`"),
            "ask an operator for a profile that does not block it".into(),
        ),
        Reason::OperationNotAllowed => (
            format!("profile `{name}` does not allow `{operation}`"),
            format!("profile `{name}` allows {}", profile.allowed_operations.join(", ")),
        ),
        _ => (
            format!("profile `{name}` does not work on tasks of this type"),
            format!("profile `{name}` works on {}", profile.task_types.join(", ")),
        ),
    })
}

fn about_trust(request: &Request, facts: &Facts<'_>) -> (String, String) {
    let operation = &facts.operation.info;
    let (class, needed) = (operation.class.name(), operation.class.min_trust());
    let detail = format!(
        "`{}` of class {class} needs trust {needed}, profile `{}` has {}",
        operation.name,
        shown(&request.principal.profile),
        facts.trust
    );
    (detail, format!("ask an operator for a profile of trust {needed} or more"))
}

fn about_path(request: &Request, facts: &Facts<'_>) -> (String, String) {
    let path = shown(request.target.id());
    let info = &facts.profile.info;
    match &facts.path {
        Some(PathOutcome::Denied(glob)) => (
            format!("`{path}` matches `{glob}`, which profile `{}` denies", info.name),
            "choose a path that the profile does not deny, or ask an operator for another profile".into(),
        ),
        _ => (
            format!("profile `{}` does not allow the path `{path}`", info.name),
            format!("profile `{}` allows {}", info.name, info.paths_allow.join(", ")),
        ),
    }
}

fn about_domain(reason: Reason, request: &Request, facts: &Facts<'_>) -> (String, String) {
    let domain = shown(request.target.id());
    let rule = facts.network.as_ref().and_then(|outcome| outcome.rule()).unwrap_or_default();
    match reason {
        Reason::InvalidDomain => {
            (format!("`{domain}` is not a domain name"), "give a name alone, without scheme, user, port or path".into())
        }
        Reason::DomainDenied => (
            format!("network rule `{rule}` denies `{domain}`"),
            "ask whoever keeps the policy bundle to change the network rule".into(),
        ),
        _ => (
            format!("no network rule allows `{domain}`"),
            "ask whoever keeps the policy bundle to add a network rule for the name".into(),
        ),
    }
}

/// The detail is the patterns' names, which clients show.
fn about_guardrails(facts: &Facts<'_>) -> (String, String) {
    let blocking = facts.blocking();
    let names: Vec<&str> = blocking.iter().map(String::as_str).collect();
    let mut violations = facts.findings.violations.iter();
    let remedy = violations
        .find(|violation| violation.blocked)
        .map_or_else(|| ASK.to_owned(), |violation| violation.remedy.clone());
    (names.join(", "), remedy)
}

fn about_engines(reason: Reason, request: &Request) -> Pair {
    let operation = shown(&request.operation);
    match reason {
        Reason::EnginesDisagree => Some((
            format!("the native and the Cedar engine differ about `{operation}`"),
            "ask whoever keeps the policy bundle to make profiles and policies say the same".into(),
        )),
        Reason::EvaluationError => Some((
            format!("a policy about `{operation}` could not be evaluated"),
            "ask whoever keeps the policy bundle to repair the policy that the diagnostics name".into(),
        )),
        Reason::NoPolicy => Some((format!("no policy permits `{operation}`"), ASK.to_owned())),
        _ => None,
    }
}

/// What a caller sent, cut to a bounded length and to one line.
fn shown(text: &str) -> String {
    text.chars().take(MAX_SHOWN).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
