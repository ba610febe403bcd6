//! What a schema says that matters to one request environment, to tell whether two schemas mean the same by it.

use std::collections::{BTreeMap, BTreeSet};

use cedar_policy::{EntityUid, Schema, SchemaFragment};
use serde_json::Value;

/// A schema, taken apart.
pub(super) struct Shapes {
    /// Declarations of types by their names without namespaces; there may be several.
    types: BTreeMap<String, Vec<Value>>,
    /// Declarations of actions by name.
    actions: BTreeMap<String, Vec<Value>>,
    /// The groups that each action is in, however far up.
    groups: BTreeMap<String, BTreeSet<String>>,
}

/// All that a schema says about an environment. Equal ones mean the same.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Shape<'a> {
    action: Vec<&'a Value>,
    groups: BTreeSet<String>,
    types: BTreeMap<&'a str, &'a [Value]>,
}

impl Shapes {
    /// Takes a schema apart.
    pub(super) fn of(text: &str, schema: &Schema) -> Result<Self, String> {
        let (fragment, _warnings) = SchemaFragment::from_cedarschema_str(text).map_err(|error| error.to_string())?;
        let json = fragment.to_json_value().map_err(|error| error.to_string())?;
        let mut shapes = Self { types: BTreeMap::new(), actions: BTreeMap::new(), groups: BTreeMap::new() };
        for namespace in json.as_object().into_iter().flat_map(|spaces| spaces.values()) {
            for kind in ["entityTypes", "commonTypes", "actions"] {
                let into = if kind == "actions" { &mut shapes.actions } else { &mut shapes.types };
                for (name, declared) in namespace.get(kind).and_then(Value::as_object).into_iter().flatten() {
                    into.entry(name.clone()).or_default().push(declared.clone());
                }
            }
        }
        let entities = schema.action_entities().map_err(|error| error.to_string())?;
        for action in schema.actions() {
            let groups = entities.ancestors(action).into_iter().flatten();
            shapes.groups.insert(action.to_string(), groups.map(ToString::to_string).collect());
        }
        Ok(shapes)
    }

    /// What is said about an action and, step by step, about every type that is mentioned there.
    pub(super) fn of_action(&self, action: &EntityUid) -> Shape<'_> {
        let declared = self.actions.get(action.id().unescaped()).map(Vec::as_slice).unwrap_or_default();
        // The groups are compared by themselves, and only by what they are.
        let parts = ["appliesTo", "attributes"].into_iter();
        let own: Vec<&Value> = declared.iter().flat_map(|one| parts.clone().filter_map(|part| one.get(part))).collect();
        let mut types = BTreeMap::new();
        let mut open: Vec<&str> = own.iter().flat_map(|value| mentioned(value)).collect();
        while let Some(name) = open.pop() {
            let Some((name, found)) = self.types.get_key_value(name) else { continue };
            if types.insert(name.as_str(), found.as_slice()).is_none() {
                open.extend(found.iter().flat_map(mentioned));
            }
        }
        let groups = self.groups.get(&action.to_string()).cloned().unwrap_or_default();
        Shape { action: own, groups, types }
    }
}

/// Every text of a declaration that may be the name of a type, without its namespace. Attributes that happen to be called
/// like a type are among them, which only makes the comparison stricter.
fn mentioned(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text.rsplit("::").next().unwrap_or(text)],
        Value::Array(items) => items.iter().flat_map(mentioned).collect(),
        Value::Object(fields) => fields.values().flat_map(mentioned).collect(),
        _ => Vec::new(),
    }
}
