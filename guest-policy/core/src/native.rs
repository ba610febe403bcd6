//! The native engine: the rules in their order. The first that denies decides.

use crate::decide::Facts;
use crate::decision::OperationClass;
use crate::network::NetworkOutcome;
use crate::paths::PathOutcome;
use crate::reason::Reason;
use crate::request::Target;

/// A rule that denies, and what of the bundle it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Denial {
    pub(crate) reason: Reason,
    pub(crate) deciding: Vec<String>,
}

/// What the native rules say: the rules that allow, or the one that denies.
pub(crate) fn decide(facts: &Facts<'_>) -> Result<Vec<String>, Denial> {
    let profile = || vec![format!("profile:{}", facts.profile.info.name)];
    let deny = |reason, deciding| Err(Denial { reason, deciding });
    if facts.trust == 0 {
        return deny(Reason::Suspended, vec!["native:suspended".into()]);
    }
    if let Some(reason) = profile_reason(facts) {
        return deny(reason, profile());
    }
    let class = facts.operation.info.class;
    let granted = names(&facts.profile.info.grants, facts);
    if facts.trust < class.min_trust() && !granted {
        return deny(below(class), vec!["native:class_threshold".into()]);
    }
    if !is_task_type_allowed(facts) {
        return deny(Reason::TaskTypeNotAllowed, profile());
    }
    match &facts.path {
        Some(PathOutcome::Denied(_)) => return deny(Reason::PathDenied, profile()),
        Some(PathOutcome::NotAllowed) => return deny(Reason::PathNotAllowed, profile()),
        Some(PathOutcome::Allowed) | None => {}
    }
    let network = network_rule(facts);
    if let Some(reason) = network_reason(facts) {
        return deny(reason, network);
    }
    let blocking = facts.blocking();
    if !blocking.is_empty() {
        let patterns = blocking.iter().map(|name| format!("guardrail:{name}")).collect();
        return deny(Reason::DestructiveOperationBlocked, patterns);
    }
    let threshold = if granted { profile() } else { vec!["native:class_threshold".into()] };
    Ok(threshold.into_iter().chain(network).collect())
}

/// What the profile's lists say.
fn profile_reason(facts: &Facts<'_>) -> Option<Reason> {
    let info = &facts.profile.info;
    if !facts.profile.is_for(&facts.request.principal.agent_type) {
        return Some(Reason::ProfileNotForAgentType);
    }
    if names(&info.blocked_operations, facts) {
        return Some(Reason::OperationBlocked);
    }
    let limited = !info.allowed_operations.is_empty();
    (limited && !names(&info.allowed_operations, facts)).then_some(Reason::OperationNotAllowed)
}

fn names(list: &[String], facts: &Facts<'_>) -> bool {
    list.contains(&facts.operation.info.name)
}

fn below(class: OperationClass) -> Reason {
    match class {
        OperationClass::Read => Reason::TrustBelowRead,
        OperationClass::Write => Reason::TrustBelowWrite,
        OperationClass::Admin => Reason::TrustBelowAdmin,
        OperationClass::Owner => Reason::TrustBelowOwner,
    }
}

/// Task types limit what changes a task. Reading one is not limited, and a
/// target without a type is the queue itself.
fn is_task_type_allowed(facts: &Facts<'_>) -> bool {
    let types = &facts.profile.info.task_types;
    match &facts.request.target {
        Target::Task(task) if facts.operation.info.class == OperationClass::Write => {
            task.task_type.is_empty() || types.is_empty() || types.contains(&task.task_type)
        }
        _ => true,
    }
}

fn network_reason(facts: &Facts<'_>) -> Option<Reason> {
    match facts.network.as_ref()? {
        NetworkOutcome::Allowed(_) => None,
        NetworkOutcome::Denied(_) => Some(Reason::DomainDenied),
        NetworkOutcome::NotAllowed => Some(Reason::DomainNotAllowed),
        NetworkOutcome::Invalid => Some(Reason::InvalidDomain),
    }
}

fn network_rule(facts: &Facts<'_>) -> Vec<String> {
    let Some(outcome) = &facts.network else { return Vec::new() };
    vec![format!("network:{}", outcome.rule().unwrap_or("default"))]
}
