//! Cedar policies as texts: which are the same, and which look at what a request may lack.

use std::collections::BTreeMap;

use cedar_policy::{Policy, PolicySet};
use policy_core::TargetKind;
use serde_json::Value;

/// A policy, and what can be told from its text alone.
pub(super) struct Read<'a> {
    pub(super) policy: &'a Policy,
    pub(super) id: String,
    /// Effect, scope and conditions, without annotations: what it means.
    pub(super) meaning: Value,
    annotations: Value,
    pub(super) reach: Reach,
}

/// How far a policy looks. A request comes with the entities of who asks and, but for another agent, of what is acted on;
/// the prover's requests come with all there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reach {
    /// At entities that every request brings.
    Given,
    /// At attributes of others: without them it fails, and the request is denied.
    Attributes,
    /// At whether others have attributes or tags: without them that is false, and the policy goes on.
    Presence,
}

/// Policies of a set by their ids.
pub(super) fn read<'a>(set: &'a PolicySet, target: TargetKind) -> Result<BTreeMap<String, Read<'a>>, String> {
    set.policies()
        .map(|policy| {
            let id = policy.id().to_string();
            let mut meaning = policy.to_json().map_err(|error| format!("policy `{id}`: {error}"))?;
            let annotations =
                meaning.as_object_mut().and_then(|fields| fields.remove("annotations")).unwrap_or_default();
            let conditions = meaning.get("conditions").unwrap_or(&Value::Null);
            let reach = reach(conditions, target);
            Ok((id.clone(), Read { policy, id, meaning, annotations, reach }))
        })
        .collect()
}

impl Read<'_> {
    /// Whether they are the same to the letter, reasons and remedies included.
    pub(super) fn is_same_as(&self, other: &Self) -> bool {
        self.meaning == other.meaning && self.annotations == other.annotations
    }
}

fn reach(value: &Value, target: TargetKind) -> Reach {
    let inner = match value {
        Value::Array(items) => items.iter().map(|item| reach(item, target)).max(),
        Value::Object(fields) => fields.iter().map(|(key, inner)| of_node(key, inner, target)).max(),
        _ => None,
    };
    inner.unwrap_or(Reach::Given)
}

fn of_node(key: &str, inner: &Value, target: TargetKind) -> Reach {
    let own = match key {
        "." | "getTag" => Reach::Attributes,
        "has" | "hasTag" => Reach::Presence,
        _ => Reach::Given,
    };
    let is_given =
        inner.get("left").and_then(|left| left.get("Var")).and_then(Value::as_str).is_some_and(|var| match var {
            "principal" | "context" => true,
            "resource" => target != TargetKind::Agent,
            _ => false,
        });
    let own = if is_given { Reach::Given } else { own };
    own.max(reach(inner, target))
}
