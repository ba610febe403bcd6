//! A release freeze, as a policy component of one's own.
//!
//! Everybody who is not suspended may look. Changes are for operators, and for the agents that are named below: those take
//! locks on what the release still needs, and say what they do. Everything else is denied, with a reason and a way out.
//!
//! A component imports nothing, so there is no clock and no file here: what the freeze is about is in the code, and another
//! freeze is another component, with another digest in the audit log.

mod operations;

use exports::portreeve::policy::decider::{
    BundleFile, Decision, Effect, EngineMode, Guest, Manifest, Obligations, OperationClass, OperationInfo, Principal,
    Problem, ProfileInfo, Request, Target, TargetKind, TestFailure, TestReport,
};
use operations::OPERATIONS;

wit_bindgen::generate!({ path: "../../../wit", world: "policy" });

/// Agents that may still change something.
const RELEASERS: [&str; 2] = ["release-1", "release-2"];
/// Where they may: keys of locks, by how they begin.
const OPEN: [&str; 2] = ["docs/", "CHANGELOG.md"];
/// What they may do, beside reading.
const RELEASE_WORK: [&str; 5] = ["acquire_lock", "release_lock", "register_session", "heartbeat", "write_handoff"];
/// What the service does by itself.
const SYSTEM_WORK: [&str; 4] = ["expire_leases", "upload_component", "activate_component", "manage_agents"];
/// Profiles of the default policy that agents have: all of them look. Who has another one is denied.
const AGENTS: [&str; 10] = [
    "antigravity_local",
    "claude_code_local",
    "claude_code_remote",
    "claude_code_reviewer",
    "codex_local",
    "codex_remote",
    "cursor_local",
    "evaluator",
    "grok_local",
    "pi_local",
];

/// The trust of a profile; none for one that is not known.
fn trust(profile: &str) -> Option<u8> {
    match profile {
        "admin" | "system" => Some(4),
        _ => AGENTS.contains(&profile).then_some(2),
    }
}

/// Why not: the reason code, which is also the rule's name, the reason in words, and a way out.
type Denial = (&'static str, String, String);

/// The rules, in order. The answer is the name of the rule that allows, or of the one that denies.
fn rule(request: &Request) -> Result<&'static str, Denial> {
    let Request { principal: who, operation, target, .. } = request;
    let name = operation.as_str();
    let lift = || "ask an operator to lift the freeze: they activate another policy".to_owned();
    let Some((_, class, kind, _)) = OPERATIONS.iter().find(|(known, ..)| *known == name) else {
        let detail = format!("the freeze knows no operation `{name}`");
        return Err((
            "unknown_operation",
            detail,
            "name an operation that `portreeve policy describe` lists".to_owned(),
        ));
    };
    if kind_of(target) != *kind {
        let detail = format!("`{name}` does not act on that kind of thing");
        return Err(("wrong_target", detail, "ask about what the operation acts on".to_owned()));
    }
    if who.suspended {
        let detail = format!("`{}` is suspended", who.agent_id);
        return Err(("suspended", detail, "ask an operator to let the agent work again".to_owned()));
    }
    if trust(&who.profile).is_none() {
        let detail = format!("the freeze knows no profile `{}`", who.profile);
        return Err(("unknown_profile", detail, "ask an operator for a profile that it knows".to_owned()));
    }
    match who.profile.as_str() {
        "admin" => return Ok("operator"),
        "system" if SYSTEM_WORK.contains(&name) => return Ok("system_work"),
        _ if *class == OperationClass::Read => return Ok("reading"),
        _ => {}
    }
    if !RELEASERS.contains(&who.agent_id.as_str()) {
        let detail =
            format!("the repository is frozen: `{}` may look, and is not named to work on the release", who.agent_id);
        return Err(("frozen", detail, format!("leave it to {}, or {}", RELEASERS.join(" and "), lift())));
    }
    if !RELEASE_WORK.contains(&name) {
        let detail = format!("the repository is frozen: `{name}` is no work on the release");
        return Err(("frozen_operation", detail, lift()));
    }
    match target {
        Target::LockKey(key) if !is_open(key) => {
            let detail = format!("the repository is frozen: `{key}` is no part of what the release still needs");
            Err(("frozen_path", detail, format!("change {} only, or {}", OPEN.join(" or "), lift())))
        }
        _ => Ok("release_work"),
    }
}

/// A key below an open folder, or an open file. The service hands over keys in one spelling, without `..`.
fn is_open(key: &str) -> bool {
    OPEN.iter().any(|open| key == *open || (open.ends_with('/') && key.starts_with(open)))
}

fn kind_of(target: &Target) -> TargetKind {
    match target {
        Target::LockKey(_) => TargetKind::LockKey,
        Target::File(_) => TargetKind::File,
        Target::Domain(_) => TargetKind::Domain,
        Target::Task(_) => TargetKind::Task,
        Target::Session(_) => TargetKind::Session,
        Target::Memory(_) => TargetKind::Memory,
        Target::Handoff(_) => TargetKind::Handoff,
        Target::Agent(_) => TargetKind::Agent,
        Target::Component(_) => TargetKind::Component,
        Target::AuditLog => TargetKind::AuditLog,
        Target::Branch(_) => TargetKind::Branch,
        Target::Command(_) => TargetKind::Command,
        Target::Tool(_) => TargetKind::Tool,
    }
}

/// The store enforces these inside the transaction of the change.
const LIMITS: Obligations = Obligations {
    max_ttl_minutes: Some(60),
    max_locks_held: Some(10),
    max_open_tasks: None,
    max_calls_per_minute: None,
};

