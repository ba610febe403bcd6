//! The profiles of a bundle (`profiles/*.toml`): what an agent may do at most.

use serde::Deserialize;
use toml::Spanned;

use crate::bundle::{NAME_HELP, is_name, parse_toml};
use crate::decision::{Obligations, ProfileInfo};
use crate::network::{NetworkRule, RuleEntry};
use crate::operation::Operations;
use crate::paths::PathRules;
use crate::problem::Reporter;

/// A profile, ready to be asked.
#[derive(Debug)]
pub(crate) struct Profile {
    pub(crate) info: ProfileInfo,
    pub(crate) paths: PathRules,
    /// Its own network rules, in the order tried.
    pub(crate) network: Vec<NetworkRule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: Spanned<String>,
    description: String,
    agent_types: Spanned<Vec<String>>,
    trust: Spanned<u8>,
    #[serde(default)]
    allowed_operations: Vec<Spanned<String>>,
    #[serde(default)]
    blocked_operations: Vec<Spanned<String>>,
    #[serde(default)]
    grants: Vec<Spanned<String>>,
    #[serde(default)]
    task_types: Vec<String>,
    #[serde(default)]
    limits: Limits,
    #[serde(default)]
    paths: Paths,
    #[serde(default)]
    network: Vec<RuleEntry>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Limits {
    locks_held: Option<u32>,
    open_tasks: Option<u32>,
    ttl_minutes: Option<u32>,
    calls_per_minute: Option<u32>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Paths {
    #[serde(default)]
    allow: Vec<Spanned<String>>,
    #[serde(default)]
    deny: Vec<Spanned<String>>,
}

impl Profile {
    /// Reads one profile file. `None` when it is too broken to hold a profile.
    pub(crate) fn read(text: &str, operations: &Operations, report: &mut Reporter<'_>) -> Option<Self> {
        let file = parse_toml::<File>(text, report)?;
        file.check(operations, report);
        let name = file.name.into_inner();
        let paths = PathRules::compile(&file.paths.allow, &file.paths.deny, report);
        let network = NetworkRule::compile(file.network, Some(&name), report);
        let info = ProfileInfo {
            name,
            description: file.description,
            agent_types: file.agent_types.into_inner(),
            trust_level: file.trust.into_inner(),
            allowed_operations: plain(file.allowed_operations),
            blocked_operations: plain(file.blocked_operations),
            grants: plain(file.grants),
            task_types: file.task_types,
            paths_allow: plain(file.paths.allow),
            paths_deny: plain(file.paths.deny),
            limits: Obligations {
                max_ttl_minutes: file.limits.ttl_minutes,
                max_locks_held: file.limits.locks_held,
                max_open_tasks: file.limits.open_tasks,
                max_calls_per_minute: file.limits.calls_per_minute,
            },
        };
        Some(Self { info, paths, network })
    }

    /// Whether agents of this type may have the profile.
    pub(crate) fn is_for(&self, agent_type: &str) -> bool {
        self.info.agent_types.iter().any(|known| known == "*" || known == agent_type)
    }
}

impl File {
    fn check(&self, operations: &Operations, report: &mut Reporter<'_>) {
        if !is_name(self.name.get_ref()) {
            let message = format!("`{}` is not a name", self.name.get_ref());
            report.at_with_help(self.name.span(), message, NAME_HELP);
        }
        if *self.trust.get_ref() > 4 {
            let message = format!("trust {} is out of range", self.trust.get_ref());
            report.at_with_help(self.trust.span(), message, "trust goes from 0 (suspended) to 4 (admin)");
        }
        if self.agent_types.get_ref().is_empty() {
            let help = "name the agent types that may have the profile, or `*` for any";
            report.at_with_help(self.agent_types.span(), "no agent type may have this profile", help);
        }
        for list in [&self.allowed_operations, &self.blocked_operations, &self.grants] {
            for name in list {
                if operations.get(name.get_ref()).is_none() {
                    report.at(name.span(), format!("unknown operation `{}`", name.get_ref()));
                }
            }
        }
        self.check_grants(operations, report);
    }

    fn check_grants(&self, operations: &Operations, report: &mut Reporter<'_>) {
        for name in &self.grants {
            if operations.get(name.get_ref()).is_some_and(|operation| !operation.grantable) {
                report.at_with_help(
                    name.span(),
                    format!("operation `{}` cannot be granted", name.get_ref()),
                    "only operations with `grantable = true` may pass below the threshold of their class",
                );
            }
        }
    }
}

fn plain(list: Vec<Spanned<String>>) -> Vec<String> {
    list.into_iter().map(Spanned::into_inner).collect()
}
