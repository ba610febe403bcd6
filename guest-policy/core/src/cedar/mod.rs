//! The Cedar engine: the same facts as the native engine's, asked of policies.
//!
//! What needs regular expressions, globs or labels of names is worked out once
//! and given to both engines: Cedar sees the outcome as an attribute.

mod guard;
mod index;
mod load;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use cedar_policy::{
    Authorizer, Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, Request, RestrictedExpression as Value,
    Schema, Validator,
};

use self::index::Indexed;
use self::load::{About, Place, Policies};
use crate::compare::CedarScope;
use crate::decide::Facts;
use crate::decision::{Effect, PolicyInfo};
use crate::operation::Operations;
use crate::problem::{Care, Problem, Reporter, missing};
use crate::profile::Profile;
use crate::request::Target;

/// The policies of a bundle, indexed by operation.
#[derive(Debug)]
pub(crate) struct CedarEngine {
    authorizer: Authorizer,
    validator: Validator,
    operations: Vec<Indexed>,
    /// What a profile gives its agents, by profile.
    profiles: BTreeMap<String, Vec<(String, Value)>>,
    about: BTreeMap<String, About>,
    infos: Vec<PolicyInfo>,
    agent: EntityTypeName,
    agent_type: EntityTypeName,
}

/// What Cedar says.
#[derive(Debug, Default)]
pub(crate) struct CedarVerdict {
    pub(crate) allowed: bool,
    /// Policies that determined it, sorted.
    pub(crate) policies: Vec<String>,
    /// Any of them denies: Cedar skips a policy that it cannot evaluate.
    pub(crate) errors: Vec<String>,
}

impl CedarEngine {
    /// Reads, checks and indexes schema and policies.
    pub(crate) fn load(
        schema_text: &str,
        files: &[(&str, &str)],
        operations: &Operations,
        profiles: &BTreeMap<String, Profile>,
        care: Care,
        problems: &mut Vec<Problem>,
    ) -> Option<Self> {
        let mut report = Reporter::new(SCHEMA_FILE, schema_text, care, problems);
        let schema = load::read_schema(schema_text, &mut report)?;
        check_actions(&schema, operations, &mut report);
        let validator = Validator::new(schema.clone());
        let mut policies = Policies::default();
        for (path, text) in files {
            policies.read(text, &validator, &mut Reporter::new(path, text, care, problems));
        }
        let places = std::mem::take(&mut policies.places);
        let engine = Self::index(validator, policies, operations, profiles);
        if let Ok(engine) = &engine {
            for (path, text) in files {
                engine.tell_idle(&places, path, &mut Reporter::new(path, text, care, problems));
            }
        }
        let engine = engine.and_then(|engine| {
            engine.check_vocabulary(&schema, operations, profiles)?;
            Ok(engine)
        });
        engine.map_err(|message| problems.push(missing(SCHEMA_FILE, message))).ok()
    }

    fn index(
        validator: Validator,
        policies: Policies,
        operations: &Operations,
        profiles: &BTreeMap<String, Profile>,
    ) -> Result<Self, String> {
        let schema = validator.schema();
        let actions = schema.action_entities().map_err(|error| error.to_string())?;
        let indexed: Result<Vec<_>, String> =
            operations.iter().map(|operation| Indexed::build(operation, schema, &actions, &policies.list)).collect();
        let infos = policies.about.iter().map(|(id, about)| PolicyInfo {
            id: id.clone(),
            reason: about.reason.clone(),
            effect: if about.forbids { Effect::Deny } else { Effect::Allow },
        });
        Ok(Self {
            authorizer: Authorizer::new(),
            operations: indexed?,
            profiles: profiles.iter().map(|(name, own)| (name.clone(), attributes(own))).collect(),
            infos: infos.collect(),
            about: policies.about,
            agent: index::type_name("Agent")?,
            agent_type: index::type_name("AgentType")?,
            validator,
        })
    }

