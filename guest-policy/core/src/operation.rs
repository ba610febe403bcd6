//! The operations of a bundle (`operations.toml`).

use serde::Deserialize;
use std::collections::BTreeMap;
use toml::Spanned;

use crate::decision::{OperationClass, OperationInfo};
use crate::problem::Reporter;
use crate::request::TargetKind;

/// What guardrail matches do to an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Guardrails {
    /// A blocking match denies.
    #[default]
    Enforce,
    /// Matches are reported and deny nothing: the operation asks about a text.
    Report,
}

/// An operation, and its place in the bundle's list.
#[derive(Debug)]
pub(crate) struct Operation {
    pub(crate) index: usize,
    pub(crate) info: OperationInfo,
    /// Harmless enough for a profile to lower its threshold.
    pub(crate) grantable: bool,
    pub(crate) guardrails: Guardrails,
}

/// The operations by name, in the order of the file.
#[derive(Debug, Default)]
pub(crate) struct Operations {
    list: Vec<Operation>,
    by_name: BTreeMap<String, usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    operation: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: Spanned<String>,
    class: OperationClass,
    target: TargetKind,
    #[serde(default)]
    grantable: bool,
    #[serde(default)]
    guardrails: Guardrails,
    description: String,
}

impl Operations {
    /// Reads `operations.toml`.
    pub(crate) fn read(text: &str, report: &mut Reporter<'_>) -> Self {
        let mut operations = Self::default();
        let Some(file) = crate::bundle::parse_toml::<File>(text, report) else { return operations };
        for entry in file.operation {
            operations.add(entry, report);
        }
        if operations.list.is_empty() {
            report.record(None, "no operation is defined".into(), None);
        }
        operations
    }

    fn add(&mut self, entry: Entry, report: &mut Reporter<'_>) {
        let (span, name) = (entry.name.span(), entry.name.into_inner());
        if !crate::bundle::is_name(&name) {
            return report.at_with_help(span, format!("`{name}` is not a name"), crate::bundle::NAME_HELP);
        }
        let index = self.list.len();
        if self.by_name.contains_key(&name) {
            return report.at(span, format!("operation `{name}` is defined twice"));
        }
        if entry.grantable && entry.class > OperationClass::Write {
            return report.at_with_help(
                span,
                format!("operation `{name}` of class `{}` cannot be grantable", entry.class.name()),
                "only reads and harmless writes may pass below their threshold",
            );
        }
        self.by_name.insert(name.clone(), index);
        let info = OperationInfo { name, class: entry.class, target: entry.target, description: entry.description };
        let (grantable, guardrails) = (entry.grantable, entry.guardrails);
        self.list.push(Operation { index, info, grantable, guardrails });
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Operation> {
        self.by_name.get(name).and_then(|index| self.list.get(*index))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Operation> {
        self.list.iter()
    }
}
