//! Reading Cedar policies and schema, with all that is wrong with them.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use cedar_policy::{Effect as CedarEffect, Policy, PolicyId, PolicySet, Schema, ValidationMode, Validator};
use miette::Diagnostic;

use super::guard::{self, Language};
use crate::problem::Reporter;

/// Most problems reported about one text.
const MAX_PROBLEMS: usize = 100;

/// What a policy says about itself.
#[derive(Debug, Clone)]
pub(crate) struct About {
    pub(crate) reason: String,
    pub(crate) remedy: Option<String>,
    pub(crate) forbids: bool,
}

/// Policies by their `@id`.
#[derive(Debug, Default)]
pub(crate) struct Policies {
    pub(crate) list: Vec<Policy>,
    pub(crate) about: BTreeMap<String, About>,
    pub(crate) places: Vec<Place>,
}

/// Where a policy is written.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) id: String,
    pub(crate) file: String,
    pub(crate) offset: usize,
}

/// Reads the schema.
pub(crate) fn read_schema(text: &str, report: &mut Reporter<'_>) -> Option<Schema> {
    if let Err(too_much) = guard::check(text, Language::Schema) {
        report.at(too_much.offset..too_much.offset, too_much.message);
        return None;
    }
    match Schema::from_cedarschema_str(text) {
        Ok((schema, _warnings)) => Some(schema),
        Err(error) => {
            report_diagnostic(&error, report);
            None
        }
    }
}

impl Policies {
    /// Reads one text of policies and checks it against the schema.
    pub(crate) fn read(&mut self, text: &str, schema: &Validator, report: &mut Reporter<'_>) {
        let starts = match guard::check(text, Language::Policies) {
            Ok(starts) => starts,
            Err(too_much) => {
                let help = "split it into several policies";
                let span = too_much.offset..too_much.offset;
                return report.at_with_help(span, too_much.message, help);
            }
        };
        let set = match PolicySet::from_str(text) {
            Ok(set) => set,
            Err(errors) => {
                for error in errors.iter().take(MAX_PROBLEMS) {
                    report_diagnostic(error, report);
                }
                return;
            }
        };
        if set.templates().next().is_some() {
            report.record(None, "templates are not supported".into(), None);
        }
        for (at, policy) in in_order(&set) {
            let offset = starts.get(at).copied().unwrap_or_default();
            self.add(policy, offset, report);
        }
        // Under their own names, which what is wrong with them will name.
        let named: Vec<_> = set
            .policies()
            .map(|policy| match filled(policy, "id") {
                Some(id) => policy.new_id(PolicyId::new(id)),
                None => policy.clone(),
            })
            .collect();
        let result = schema.validate(&PolicySet::from_policies(named).unwrap_or(set), ValidationMode::Strict);
        for error in result.validation_errors().take(MAX_PROBLEMS) {
            report_diagnostic(error, report);
        }
        for warning in result.validation_warnings().take(MAX_PROBLEMS) {
            let offset = warning.labels().and_then(|mut labels| labels.next()).map_or(0, |label| label.offset());
            let help = warning.help().map_or_else(|| "say what it is meant to".to_owned(), |help| help.to_string());
            report.idle(offset..offset, warning.to_string(), help);
        }
    }

    fn add(&mut self, policy: &Policy, offset: usize, report: &mut Reporter<'_>) {
        let span = offset..offset;
        let (id, reason) = match (filled(policy, "id"), filled(policy, "reason")) {
            (Some(id), Some(reason)) => (id, reason),
            (id, _) => {
                let what = if id.is_none() { "id" } else { "reason" };
                let help = "every policy has an `@id` of its own and a `@reason` code";
                return report.at_with_help(span, format!("the policy has no `@{what}`"), help);
            }
        };
        if self.about.contains_key(id) {
            return report.at(span, format!("policy `{id}` is defined twice"));
        }
        let forbids = policy.effect() == CedarEffect::Forbid;
        let remedy = filled(policy, "remedy").map(str::to_owned);
        self.places.push(Place { id: id.to_owned(), file: report.file().to_owned(), offset });
        self.about.insert(id.to_owned(), About { reason: reason.to_owned(), remedy, forbids });
        self.list.push(policy.new_id(PolicyId::new(id)));
    }
}

/// Policies of one text in the order in which they are written: Cedar numbers them.
fn in_order(set: &PolicySet) -> Vec<(usize, &Policy)> {
    let number = |policy: &Policy| {
        let id: &str = policy.id().as_ref();
        id.strip_prefix("policy").and_then(|digits| digits.parse().ok()).unwrap_or(usize::MAX)
    };
    let mut policies: Vec<_> = set.policies().map(|policy| (number(policy), policy)).collect();
    policies.sort_by_key(|(at, _)| *at);
    policies
}

fn filled<'a>(policy: &'a Policy, key: &str) -> Option<&'a str> {
    policy.annotation(key).map(str::trim).filter(|value| !value.is_empty())
}

fn report_diagnostic(error: &dyn Diagnostic, report: &mut Reporter<'_>) {
    let offset = error.labels().and_then(|mut labels| labels.next()).map(|label| label.offset());
    let help = error.help().map(|help| help.to_string());
    report.record(offset, error.to_string(), help);
}

/// Names of Cedar actions in a schema that are neither operations nor classes.
pub(crate) fn foreign_actions(schema: &Schema, known: &BTreeSet<String>) -> Vec<String> {
    let mut foreign: Vec<String> = schema
        .actions()
        .map(|action| action.id().unescaped().to_owned())
        .filter(|name| !known.contains(name))
        .collect();
    foreign.sort();
    foreign
}
