//! Which policies can speak about which operation.
//!
//! Cedar tries every policy of the set it is given. Each operation acts on one
//! kind of target, so a set for each operation holds all that can matter to it:
//! the policies whose scope admits its action and its entity type.

use std::collections::BTreeSet;
use std::str::FromStr;

use cedar_policy::{
    ActionConstraint, Entities, Entity, EntityId, EntityTypeName, EntityUid, Policy, PolicySet, ResourceConstraint,
    Schema,
};

use crate::operation::Operation;

/// What the engine needs to ask about one operation.
#[derive(Debug)]
pub(crate) struct Indexed {
    pub(crate) action: EntityUid,
    /// The action as an entity, so that `action in Action::"write"` holds.
    pub(crate) action_entity: Entity,
    pub(crate) resource_type: EntityTypeName,
    pub(crate) policies: PolicySet,
}

impl Indexed {
    /// Builds the index of one operation, or says what the schema lacks.
    pub(crate) fn build(
        operation: &Operation,
        schema: &Schema,
        actions: &Entities,
        policies: &[Policy],
    ) -> Result<Self, String> {
        let name = &operation.info.name;
        let action = action_uid(name)?;
        let resource_type = type_name(operation.info.target.entity_type())?;
        let action_entity =
            actions.get(&action).cloned().ok_or_else(|| format!("the schema has no action `{name}`"))?;
        let groups: BTreeSet<EntityUid> = actions.ancestors(&action).into_iter().flatten().cloned().collect();
        let class = action_uid(operation.info.class.name())?;
        if !groups.contains(&class) {
            return Err(format!("action `{name}` is not in {class}"));
        }
        check_types(schema, &action, "principal", &type_name("Agent")?)?;
        check_types(schema, &action, "resource", &resource_type)?;
        let relevant = policies
            .iter()
            .filter(|policy| admits_action(policy, &action, &groups))
            .filter(|policy| admits_resource(policy, &resource_type))
            .cloned();
        let policies = PolicySet::from_policies(relevant).map_err(|error| error.to_string())?;
        Ok(Self { action, action_entity, resource_type, policies })
    }
}

fn check_types(schema: &Schema, action: &EntityUid, role: &str, wanted: &EntityTypeName) -> Result<(), String> {
    let types: BTreeSet<&EntityTypeName> = if role == "principal" {
        schema.principals_for_action(action).into_iter().flatten().collect()
    } else {
        schema.resources_for_action(action).into_iter().flatten().collect()
    };
    if types == BTreeSet::from([wanted]) {
        return Ok(());
    }
    Err(format!("{action} must apply to the {role} type `{wanted}` and no other"))
}

fn admits_action(policy: &Policy, action: &EntityUid, groups: &BTreeSet<EntityUid>) -> bool {
    match policy.action_constraint() {
        ActionConstraint::Any => true,
        ActionConstraint::Eq(uid) => uid == *action,
        ActionConstraint::In(uids) => uids.iter().any(|uid| uid == action || groups.contains(uid)),
    }
}

fn admits_resource(policy: &Policy, resource_type: &EntityTypeName) -> bool {
    match policy.resource_constraint() {
        // Membership is a question about entities, not about scopes.
        ResourceConstraint::Any | ResourceConstraint::In(_) => true,
        ResourceConstraint::Eq(uid) => uid.type_name() == resource_type,
        ResourceConstraint::Is(name) | ResourceConstraint::IsIn(name, _) => name == *resource_type,
    }
}

/// The entity of an action or of a class of actions.
pub(crate) fn action_uid(name: &str) -> Result<EntityUid, String> {
    Ok(EntityUid::from_type_name_and_id(type_name("Action")?, EntityId::new(name)))
}

/// An entity type of this crate's own vocabulary.
pub(crate) fn type_name(name: &str) -> Result<EntityTypeName, String> {
    EntityTypeName::from_str(name).map_err(|error| error.to_string())
}
