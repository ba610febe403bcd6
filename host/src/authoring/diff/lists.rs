//! What can be compared exactly, because it is finite: everything of a bundle but its expressions, globs and policies.
//!
//! The directions are those of the native rules, which only know these lists.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use policy_core::{
    EngineMode, Expressions, NetworkRuleInfo, Obligations, OperationClass, OperationInfo, PatternInfo, Policy,
    ProfileInfo, Severity, TargetKind,
};
use serde::Serialize;

use super::report::Direction::{self, MayBeWider, Narrower, Neither, Wider};
use super::report::{Change, Section};

/// Compares all lists of two bundles.
pub(super) fn compare(a: &Policy, b: &Policy) -> Vec<Change> {
    let mut changes = Changes { section: Section::Bundle, item: String::new(), list: Vec::new() };
    bundle(a, b, &mut changes);
    operations(a, b, &mut changes);
    profiles(a, b, &mut changes);
    patterns(a, b, &mut changes);
    network(a, b, &mut changes);
    changes.list
}

/// The changes so far, and what the next ones are about.
struct Changes {
    section: Section,
    item: String,
    list: Vec<Change>,
}

impl Changes {
    fn about(&mut self, section: Section, item: &str) {
        (self.section, self.item) = (section, item.to_owned());
    }

    fn add(&mut self, direction: Direction, text: impl Into<String>) {
        self.list.push(Change { section: self.section, item: self.item.clone(), text: text.into(), direction });
    }

    fn differ<T: PartialEq + Serialize>(&mut self, what: &str, a: &T, b: &T, direction: Direction) {
        if a != b {
            self.add(direction, format!("{what}: {} → {}", word(a), word(b)));
        }
    }

    /// A set of names, where more names allow more. Where an empty one allows all, that is said.
    fn names(&mut self, what: &str, a: &[String], b: &[String], is_any: impl Fn(&[String]) -> bool) {
        match (is_any(a), is_any(b)) {
            (true, true) => {}
            (true, false) => self.add(Narrower, format!("{what}: any → {}", b.join(", "))),
            (false, true) => self.add(Wider, format!("{what}: {} → any", a.join(", "))),
            (false, false) => self.members(what, a, b, (Wider, Narrower)),
        }
    }

    /// A set of names, and what it means to add one and to take one away.
    fn members(&mut self, what: &str, a: &[String], b: &[String], (added, removed): (Direction, Direction)) {
        for name in b.iter().filter(|name| !a.contains(name)).collect::<BTreeSet<_>>() {
            self.add(added, format!("{what}: added {name}"));
        }
        for name in a.iter().filter(|name| !b.contains(name)).collect::<BTreeSet<_>>() {
            self.add(removed, format!("{what}: removed {name}"));
        }
    }
}

/// A word of a bundle, as it is written there.
fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text,
        Ok(other) => other.to_string(),
        Err(error) => error.to_string(),
    }
}

/// An item of the first list and one of the second by the same name; at least one of them is there.
type Pair<'a, T> = (Option<&'a T>, Option<&'a T>);

/// Items of two lists by their names.
fn pairs<'a, T>(a: &'a [T], b: &'a [T], name: fn(&T) -> &str) -> BTreeMap<&'a str, Pair<'a, T>> {
    let mut pairs: BTreeMap<&str, Pair<'_, T>> = BTreeMap::new();
    for item in a {
        pairs.entry(name(item)).or_default().0 = Some(item);
    }
    for item in b {
        pairs.entry(name(item)).or_default().1 = Some(item);
    }
    pairs
}

/// Less is narrower, more is wider.
fn by_order<T: PartialOrd>(a: &T, b: &T) -> Direction {
    if b > a { Wider } else { Narrower }
}

fn bundle(a: &Policy, b: &Policy, changes: &mut Changes) {
    let (a, b) = (a.manifest(), b.manifest());
    changes.about(Section::Bundle, "");
    changes.differ("name", &a.name, &b.name, Neither);
    changes.differ("version", &a.version, &b.version, Neither);
    // Both engines together allow what each of them allows.
    let engine = if b.engine == EngineMode::Both { Narrower } else { MayBeWider };
    changes.differ("engine", &a.engine, &b.engine, engine);
    changes.differ("cases in decisions/", &a.test_cases, &b.test_cases, Neither);
}

fn operations(a: &Policy, b: &Policy, changes: &mut Changes) {
    for (name, pair) in pairs(&a.manifest().operations, &b.manifest().operations, |info| info.name.as_str()) {
        changes.about(Section::Operation, name);
        match pair {
            (None, Some(info)) => changes.add(Wider, format!("added, of class {}", info.class.name())),
            (Some(_), None) => changes.add(Narrower, "removed"),
            (Some(own), Some(other)) => operation(a, b, own, other, changes),
            (None, None) => {}
        }
    }
}

