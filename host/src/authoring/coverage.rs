//! Which rules of a bundle no case of its decision tables exercises.

use std::collections::BTreeSet;

use policy_core::{Case, Decision, Effect, EngineMode, Manifest, Obligations, ProfileInfo};
use serde::Serialize;

/// What is there to exercise, and what no case does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Coverage {
    /// Rules of all kinds.
    pub rules: usize,
    /// Those that some case exercises.
    pub exercised: usize,
    /// Cedar policies that decide in no case.
    pub policies: Vec<String>,
    /// Guardrail patterns that match in no case.
    pub patterns: Vec<String>,
    /// Rules of profiles that make no difference in any case.
    pub profile_rules: Vec<String>,
    /// Network rules that decide in no case.
    pub network_rules: Vec<String>,
}

impl Coverage {
    /// Of a hundred rules, how many are exercised; all, where there are none.
    #[must_use]
    pub fn percent(&self) -> usize {
        (self.exercised * 100).checked_div(self.rules).unwrap_or(100)
    }
}

/// What the cases exercised so far.
#[derive(Debug, Default)]
pub(super) struct Seen {
    policies: BTreeSet<String>,
    patterns: BTreeSet<String>,
    profile_rules: BTreeSet<String>,
    network_rules: BTreeSet<String>,
}

impl Seen {
    /// Notes what decided a case, whatever its table promises.
    pub(super) fn note(&mut self, manifest: &Manifest, case: &Case, decided: &Decision) {
        self.policies.extend(decided.deciding.iter().filter(|id| !id.contains(':')).cloned());
        self.patterns.extend(decided.violations.iter().map(|violation| violation.pattern_name.clone()));
        self.network_rules.extend(decided.network_rule.clone());
        let profile = manifest.profiles.iter().find(|info| info.name == case.request.principal.profile);
        if let Some(info) = profile {
            self.profile_rules.extend(rule_of(info, &case.request.operation, decided));
        }
    }

    pub(super) fn coverage(&self, manifest: &Manifest) -> Coverage {
        // Without Cedar, nobody asks its policies; without the native rules, nobody asks those.
        let policies = match manifest.engine {
            EngineMode::Native => Vec::new(),
            EngineMode::Cedar | EngineMode::Both => manifest.policies.iter().map(|info| info.id.clone()).collect(),
        };
        let patterns: Vec<_> = manifest.patterns.iter().map(|info| info.name.clone()).collect();
        let profile_rules: Vec<_> = manifest.profiles.iter().flat_map(rules_of).collect();
        let network_rules: Vec<_> = manifest.network_rules.iter().map(|info| info.id.clone()).collect();
        let rules = policies.len() + patterns.len() + profile_rules.len() + network_rules.len();
        let left = |all: Vec<String>, seen: &BTreeSet<String>| -> Vec<String> {
            all.into_iter().filter(|rule| !seen.contains(rule)).collect()
        };
        let policies = left(policies, &self.policies);
        let patterns = left(patterns, &self.patterns);
        let profile_rules = left(profile_rules, &self.profile_rules);
        let network_rules = left(network_rules, &self.network_rules);
        let open = policies.len() + patterns.len() + profile_rules.len() + network_rules.len();
        Coverage { rules, exercised: rules - open, policies, patterns, profile_rules, network_rules }
    }
}

/// The rules of a profile, each by name.
fn rules_of(info: &ProfileInfo) -> Vec<String> {
    let mut rules = Vec::new();
    if !info.agent_types.iter().any(|name| name == "*") {
        rules.push("agent types".to_owned());
    }
    rules.extend(info.blocked_operations.iter().map(|name| format!("blocks {name}")));
    if !info.allowed_operations.is_empty() {
        rules.push("allowed operations".to_owned());
    }
    rules.extend(info.grants.iter().map(|name| format!("grants {name}")));
    let lists =
        [("task types", &info.task_types), ("allowed paths", &info.paths_allow), ("denied paths", &info.paths_deny)];
    rules.extend(lists.into_iter().filter(|(_, list)| !list.is_empty()).map(|(name, _)| name.to_owned()));
    if info.limits != Obligations::default() {
        rules.push("limits".to_owned());
    }
    rules.push(if info.trust_level == 0 { "suspended" } else { "trust" }.to_owned());
    rules.into_iter().map(|rule| format!("{}: {rule}", info.name)).collect()
}

/// The rules of the caller's profile that a decision shows at work.
fn rule_of(info: &ProfileInfo, operation: &str, decided: &Decision) -> Vec<String> {
    let mut rules = Vec::new();
    let by_reason = match decided.reason.as_str() {
        "profile_not_for_agent_type" => Some("agent types".to_owned()),
        "operation_blocked" => Some(format!("blocks {operation}")),
        "operation_not_allowed" => Some("allowed operations".to_owned()),
        "task_type_not_allowed" => Some("task types".to_owned()),
        "path_denied" => Some("denied paths".to_owned()),
        "path_not_allowed" => Some("allowed paths".to_owned()),
        "suspended" if info.trust_level == 0 => Some("suspended".to_owned()),
        "trust_below_read" | "trust_below_write" | "trust_below_admin" | "trust_below_owner" => {
            Some("trust".to_owned())
        }
        _ => None,
    };
    rules.extend(by_reason);
    if decided.effect == Effect::Allow {
        if info.grants.iter().any(|name| name == operation) {
            rules.push(format!("grants {operation}"));
        }
        if decided.obligations != Obligations::default() {
            rules.push("limits".to_owned());
        }
        // That the least that it may do is allowed shows the trust as well as that the next is denied.
        rules.push("trust".to_owned());
    }
    rules.into_iter().map(|rule| format!("{}: {rule}", info.name)).collect()
}
