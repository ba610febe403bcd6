//! Questions to the policy itself.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};

use super::action::{Action, Lookout, Query, Subject};
use super::input::{AGENT_ID, AGENT_TYPE, Field, Input, Kind};
use super::{Listing, json_text, plain};
use crate::authn::Principal;
use crate::engine::PolicyComponent;
use crate::engine::types::{
    Decision, Effect, Obligations, PatternInfo, PolicyPrincipal, PolicyRequest, Problem, Target, TargetKind,
    TaskTarget, Violation,
};
use crate::error::{Error, Result};
use crate::gate::Permit;

/// What policy is asked about `who`: the facts come from the store, never from the request.
#[must_use]
pub fn policy_principal(who: &Principal) -> PolicyPrincipal {
    PolicyPrincipal {
        agent_id: who.agent_id().to_owned(),
        agent_type: who.agent_type().to_owned(),
        profile: who.profile().to_owned(),
        suspended: who.is_suspended(),
    }
}

fn active(at: Lookout<'_>) -> Target {
    Target::Component(at.component.digest().to_owned())
}

// -------------------------------------------------------------- guardrails

/// Asks which guardrail patterns a text would meet.
#[derive(Debug, Clone)]
pub struct GuardrailsCheck {
    operation_text: String,
    file_paths: Vec<String>,
}

/// What the guardrails found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct GuardrailsFound {
    /// Whether nothing of it would be blocked.
    pub safe: bool,
    /// Everything that matched.
    pub violations: Vec<Violation>,
    /// The caller's trust, as the component resolved it.
    pub trust_level: i64,
}

impl Action for GuardrailsCheck {
    const NAME: &'static str = "guardrails_check";
    const OPERATION: &'static str = "check_guardrails";
    const INPUT: &'static [Field] = &[
        Field::new("operation_text", Kind::Text(1 << 20), "A command, a query, any text that would be run").required(),
        Field::new("file_paths", Kind::Texts(500, 4096), "Files that would be touched"),
        AGENT_ID,
        AGENT_TYPE,
    ];
    type Output = GuardrailsFound;

    fn parse(input: &Input, _who: &Principal) -> Result<Self> {
        Ok(Self { operation_text: input.text("operation_text"), file_paths: input.texts("file_paths") })
    }

    async fn subject(&self, _at: Lookout<'_>) -> Result<Subject> {
        let paths = self.file_paths.join("\n");
        let texts = plain(&[("operation_text", Some(&self.operation_text)), ("file_paths", Some(&paths))]);
        Ok(Subject { target: self.resource(), texts })
    }

    fn resource(&self) -> Target {
        // The text itself goes to the guardrails as a text; as the target it would be read, and reported, twice.
        Target::Command(String::new())
    }
}

impl Query for GuardrailsCheck {
    async fn read(&self, _at: Lookout<'_>, permit: &Permit<Self>) -> Result<GuardrailsFound> {
        let violations = permit.evidence().decision.as_ref().map(|d| d.violations.clone()).unwrap_or_default();
        let safe = violations.iter().all(|violation| !violation.blocked);
        Ok(GuardrailsFound { safe, violations, trust_level: permit.trust_level() })
    }

    fn audit(output: &GuardrailsFound) -> Value {
        json!({"safe": output.safe, "violations": output.violations.len()})
    }
}

/// Lists the guardrail patterns in force.
#[derive(Debug, Clone)]
pub struct GuardrailsList;

/// Patterns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct GuardrailsListing {
    /// The patterns, as the bundle orders them.
    pub patterns: Vec<PatternInfo>,
    #[serde(flatten)]
    #[expect(missing_docs, reason = "the same for every list")]
    pub listing: Listing,
}

impl Action for GuardrailsList {
    const NAME: &'static str = "guardrails_list";
    const OPERATION: &'static str = "check_guardrails";
    const INPUT: &'static [Field] = &[];
    type Output = GuardrailsListing;

    fn parse(_input: &Input, _who: &Principal) -> Result<Self> {
        Ok(Self)
    }

    async fn subject(&self, _at: Lookout<'_>) -> Result<Subject> {
        Ok(Subject::of(self.resource()))
    }

    fn resource(&self) -> Target {
        Target::Command(String::new())
    }
}

