//! Whether a component is fit to decide for a service at all, whatever its rules are.

use schemars::JsonSchema;
use serde::Serialize;

use crate::app::ADMIN;
use crate::authn::SYSTEM;
use crate::command::action::Action as _;
use crate::command::agents::AgentCreate;
use crate::command::catalogue::CATALOGUE;
use crate::command::components::{ComponentActivate, ComponentUpload};
use crate::command::tasks::TaskExpire;
use crate::engine::types::{Effect, PolicyPrincipal, PolicyRequest, Target, TaskTarget};
use crate::engine::{EngineError, PolicyComponent, digest_of};

/// What a component's tests came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Tested {
    /// Cases of its decision tables and examples of its patterns that it carries; all of them hold.
    pub cases: u64,
    /// Questions of the service's own that it answered as every policy has to.
    pub questions: u64,
}

/// Why a component is not fit to decide.
#[derive(Debug, thiserror::Error)]
pub enum Flaw {
    /// It is no component of our world, or breaks its cage.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// It lacks operations of the service.
    #[error("the policy does not know the operation(s) {0}, which the service needs")]
    Operations(String),
    /// It fails tests that it carries.
    #[error("the component fails {failed} of its own tests; first: {first}")]
    Tests {
        /// How many.
        failed: usize,
        /// Name of the first, with what was expected and what came.
        first: String,
    },
    /// It answers what no policy may answer.
    #[error("the component failed the self-test: {0}")]
    SelfTest(String),
}

impl Flaw {
    /// A stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Engine(error) => error.code(),
            Self::Operations(_) => "operations_missing",
            Self::Tests { .. } => "tests_failed",
            Self::SelfTest(_) => "self_test_failed",
        }
    }

    /// Whether it is this machine's fault, or of its load, and not the component's.
    #[must_use]
    pub const fn is_ours(&self) -> bool {
        matches!(self, Self::Engine(EngineError::Overloaded | EngineError::Unsupported(_) | EngineError::Cache { .. }))
    }
}

/// The service and its policy must speak of the same operations.
///
/// # Errors
/// [`Flaw::Operations`].
pub fn check_operations(component: &PolicyComponent) -> Result<(), Flaw> {
    let known = &component.manifest().operations;
    let mut missing: Vec<&str> = CATALOGUE
        .iter()
        .map(|entry| entry.operation)
        .chain([TaskExpire::OPERATION])
        .filter(|operation| !known.iter().any(|info| info.name == *operation))
        .collect();
    missing.sort_unstable();
    missing.dedup();
    if missing.is_empty() { Ok(()) } else { Err(Flaw::Operations(missing.join(", "))) }
}

/// Tries a component: operations, the questions that every policy answers alike, the tests that it carries. It takes some
/// seconds of one thread. `in_force` is the digest of the component whose place it may take, and which may take its own.
///
/// # Errors
/// [`Flaw`].
pub fn examine(component: &PolicyComponent, in_force: &str) -> Result<Tested, Flaw> {
    let questions = self_test(component, in_force)?;
    check_operations(component)?;
    let report = component.run_tests()?;
    match report.failures.first() {
        None => Ok(Tested { cases: u64::from(report.passed), questions }),
        Some(first) => Err(Flaw::Tests {
            failed: report.failures.len(),
            first: format!("{}: expected {}, got {}", first.name, first.expected, first.actual),
        }),
    }
}

/// A question, and what every policy has to answer.
struct Question {
    what: &'static str,
    request: PolicyRequest,
    allowed: bool,
    /// The fewest calls a minute that whoever asks has to have left; without one no limit is counted.
    calls_min: Option<u32>,
}

/// Calls a minute that the service needs for its own work, which it does each second.
const SYSTEM_CALLS_MIN: u32 = 1_000;
/// Calls a minute that an admin needs to put another policy in force, and to look at what it did.
const ADMIN_CALLS_MIN: u32 = 10;