fn decide(request: &Request) -> Decision {
    let (effect, (reason, detail, remedy), rule) = match rule(request) {
        Ok(rule) => (Effect::Allow, ("allowed", format!("allowed by `{rule}`"), String::new()), rule),
        Err(denial) => (Effect::Deny, denial.clone(), denial.0),
    };
    Decision {
        effect,
        reason: reason.to_owned(),
        detail,
        remedy,
        // There is no Cedar here: the rules are native ones.
        engine: EngineMode::Native,
        trust_level: if request.principal.suspended { 0 } else { trust(&request.principal.profile).unwrap_or(0) },
        deciding: vec![format!("freeze.{rule}")],
        diagnostics: Vec::new(),
        violations: Vec::new(),
        obligations: LIMITS,
        network_rule: None,
    }
}

/// What the freeze promises: who, suspended or not, does what to what, and what comes of it.
const CASES: [(&str, &str, bool, &str, &str, &str); 11] = [
    ("somebody", "codex_remote", false, "check_locks", "src/a.rs", "allowed"),
    ("somebody", "codex_remote", false, "acquire_lock", "docs/a.md", "frozen"),
    ("release-1", "codex_remote", false, "acquire_lock", "docs/a.md", "allowed"),
    ("release-1", "codex_remote", false, "acquire_lock", "CHANGELOG.md", "allowed"),
    ("release-1", "codex_remote", false, "acquire_lock", "CHANGELOG.md.orig", "frozen_path"),
    ("release-1", "codex_remote", false, "acquire_lock", "docs", "frozen_path"),
    ("release-1", "codex_remote", false, "force_release_lock", "docs/a.md", "frozen_operation"),
    ("release-1", "codex_remote", true, "check_locks", "docs/a.md", "suspended"),
    ("release-1", "suspended", false, "check_locks", "docs/a.md", "unknown_profile"),
    ("boss", "admin", false, "force_release_lock", "src/a.rs", "allowed"),
    ("boss", "admin", false, "no_such_thing", "src/a.rs", "unknown_operation"),
];

fn request(agent: &str, profile: &str, suspended: bool, operation: &str, key: &str) -> Request {
    let (agent_id, profile) = (agent.to_owned(), profile.to_owned());
    let principal = Principal { agent_id, agent_type: "codex".to_owned(), profile, suspended };
    Request { principal, operation: operation.to_owned(), target: Target::LockKey(key.to_owned()), texts: Vec::new() }
}

fn run_tests() -> TestReport {
    let mut report = TestReport { passed: 0, failures: Vec::new() };
    for (agent, profile, suspended, operation, key, expected) in CASES {
        let Decision { reason: actual, effect, remedy, .. } =
            decide(&request(agent, profile, suspended, operation, key));
        // A denial without a way out is no answer.
        if actual == expected && (effect == Effect::Allow) == remedy.is_empty() {
            report.passed += 1;
        } else {
            let name = format!("{agent} {operation} {key}");
            report.failures.push(TestFailure { name, expected: expected.to_owned(), actual });
        }
    }
    report
}

fn profile(name: &str) -> ProfileInfo {
    let (description, allowed, agent_types): (_, &[&str], &[&str]) = match name {
        "admin" => ("An operator: everything. Lifts the freeze by activating another component.", &[], &["operator"]),
        "system" => ("The coordinator's own background work.", &SYSTEM_WORK, &["system"]),
        _ => ("Looks; works on the release where the agent is named.", &[], &["*"]),
    };
    let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    ProfileInfo {
        name: name.to_owned(),
        description: description.to_owned(),
        agent_types: owned(agent_types),
        trust_level: trust(name).unwrap_or(0),
        allowed_operations: owned(allowed),
        blocked_operations: Vec::new(),
        grants: Vec::new(),
        task_types: Vec::new(),
        paths_allow: Vec::new(),
        paths_deny: Vec::new(),
        limits: LIMITS,
    }
}

struct Freeze;

impl Guest for Freeze {
    /// The rules are the code: there is no text to load.
    fn load(_: Vec<BundleFile>) -> Result<Manifest, Vec<Problem>> {
        Err(vec![problem("this component carries its rules in code, and loads no bundle")])
    }

    fn ready() {}

    fn describe() -> Result<Manifest, String> {
        let operations = OPERATIONS.iter().map(|&(name, class, target, description)| OperationInfo {
            name: name.to_owned(),
            class,
            target,
            description: description.to_owned(),
        });
        Ok(Manifest {
            name: env!("CARGO_PKG_NAME").to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            // The digest of no files: what decides here is in the component's own digest.
            bundle_digest: "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855".to_owned(),
            engine: EngineMode::Native,
            operations: operations.collect(),
            profiles: ["admin", "system"].into_iter().chain(AGENTS).map(profile).collect(),
            patterns: Vec::new(),
            policies: Vec::new(),
            network_rules: Vec::new(),
            test_cases: u32::try_from(CASES.len()).unwrap_or(u32::MAX),
        })
    }

    fn decide(request: Request) -> Decision {
        decide(&request)
    }

    fn validate(_: String) -> Vec<Problem> {
        vec![problem("this component has no Cedar policies, so no text of one is valid here")]
    }

    fn run_tests() -> TestReport {
        run_tests()
    }
}

fn problem(message: &str) -> Problem {
    Problem { file: String::new(), line: None, column: None, message: message.to_owned(), help: None }
}

export!(Freeze);
