//! What is true of every request that Portreeve asks Cedar about, and that a schema cannot say.
//!
//! Without it the solver finds requests that nobody can make: a trust of minus five, an operation by another's name.

use cedar_policy::{Policy, PolicyId, PolicySet};
use policy_core::{OperationInfo, TargetKind};
use serde_json::Value;

/// The facts about requests of one operation, ready to be told to the prover.
pub(super) struct Facts {
    /// A policy that forbids whatever no request is.
    forbid: Policy,
    /// The facts as a condition in Cedar's JSON.
    condition: Value,
}

impl Facts {
    pub(super) fn of(operation: &OperationInfo) -> Result<Self, String> {
        let text = format!("forbid (principal, action, resource) unless {{ {} }};", text(operation));
        let id = PolicyId::new("facts of every request");
        let forbid = Policy::parse(Some(id), text).map_err(|error| error.to_string())?;
        let json = forbid.to_json().map_err(|error| error.to_string())?;
        let body = json.pointer("/conditions/0/body").ok_or("a policy without its condition")?;
        let condition = serde_json::json!({ "kind": "when", "body": body });
        Ok(Self { forbid, condition })
    }

    /// The policies, and what no request is forbidden by all of them alike.
    pub(super) fn bound(&self, policies: &PolicySet) -> Result<PolicySet, String> {
        let all = policies.policies().chain([&self.forbid]).cloned();
        PolicySet::from_policies(all).map_err(|error| error.to_string())
    }

    /// The policy with the facts as its first condition: where they do not hold, nothing else of it is evaluated.
    pub(super) fn guard(&self, policy: &Policy) -> Result<Policy, String> {
        let mut json = policy.to_json().map_err(|error| error.to_string())?;
        let conditions = json.get_mut("conditions").and_then(Value::as_array_mut);
        conditions.ok_or("a policy without a list of conditions")?.insert(0, self.condition.clone());
        Policy::from_json(Some(policy.id().clone()), json).map_err(|error| error.to_string())
    }
}

/// The operation's name in the context, trust as profiles have it, and the words of the rules' outcomes.
fn text(operation: &OperationInfo) -> String {
    let range = |of: &str, name: &str, max: u8| format!("{of} has {name} && {of}.{name} >= 0 && {of}.{name} <= {max}");
    let words = |name: &str, words: &str| format!("resource has {name} && [{words}].contains(resource.{name})");
    let mut facts = vec![
        format!("context has operation && context.operation == \"{}\"", operation.name),
        range("principal", "trust_level", 4),
    ];
    match operation.target {
        TargetKind::LockKey | TargetKind::File => {
            facts.push(words("path_rule", r#""allowed", "denied", "not_allowed""#));
        }
        TargetKind::Domain => {
            facts.push(words("network_rule", r#""allowed", "denied", "not_allowed", "invalid""#));
        }
        TargetKind::Task => facts.push(range("resource", "priority", u8::MAX)),
        _ => {}
    }
    facts.join(" && ")
}