impl Query for GuardrailsList {
    async fn read(&self, at: Lookout<'_>, _permit: &Permit<Self>) -> Result<GuardrailsListing> {
        let patterns = at.manifest().patterns.clone();
        let listing = Listing { count: patterns.len(), truncated: false, hint: None };
        Ok(GuardrailsListing { patterns, listing })
    }
}

// ------------------------------------------------------------------- check

/// Asks what policy would say to the caller, without doing it.
#[derive(Debug, Clone)]
pub struct PolicyCheck {
    operation: String,
    resource: String,
    context: Option<Value>,
}

/// What policy would say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct PolicyAnswer {
    /// Whether it would be allowed.
    pub allowed: bool,
    /// Code and detail.
    pub reason: String,
    /// Which engines decided.
    pub engine: String,
    /// Rules that decided, and errors met on the way.
    pub diagnostics: Vec<String>,
    /// What would be allowed, or who can change it.
    pub remedy: String,
    /// Limits that would come with it.
    pub obligations: Obligations,
    /// Identifier of this question's audit row.
    pub decision_id: String,
}

impl Action for PolicyCheck {
    const NAME: &'static str = "policy_check";
    const OPERATION: &'static str = "check_policy";
    const INPUT: &'static [Field] = &[
        Field::new("operation", Kind::Text(256), "An operation of the policy").required(),
        Field::new("resource", Kind::Text(4096), "What it would be done to: a lock key, a domain, a task type …"),
        Field::new(
            "context",
            Kind::Object,
            "Texts that would come with it; the guardrails read them. No facts: those come from the store",
        ),
        AGENT_ID,
        AGENT_TYPE,
    ];
    type Output = PolicyAnswer;

    fn parse(input: &Input, _who: &Principal) -> Result<Self> {
        Ok(Self {
            operation: input.text("operation"),
            resource: input.text("resource"),
            context: input.object("context").cloned().map(Value::Object),
        })
    }

    async fn subject(&self, at: Lookout<'_>) -> Result<Subject> {
        Ok(Subject::of(active(at)))
    }

    fn resource(&self) -> Target {
        Target::Component(String::new())
    }
}

impl PolicyCheck {
    fn request(&self, at: Lookout<'_>, who: &Principal) -> PolicyRequest {
        let known = at.manifest().operations.iter().find(|info| info.name == self.operation);
        let target = match known {
            Some(info) => target_of(info.target, &self.resource),
            None => Target::Component(self.resource.clone()),
        };
        let texts = self.context.as_ref().map(|context| json_text("context", context)).into_iter().collect();
        PolicyRequest { principal: policy_principal(who), operation: self.operation.clone(), target, texts }
    }
}

/// A target of the kind that an operation acts on.
pub(crate) fn target_of(kind: TargetKind, resource: &str) -> Target {
    let name = resource.to_owned();
    match kind {
        TargetKind::LockKey => Target::LockKey(name),
        TargetKind::File => Target::File(name),
        TargetKind::Domain => Target::Domain(name),
        TargetKind::Task => Target::Task(TaskTarget { id: String::new(), task_type: name, priority: 5 }),
        TargetKind::Session => Target::Session(name),
        TargetKind::Memory => Target::Memory(name),
        TargetKind::Handoff => Target::Handoff(name),
        TargetKind::Agent => Target::Agent(name),
        TargetKind::Component => Target::Component(name),
        TargetKind::AuditLog => Target::AuditLog,
        TargetKind::Branch => Target::Branch(name),
        TargetKind::Command => Target::Command(name),
        TargetKind::Tool => Target::Tool(name),
    }
}

/// Asks the component beside the gate, for a question that changes nothing.
async fn ask(component: &Arc<PolicyComponent>, request: PolicyRequest, decision_id: &str) -> Result<Decision> {
    let decided = component.decide_async(request).await.map_err(|error| {
        tracing::warn!(error = %error, "the policy component did not answer a question");
        Error::PolicyUnavailable { code: error.code().to_owned(), decision_id: decision_id.to_owned() }
    })?;
    Ok(decided.decision)
}