fn operation(a: &Policy, b: &Policy, own: &OperationInfo, other: &OperationInfo, changes: &mut Changes) {
    // Task types limit writes alone: a task's operation that is no write any more is open to all of them.
    let loses_task_types = own.target == TargetKind::Task && own.class == OperationClass::Write;
    let class = if other.class < own.class {
        Wider
    } else if loses_task_types {
        MayBeWider
    } else {
        Narrower
    };
    changes.differ("class", &own.class, &other.class, class);
    changes.differ("target", &own.target, &other.target, MayBeWider);
    changes.differ("description", &own.description, &other.description, Neither);
    let (Some(before), Some(after)) = (a.operation_rules(&own.name), b.operation_rules(&own.name)) else { return };
    // What profiles make of it is a line of theirs.
    changes.differ("grantable", &before.grantable, &after.grantable, Neither);
    let word = |reports_only: bool| if reports_only { "report" } else { "enforce" };
    let mode = by_order(&before.reports_only, &after.reports_only);
    changes.differ("guardrails", &word(before.reports_only), &word(after.reports_only), mode);
}

fn profiles(a: &Policy, b: &Policy, changes: &mut Changes) {
    for (name, pair) in pairs(&a.manifest().profiles, &b.manifest().profiles, |info| info.name.as_str()) {
        changes.about(Section::Profile, name);
        match pair {
            (None, Some(info)) => {
                let direction = if info.trust_level == 0 { Neither } else { Wider };
                changes.add(direction, format!("added, of trust {}", info.trust_level));
            }
            (Some(_), None) => changes.add(Narrower, "removed"),
            (Some(own), Some(other)) => profile(own, other, changes),
            (None, None) => {}
        }
    }
}

fn profile(a: &ProfileInfo, b: &ProfileInfo, changes: &mut Changes) {
    changes.differ("trust", &a.trust_level, &b.trust_level, by_order(&a.trust_level, &b.trust_level));
    changes.names("agent types", &a.agent_types, &b.agent_types, |names| names.iter().any(|name| name == "*"));
    changes.names("allowed operations", &a.allowed_operations, &b.allowed_operations, <[String]>::is_empty);
    changes.members("blocked operations", &a.blocked_operations, &b.blocked_operations, (Narrower, Wider));
    changes.members("grants", &a.grants, &b.grants, (Wider, Narrower));
    changes.names("task types", &a.task_types, &b.task_types, <[String]>::is_empty);
    // Globs are compared as written: one that another covers counts all the same.
    changes.names("paths allowed", &a.paths_allow, &b.paths_allow, <[String]>::is_empty);
    changes.members("paths denied", &a.paths_deny, &b.paths_deny, (Narrower, Wider));
    limits(&a.limits, &b.limits, changes);
    changes.differ("description", &a.description, &b.description, Neither);
}

fn limits(a: &Obligations, b: &Obligations, changes: &mut Changes) {
    let mut limit = |what: &str, a: Option<u32>, b: Option<u32>| {
        let shown = |limit: Option<u32>| limit.map_or_else(|| "none".to_owned(), |limit| limit.to_string());
        let size = |limit: Option<u32>| limit.map_or(u64::MAX, u64::from);
        if a != b {
            changes.add(by_order(&size(a), &size(b)), format!("limit of {what}: {} → {}", shown(a), shown(b)));
        }
    };
    limit("minutes a lock", a.max_ttl_minutes, b.max_ttl_minutes);
    limit("locks held", a.max_locks_held, b.max_locks_held);
    limit("open tasks", a.max_open_tasks, b.max_open_tasks);
    limit("calls a minute", a.max_calls_per_minute, b.max_calls_per_minute);
}

fn patterns(a: &Policy, b: &Policy, changes: &mut Changes) {
    let blocks = |info: &PatternInfo| info.severity == Severity::Block;
    for (name, pair) in pairs(&a.manifest().patterns, &b.manifest().patterns, |info| info.name.as_str()) {
        changes.about(Section::Pattern, name);
        match pair {
            (None, Some(info)) => {
                let direction = if blocks(info) { Narrower } else { Neither };
                changes.add(direction, format!("added, severity {}", word(&info.severity)));
            }
            (Some(info), None) => {
                let direction = if blocks(info) { Wider } else { Neither };
                changes.add(direction, format!("removed, severity {}", word(&info.severity)));
            }
            (Some(own), Some(other)) => {
                pattern(own, other, changes);
                if let (Some(before), Some(after)) = (a.expressions(name), b.expressions(name)) {
                    expressions(own, other, &before, &after, changes);
                }
            }
            (None, None) => {}
        }
    }
}

