//! The profiles of a bundle (`profiles/*.toml`): what an agent may do at most.

use serde::Deserialize;
use toml::Spanned;

use crate::bundle::{NAME_HELP, is_name, parse_toml};
use crate::decision::{Obligations, OperationClass, ProfileInfo};
use crate::network::{NetworkRule, RuleEntry};
use crate::operation::{Operation, Operations};
use crate::paths::PathRules;
use crate::problem::Reporter;
use crate::request::TargetKind;

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
    #[serde(default = "no_texts")]
    task_types: Spanned<Vec<String>>,
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
    calls_per_minute: Option<Spanned<u32>>,
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
        file.tell_idle(operations, report);
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
            task_types: file.task_types.into_inner(),
            paths_allow: plain(file.paths.allow),
            paths_deny: plain(file.paths.deny),
            limits: Obligations {
                max_ttl_minutes: file.limits.ttl_minutes,
                max_locks_held: file.limits.locks_held,
                max_open_tasks: file.limits.open_tasks,
                max_calls_per_minute: file.limits.calls_per_minute.map(Spanned::into_inner),
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
        if let Some(calls) = self.limits.calls_per_minute.as_ref().filter(|calls| *calls.get_ref() == 0) {
            let help = "leave the limit out; an agent that shall do nothing is suspended, or has trust 0";
            report.at_with_help(
                calls.span(),
                "no call a minute: whoever has this profile can do nothing, not even look",
                help,
            );
        }
        self.check_grants(operations, report);
    }

    /// Tells of entries that change nothing. Nobody of this profile is let do more or less for them, whatever their author
    /// thought.
    fn tell_idle(&self, operations: &Operations, report: &mut Reporter<'_>) {
        for list in [&self.allowed_operations, &self.blocked_operations, &self.grants] {
            for (at, name) in list.iter().enumerate() {
                if names(list.get(..at).unwrap_or_default(), name.get_ref()) {
                    report.idle(name.span(), format!("`{}` stands here twice", name.get_ref()), "take one out");
                }
            }
        }
        let trust = *self.trust.get_ref();
        if trust == 0 {
            return;
        }
        let limited = !self.allowed_operations.is_empty();
        let is_within = |name: &str| trust >= operations.get(name).map_or(0, |found| found.info.class.min_trust());
        for name in self.allowed_operations.iter().filter(|name| operations.get(name.get_ref()).is_some()) {
            let op = name.get_ref();
            if names(&self.blocked_operations, op) {
                report.idle(name.span(), format!("`{op}` is blocked below, and so not allowed here"), "take one out");
            } else if !is_within(op) && !names(&self.grants, op) {
                let help = "raise `trust`, or name it under `grants` as well if it is grantable";
                report.idle(name.span(), format!("`{op}` needs more trust than {trust}, and stays denied"), help);
            }
        }
        for name in self.blocked_operations.iter().filter(|_| limited) {
            if !names(&self.allowed_operations, name.get_ref()) {
                let help = "what `allowed_operations` does not name is denied already";
                report.idle(name.span(), format!("`{}` is not allowed in the first place", name.get_ref()), help);
            }
        }
        for name in self.grants.iter().filter(|name| operations.get(name.get_ref()).is_some()) {
            let op = name.get_ref();
            if is_within(op) {
                report.idle(name.span(), format!("trust {trust} is enough for `{op}`"), "take the grant out");
            } else if names(&self.blocked_operations, op) || (limited && !names(&self.allowed_operations, op)) {
                let help = "name it under `allowed_operations`, and not under `blocked_operations`";
                report.idle(name.span(), format!("`{op}` is granted and yet not allowed"), help);
            }
        }
        self.tell_idle_rules(operations, report);
    }

    /// Tells of rules about targets that the profile's agents may do nothing with.
    fn tell_idle_rules(&self, operations: &Operations, report: &mut Reporter<'_>) {
        let may = |operation: &Operation| {
            let name = &operation.info.name;
            (*self.trust.get_ref() >= operation.info.class.min_trust() || names(&self.grants, name))
                && !names(&self.blocked_operations, name)
                && (self.allowed_operations.is_empty() || names(&self.allowed_operations, name))
        };
        let any = |wanted: &dyn Fn(&Operation) -> bool| operations.iter().any(|found| may(found) && wanted(found));
        let on = |kinds: &[TargetKind]| any(&|found| kinds.contains(&found.info.target));
        let help = "take it out, or allow an operation that it is about";
        let paths = self.paths.allow.first().or(self.paths.deny.first());
        if let Some(glob) = paths.filter(|_| !on(&[TargetKind::LockKey, TargetKind::File])) {
            report.idle(glob.span(), "the profile may do nothing to a path, whatever it is", help);
        }
        if let Some(rule) = self.network.first().filter(|_| !on(&[TargetKind::Domain])) {
            report.idle(rule.span(), "the profile may not connect to any name", help);
        }
        let changes_tasks =
            any(&|found| found.info.target == TargetKind::Task && found.info.class == OperationClass::Write);
        if !self.task_types.get_ref().is_empty() && !changes_tasks {
            report.idle(self.task_types.span(), "the profile may change no task, of whatever type", help);
        }
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

fn names(list: &[Spanned<String>], name: &str) -> bool {
    list.iter().any(|known| known.get_ref() == name)
}

fn no_texts() -> Spanned<Vec<String>> {
    Spanned::new(0..0, Vec::new())
}

fn plain(list: Vec<Spanned<String>>) -> Vec<String> {
    list.into_iter().map(Spanned::into_inner).collect()
}