/// The service's own work goes on under it, an operator can put another in its place, and nobody passes who must not.
fn self_test(component: &PolicyComponent, in_force: &str) -> Result<u64, Flaw> {
    let questions = questions(component.digest(), in_force);
    for Question { what, request, allowed, calls_min } in &questions {
        let (first, second) = (component.decide(request)?.decision, component.decide(request)?.decision);
        if first != second {
            return Err(Flaw::SelfTest(format!("{what}: the same question has two answers")));
        }
        if (first.effect == Effect::Allow) != *allowed {
            let (wanted, got) = if *allowed { ("allow", "deny") } else { ("deny", "allow") };
            let said = format!("{what}: it has to {wanted}, and does {got} ({}: {})", first.reason, first.detail);
            return Err(Flaw::SelfTest(said));
        }
        let calls = first.obligations.max_calls_per_minute;
        if let (Some(least), Some(calls)) = (*calls_min, calls)
            && calls < least
        {
            let who = &request.principal.profile;
            let said =
                format!("{what}: the profile `{who}` may call {calls} times a minute, and needs {least} or no limit");
            return Err(Flaw::SelfTest(said));
        }
    }
    Ok(u64::try_from(questions.len()).unwrap_or(u64::MAX))
}

/// Asked about digests as there are: its own, that of the component in force, and one that nobody has seen. Whoever means to
/// lock everybody out shall at least not tell a question from a request by its look.
fn questions(own: &str, in_force: &str) -> Vec<Question> {
    let principal = |agent_id: &str, agent_type: &str, profile: &str| PolicyPrincipal {
        agent_id: agent_id.to_owned(),
        agent_type: agent_type.to_owned(),
        profile: profile.to_owned(),
        suspended: false,
    };
    let ask = |what, principal: &PolicyPrincipal, operation: &str, target, allowed| Question {
        what,
        request: PolicyRequest {
            principal: principal.clone(),
            operation: operation.to_owned(),
            target,
            texts: Vec::new(),
        },
        allowed,
        calls_min: match principal.profile.as_str() {
            SYSTEM if allowed => Some(SYSTEM_CALLS_MIN),
            ADMIN if allowed => Some(ADMIN_CALLS_MIN),
            _ => None,
        },
    };
    let (system, admin) = (principal(SYSTEM, SYSTEM, SYSTEM), principal(ADMIN, "operator", ADMIN));
    let suspended = PolicyPrincipal { suspended: true, ..admin.clone() };
    let nobody = principal("nobody", "nobody", "no-such-profile");
    let unseen = digest_of(format!("{own} {in_force}").as_bytes());
    let component = || Target::Component(unseen.clone());
    let digests = [own.to_owned(), in_force.to_owned()];
    let task = TaskTarget { id: "t".to_owned(), task_type: "t".to_owned(), priority: 5 };
    let file = || Target::LockKey("src/a.rs".to_owned());
    let ways_back = digests.iter().flat_map(|digest| {
        let target = || Target::Component(digest.clone());
        [
            ask("the service activates a component", &system, ComponentActivate::OPERATION, target(), true),
            ask("the admin activates a component", &admin, ComponentActivate::OPERATION, target(), true),
            ask("the admin stores a component", &admin, ComponentUpload::OPERATION, target(), true),
            ask("a suspended admin activates a component", &suspended, ComponentActivate::OPERATION, target(), false),
        ]
    });
    let mut questions = vec![
        ask("the service ends leases", &system, TaskExpire::OPERATION, Target::Task(task), true),
        ask("the service stores a component", &system, ComponentUpload::OPERATION, component(), true),
        ask("the service activates a component", &system, ComponentActivate::OPERATION, component(), true),
        ask("the service makes an admin", &system, AgentCreate::OPERATION, Target::Agent(ADMIN.to_owned()), true),
        ask("the admin stores a component", &admin, ComponentUpload::OPERATION, component(), true),
        ask("the admin activates a component", &admin, ComponentActivate::OPERATION, component(), true),
        ask("a suspended admin activates a component", &suspended, ComponentActivate::OPERATION, component(), false),
        ask("a suspended agent takes a lock", &suspended, "acquire_lock", file(), false),
        ask("an unknown profile takes a lock", &nobody, "acquire_lock", file(), false),
        ask("an unknown profile activates a component", &nobody, ComponentActivate::OPERATION, component(), false),
        ask("the admin does what no operation is", &admin, "no_such_operation", component(), false),
    ];
    questions.extend(ways_back);
    questions
}
