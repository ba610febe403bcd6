//! What a comparison of two bundles reads beyond their manifests.

use cedar_policy::{EntityTypeName, EntityUid, PolicySet, Schema};

use crate::decide::Policy;
use crate::operation::Guardrails;

/// What the manifest leaves out of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OperationRules {
    /// A profile may allow it below the trust of its class.
    pub grantable: bool,
    /// A match that blocks is only reported.
    pub reports_only: bool,
}

/// What a guardrail pattern looks for, as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expressions<'a> {
    /// Tried on the text as it stands.
    pub on_text: bool,
    /// Tried on the commands of the text.
    pub on_commands: bool,
    /// What matches, each by itself.
    pub matchers: Vec<&'a str>,
    /// What excuses a match, each by itself.
    pub unless: Vec<&'a str>,
    /// What excuses a match in the rest of its statement.
    pub without: Option<&'a str>,
}

/// What Cedar is asked about one operation.
#[derive(Debug, Clone, Copy)]
pub struct CedarScope<'a> {
    /// The operation as an action.
    pub action: &'a EntityUid,
    /// The type of every principal.
    pub principal: &'a EntityTypeName,
    /// The type of what the operation acts on.
    pub resource: &'a EntityTypeName,
    /// The policies that can matter to it.
    pub policies: &'a PolicySet,
}

impl Policy {
    /// The rules of an operation.
    #[must_use]
    pub fn operation_rules(&self, operation: &str) -> Option<OperationRules> {
        let operation = self.operations.get(operation)?;
        let reports_only = operation.guardrails == Guardrails::Report;
        Some(OperationRules { grantable: operation.grantable, reports_only })
    }

    /// What a guardrail pattern looks for.
    #[must_use]
    pub fn expressions(&self, pattern: &str) -> Option<Expressions<'_>> {
        self.guardrails.patterns().find(|known| known.info.name == pattern).map(|found| found.expressions())
    }

    /// The schema of the Cedar policies.
    #[must_use]
    pub fn cedar_schema(&self) -> &Schema {
        self.cedar.schema()
    }

    /// What Cedar is asked about an operation.
    #[must_use]
    pub fn cedar_scope(&self, operation: &str) -> Option<CedarScope<'_>> {
        self.cedar.scope(self.operations.get(operation)?.index)
    }
}