fn pattern(a: &PatternInfo, b: &PatternInfo, changes: &mut Changes) {
    let severity = match (a.severity, b.severity) {
        (Severity::Block, _) => Wider,
        (_, Severity::Block) => Narrower,
        _ => Neither,
    };
    changes.differ("severity", &a.severity, &b.severity, severity);
    // Only what blocks is passed by trust.
    let blocked = a.severity == Severity::Block && b.severity == Severity::Block;
    let trust = if blocked { by_order(&b.min_trust, &a.min_trust) } else { Neither };
    changes.differ("passed from trust", &a.min_trust, &b.min_trust, trust);
    changes.differ("category", &a.category, &b.category, Neither);
    changes.differ("description", &a.description, &b.description, Neither);
    changes.differ("remedy", &a.remedy, &b.remedy, Neither);
}

fn expressions(
    own: &PatternInfo,
    other: &PatternInfo,
    a: &Expressions<'_>,
    b: &Expressions<'_>,
    changes: &mut Changes,
) {
    if a == b {
        return;
    }
    // What did not block cannot block less, and what does not block any more is said already.
    let direction = match (own.severity, other.severity) {
        (Severity::Block, Severity::Block) if catches_all_of(b, a) => Narrower,
        (Severity::Block, Severity::Block) if catches_all_of(a, b) => Wider,
        (Severity::Block, Severity::Block) => MayBeWider,
        _ => Neither,
    };
    let text = match direction {
        Narrower => "expressions: it catches more",
        Wider => "expressions: it catches less",
        _ => "expressions changed",
    };
    changes.add(direction, text);
}

/// Whether one pattern catches what another does, as far as the lists of expressions tell without a look inside of them.
fn catches_all_of(more: &Expressions<'_>, less: &Expressions<'_>) -> bool {
    let holds = |all: &[&str], some: &[&str]| some.iter().all(|text| all.contains(text));
    more.on_text >= less.on_text
        && more.on_commands >= less.on_commands
        && holds(&more.matchers, &less.matchers)
        && holds(&less.unless, &more.unless)
        && (more.without == less.without || more.without.is_none())
}

/// A network rule without its name and its place in the order: whose it is, what it matches, what it says.
type Rule<'a> = (Option<&'a str>, &'a str, bool);

/// The first rule that matches decides, and deny goes before allow, so more that allows is wider and more that denies is
/// narrower, whatever else there is.
fn network(a: &Policy, b: &Policy, changes: &mut Changes) {
    // Rules of a profile that comes or goes do so with it.
    let knows = |policy: &Policy, name: &str| policy.manifest().profiles.iter().any(|info| info.name == name);
    let counts = |rule: &&NetworkRuleInfo| rule.profile.as_ref().is_none_or(|name| knows(a, name) && knows(b, name));
    let (a, b) = (
        highest(a.manifest().network_rules.iter().filter(counts)),
        highest(b.manifest().network_rules.iter().filter(counts)),
    );
    for rule in a.keys().chain(b.keys()).collect::<BTreeSet<_>>() {
        let (profile, pattern, allows) = *rule;
        changes.about(Section::Network, pattern);
        let (more, less) = if allows { (Wider, Narrower) } else { (Narrower, Wider) };
        let effect = if allows { "allow" } else { "deny" };
        let whose = profile.map_or_else(String::new, |name| format!(" for profile {name}"));
        match (a.get(rule), b.get(rule)) {
            (None, Some(_)) => changes.add(more, format!("added: {effect}{whose}")),
            (Some(_), None) => changes.add(less, format!("removed: {effect}{whose}")),
            (Some(own), Some(other)) if own != other => {
                let direction = if other > own { more } else { less };
                changes.add(direction, format!("{effect}{whose}, priority: {own} → {other}"));
            }
            _ => {}
        }
    }
}

/// Of rules that say the same of the same, the first to be tried.
fn highest<'a>(rules: impl Iterator<Item = &'a NetworkRuleInfo>) -> BTreeMap<Rule<'a>, i32> {
    let mut highest: BTreeMap<Rule<'_>, i32> = BTreeMap::new();
    for rule in rules {
        let key = (rule.profile.as_deref(), rule.pattern.as_str(), rule.allow);
        let priority = highest.entry(key).or_insert(rule.priority);
        *priority = rule.priority.max(*priority);
    }
    highest
}

/// Policies are lines here; what they allow is proven.
pub(super) fn cedar(item: &str, what: impl Display) -> Change {
    Change { section: Section::Cedar, item: item.to_owned(), text: what.to_string(), direction: Neither }
}