impl Query for PolicyCheck {
    async fn read(&self, at: Lookout<'_>, permit: &Permit<Self>) -> Result<PolicyAnswer> {
        let decision = ask(at.component, self.request(at, permit.who()), permit.decision_id()).await?;
        Ok(PolicyAnswer {
            allowed: decision.effect == Effect::Allow,
            reason: format!("{}: {}", decision.reason, decision.detail),
            engine: crate::store::audit::name_of(&decision.engine),
            diagnostics: decision.deciding.into_iter().chain(decision.diagnostics).collect(),
            remedy: decision.remedy,
            obligations: decision.obligations,
            decision_id: permit.decision_id().to_owned(),
        })
    }

    fn audit(output: &PolicyAnswer) -> Value {
        json!({"allowed": output.allowed, "reason": output.reason})
    }
}

// ---------------------------------------------------------------- validate

/// Checks Cedar text against the schema of the active policy.
#[derive(Debug, Clone)]
pub struct PolicyValidate {
    policy_text: String,
}

/// What is wrong with a Cedar text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct PolicyValidated {
    /// Whether nothing is.
    pub valid: bool,
    /// All problems.
    pub errors: Vec<Problem>,
}

impl Action for PolicyValidate {
    const NAME: &'static str = "policy_validate";
    const OPERATION: &'static str = "check_policy";
    const INPUT: &'static [Field] = &[
        Field::new("policy_text", Kind::Text(256 << 10), "Cedar policies, at most 256 KiB").required(),
        AGENT_ID,
        AGENT_TYPE,
    ];
    type Output = PolicyValidated;

    fn parse(input: &Input, _who: &Principal) -> Result<Self> {
        Ok(Self { policy_text: input.text("policy_text") })
    }

    async fn subject(&self, at: Lookout<'_>) -> Result<Subject> {
        Ok(Subject::of(active(at)))
    }

    fn resource(&self) -> Target {
        Target::Component(String::new())
    }
}

impl Query for PolicyValidate {
    async fn read(&self, at: Lookout<'_>, permit: &Permit<Self>) -> Result<PolicyValidated> {
        let checked = at.component.validate_async(self.policy_text.clone()).await;
        let errors = checked.map_err(|error| Error::PolicyUnavailable {
            code: error.code().to_owned(),
            decision_id: permit.decision_id().to_owned(),
        })?;
        Ok(PolicyValidated { valid: errors.is_empty(), errors })
    }

    fn audit(output: &PolicyValidated) -> Value {
        json!({"valid": output.valid, "errors": output.errors.len()})
    }
}

// ----------------------------------------------------------------- profile

/// Shows the caller its own profile.
#[derive(Debug, Clone)]
pub struct ProfileMe;

/// The caller's profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ProfileFound {
    /// Whether the active policy has it.
    pub success: bool,
    /// The profile, with its limits.
    pub profile: Option<Value>,
    /// Where it came from.
    pub source: &'static str,
    /// Why there is none.
    pub reason: Option<&'static str>,
}

impl Action for ProfileMe {
    const NAME: &'static str = "profile_me";
    const OPERATION: &'static str = "get_my_profile";
    const INPUT: &'static [Field] = &[];
    type Output = ProfileFound;

    fn parse(_input: &Input, _who: &Principal) -> Result<Self> {
        Ok(Self)
    }

    async fn subject(&self, _at: Lookout<'_>) -> Result<Subject> {
        Ok(Subject::of(self.resource()))
    }

    fn resource(&self) -> Target {
        Target::Agent("me".to_owned())
    }
}

impl Query for ProfileMe {
    async fn read(&self, at: Lookout<'_>, permit: &Permit<Self>) -> Result<ProfileFound> {
        let who = permit.who();
        let info = at.manifest().profiles.iter().find(|info| info.name == who.profile());
        let profile = info.map(|info| {
            let mut profile = json!(info);
            if let Some(map) = profile.as_object_mut() {
                map.insert("agent_type".to_owned(), json!(who.agent_type()));
                map.insert("agent_id".to_owned(), json!(who.agent_id()));
                map.insert("trust_level".to_owned(), json!(permit.trust_level()));
            }
            profile
        });
        let reason = if profile.is_none() { Some("unknown_profile") } else { None };
        Ok(ProfileFound { success: profile.is_some(), profile, source: "policy_component", reason })
    }
}
