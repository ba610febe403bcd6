//! A request that the solver found: asked of Cedar's authorizer, and shown.

use cedar_policy::{Authorizer, Decision, EntityUid, PolicySet};
use cedar_policy_symcc::Env;
use serde_json::Value;

use super::report::Witness;

/// Whether the policies allow it; where strictly, as Portreeve reads them: a policy that fails denies.
pub(super) fn is_allowed(env: &Env, policies: &PolicySet, strict: bool) -> bool {
    let response = Authorizer::new().is_authorized(&env.request, policies, &env.entities);
    response.decision() == Decision::Allow && !(strict && response.diagnostics().errors().next().is_some())
}

/// Whether a policy fails at it.
pub(super) fn fails(env: &Env, policies: &PolicySet) -> bool {
    Authorizer::new().is_authorized(&env.request, policies, &env.entities).diagnostics().errors().next().is_some()
}

/// The request as data: who asks and what is acted on, and what else the solver made up, but not all actions of the schema.
pub(super) fn shown(env: &Env) -> Result<Witness, String> {
    let uid = |uid: Option<&EntityUid>| uid.map(ToString::to_string).unwrap_or_default();
    let context = match env.request.context() {
        Some(context) => context.to_json_value().map_err(|error| error.to_string())?,
        None => Value::Null,
    };
    let is_action = |entity: &Value| entity.pointer("/uid/type").is_some_and(|name| name == "Action");
    let entities = env.entities.to_json_value().map_err(|error| error.to_string())?;
    let entities = entities.as_array().into_iter().flatten().filter(|entity| !is_action(entity)).cloned();
    let mut entities: Vec<Value> = entities.collect();
    entities.sort_by_cached_key(Value::to_string);
    Ok(Witness {
        principal: uid(env.request.principal()),
        action: uid(env.request.action()),
        resource: uid(env.request.resource()),
        context,
        entities,
    })
}
