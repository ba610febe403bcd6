//! The network check: may a name be connected to?

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};

use super::action::{Action, Lookout, Query, Subject};
use super::input::{AGENT_ID, AGENT_TYPE, Field, Input, Kind};
use crate::authn::Principal;
use crate::engine::types::Target;
use crate::error::{Denial, Result};
use crate::gate::Permit;

/// Denials that are about the name and so answer the question. Others are about the caller, who may not ask.
const ABOUT_THE_NAME: [&str; 3] = ["domain_denied", "domain_not_allowed", "invalid_domain"];

/// Asks whether the caller may connect to a name.
#[derive(Debug, Clone)]
pub struct NetworkCheck {
    /// The name.
    pub domain: String,
}

/// Whether it may.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct NetworkAnswer {
    /// Whether it may.
    pub allowed: bool,
    /// The name, as it was asked for.
    pub domain: String,
    /// Code and detail.
    pub reason: String,
    /// The network rule that decided, if one did.
    pub rule: Option<String>,
    /// Who can change it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl NetworkAnswer {
    /// What a denial says about the name; none when it says something else.
    #[must_use]
    pub fn of_denial(domain: &str, denial: &Denial) -> Option<Self> {
        ABOUT_THE_NAME.contains(&denial.reason.as_str()).then(|| Self {
            allowed: false,
            domain: domain.to_owned(),
            reason: format!("{}: {}", denial.reason, denial.detail),
            rule: denial.network_rule.clone(),
            remedy: Some(denial.remedy.clone()),
        })
    }
}

impl Action for NetworkCheck {
    const NAME: &'static str = "network_check";
    const OPERATION: &'static str = "network_access";
    const INPUT: &'static [Field] = &[
        Field::new("domain", Kind::Text(1024), "The name of a host, without scheme, port or path").required(),
        AGENT_ID,
        AGENT_TYPE,
    ];
    type Output = NetworkAnswer;

    fn parse(input: &Input, _who: &Principal) -> Result<Self> {
        Ok(Self { domain: input.text("domain") })
    }

    async fn subject(&self, _at: Lookout<'_>) -> Result<Subject> {
        Ok(Subject::of(self.resource()))
    }

    fn resource(&self) -> Target {
        Target::Domain(self.domain.clone())
    }
}

impl Query for NetworkCheck {
    async fn read(&self, _at: Lookout<'_>, permit: &Permit<Self>) -> Result<NetworkAnswer> {
        let evidence = permit.evidence();
        Ok(NetworkAnswer {
            allowed: true,
            domain: self.domain.clone(),
            reason: format!("{}: {}", evidence.reason, evidence.detail),
            rule: evidence.decision.as_ref().and_then(|decision| decision.network_rule.clone()),
            remedy: None,
        })
    }

    fn audit(output: &NetworkAnswer) -> Value {
        json!({"allowed": output.allowed, "rule": output.rule})
    }
}