    /// Tells of the policies of a file that no operation's requests can meet.
    fn tell_idle(&self, places: &[Place], file: &str, report: &mut Reporter<'_>) {
        let meets = |id: &str| {
            let named = |policy: &cedar_policy::Policy| AsRef::<str>::as_ref(policy.id()) == id;
            self.operations.iter().any(|indexed| indexed.policies.policies().any(named))
        };
        for place in places.iter().filter(|place| place.file == file && !meets(&place.id)) {
            report.idle(
                place.offset..place.offset,
                format!("policy `{}` can never match: no operation has its action and its type of resource", place.id),
                "see operations.toml for what each operation acts on",
            );
        }
    }

    /// Builds a request about every operation and checks it against the schema,
    /// so that no attribute of the schema is missing when policies are asked.
    fn check_vocabulary(
        &self,
        schema: &Schema,
        operations: &Operations,
        profiles: &BTreeMap<String, Profile>,
    ) -> Result<(), String> {
        let Some(profile) = profiles.values().next() else { return Ok(()) };
        for operation in operations.iter() {
            let request = crate::sample::request(&operation.info);
            let facts = Facts::sample(&request, operation, profile);
            self.build(&facts, Some(schema))
                .map_err(|error| format!("operation `{}`: {error}", operation.info.name))?;
        }
        Ok(())
    }

    /// The policies, sorted by id.
    pub(crate) fn policies(&self) -> &[PolicyInfo] {
        &self.infos
    }

    /// The schema that policies and requests fit.
    pub(crate) fn schema(&self) -> &Schema {
        self.validator.schema()
    }

    /// What is asked about an operation, by its place in the bundle's list.
    pub(crate) fn scope(&self, operation: usize) -> Option<CedarScope<'_>> {
        self.operations.get(operation).map(|indexed| CedarScope {
            action: &indexed.action,
            principal: &self.agent,
            resource: &indexed.resource_type,
            policies: &indexed.policies,
        })
    }

    /// Code and remedy of a policy.
    pub(crate) fn about(&self, id: &str) -> Option<(&str, Option<&str>)> {
        self.about.get(id).map(|about| (about.reason.as_str(), about.remedy.as_deref()))
    }

    /// Checks a text of policies against the schema of the bundle.
    pub(crate) fn validate(&self, text: &str) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut report = Reporter::new("", text, Care::Loading, &mut problems);
        Policies::default().read(text, &self.validator, &mut report);
        problems
    }

    /// Asks the policies.
    pub(crate) fn decide(&self, facts: &Facts<'_>) -> CedarVerdict {
        let (indexed, request, entities) = match self.build(facts, None) {
            Ok(built) => built,
            Err(error) => return CedarVerdict { errors: vec![error], ..CedarVerdict::default() },
        };
        let response = self.authorizer.is_authorized(&request, &indexed.policies, &entities);
        let diagnostics = response.diagnostics();
        let mut policies: Vec<String> = diagnostics.reason().map(ToString::to_string).collect();
        let mut errors: Vec<String> = diagnostics.errors().map(ToString::to_string).collect();
        policies.sort();
        errors.sort();
        let allowed = errors.is_empty() && response.decision() == cedar_policy::Decision::Allow;
        CedarVerdict { allowed, policies, errors }
    }

    fn build(&self, facts: &Facts<'_>, schema: Option<&Schema>) -> Result<(&Indexed, Request, Entities), String> {
        let indexed = self.operations.get(facts.operation.index).ok_or("operation not indexed")?;
        let agent = self.uid(&self.agent, &facts.request.principal.agent_id);
        let resource = self.uid(&indexed.resource_type, facts.request.target.id());
        let mut entities = vec![indexed.action_entity.clone(), self.agent_entity(&agent, facts)?];
        if resource != agent {
            entities.extend(resource_entity(&resource, facts)?);
        }
        let entities = Entities::from_entities(entities, schema).map_err(|e| e.to_string())?;
        let context = Context::from_pairs([
            ("operation".to_owned(), string(&facts.operation.info.name)),
            ("blocking_patterns".to_owned(), set(facts.blocking())),
        ]);
        let context = context.map_err(|error| error.to_string())?;
        let request = Request::new(agent, indexed.action.clone(), resource, context, schema);
        Ok((indexed, request.map_err(|error| error.to_string())?, entities))
    }

    fn uid(&self, type_name: &EntityTypeName, id: &str) -> EntityUid {
        EntityUid::from_type_name_and_id(type_name.clone(), EntityId::new(id))
    }

    fn agent_entity(&self, uid: &EntityUid, facts: &Facts<'_>) -> Result<Entity, String> {
        let principal = &facts.request.principal;
        let given = self.profiles.get(&facts.profile.info.name).ok_or("profile not indexed")?;
        let own = [
            ("agent_type".to_owned(), string(&principal.agent_type)),
            ("trust_level".to_owned(), Value::new_long(i64::from(facts.trust))),
        ];
        let attributes: HashMap<_, _> = given.iter().cloned().chain(own).collect();
        let parent = self.uid(&self.agent_type, &principal.agent_type);
        Entity::new(uid.clone(), attributes, HashSet::from([parent])).map_err(|e| e.to_string())
    }
}

/// Path of the schema inside a bundle.
const SCHEMA_FILE: &str = "schema.cedarschema";

/// Every action of the schema is an operation or a class of operations.
fn check_actions(schema: &Schema, operations: &Operations, report: &mut Reporter<'_>) {
    let classes = ["read", "write", "admin", "owner"].map(str::to_owned);
    let mut known: BTreeSet<String> = classes.into();
    known.extend(operations.iter().map(|operation| operation.info.name.clone()));
    for action in load::foreign_actions(schema, &known) {
        let help = "define it in operations.toml, or take it out".to_owned();
        report.record(None, format!("action `{action}` is not an operation"), Some(help));
    }
}

/// What a profile gives its agents.
fn attributes(profile: &Profile) -> Vec<(String, Value)> {
    let info = &profile.info;
    vec![
        ("profile".to_owned(), string(&info.name)),
        ("agent_types".to_owned(), set(&info.agent_types)),
        ("allowed_operations".to_owned(), set(&info.allowed_operations)),
        ("blocked_operations".to_owned(), set(&info.blocked_operations)),
        ("grants".to_owned(), set(&info.grants)),
        ("task_types".to_owned(), set(&info.task_types)),
    ]
}

/// The target as an entity. An agent other than the caller has none: its facts
/// are not known here, and a policy that asks for them cannot be evaluated.
fn resource_entity(uid: &EntityUid, facts: &Facts<'_>) -> Result<Option<Entity>, String> {
    let attributes: Vec<(&str, Value)> = match &facts.request.target {
        Target::LockKey(path) | Target::File(path) => {
            let outcome = facts.path.as_ref().ok_or("no outcome of path rules")?;
            vec![("path", string(path)), ("path_rule", string(outcome.word()))]
        }
        Target::Domain(name) => {
            let outcome = facts.network.as_ref().ok_or("no outcome of network rules")?;
            vec![("name", string(name)), ("network_rule", string(outcome.word()))]
        }
        Target::Task(task) => {
            vec![("task_type", string(&task.task_type)), ("priority", Value::new_long(i64::from(task.priority)))]
        }
        Target::Agent(_) => return Ok(None),
        _ => Vec::new(),
    };
    let attributes = attributes.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    Entity::new(uid.clone(), attributes, HashSet::new()).map(Some).map_err(|e| e.to_string())
}

fn string(text: &str) -> Value {
    Value::new_string(text.to_owned())
}

fn set<'a>(items: impl IntoIterator<Item = &'a String>) -> Value {
    Value::new_set(items.into_iter().map(|item| string(item)))
}
