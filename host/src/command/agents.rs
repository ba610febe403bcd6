//! Agents and their keys: register, list, give and revoke keys, change the profile, suspend.
//!
//! What these change is what decisions are made from, so each moves the agent's
//! facts version: nothing commits after them that was decided before.

use schemars::JsonSchema;
use serde::Serialize;

use super::action::{Action, Command, Lookout, Query, Subject};
use super::input::{Field, Input, Kind, LIMIT, Preset};
use crate::authn::{KeyHashes, Principal, new_key};
use crate::clock::Time;
use crate::engine::types::{ProfileInfo, Target};
use crate::error::{Error, Result};
use crate::gate::Permit;

const OPERATION: &str = "manage_agents";

/// Business reason: no such agent.
pub const AGENT_NOT_FOUND: &str = "agent_not_found";
/// Business reason: the name is taken.
pub const AGENT_EXISTS: &str = "agent_exists";
/// Business reason: an agent has that key already.
pub const KEY_EXISTS: &str = "key_exists";
/// Business reason: that key was revoked here; a revoked key never comes back.
pub const KEY_REVOKED: &str = "key_revoked";
/// Business reason: no such live key of this agent.
pub const KEY_NOT_FOUND: &str = "key_not_found";
/// Business reason: an agent cannot suspend itself or change its own profile, so that one admin always remains.
pub const OWN_ACCOUNT: &str = "own_account";
/// Business reason: the service's own agent cannot be changed.
pub const SYSTEM_AGENT: &str = "system_agent_is_fixed";

const ID: Field = Field::new("id", Kind::Id, "The agent's name").required();
const LABEL: Field = Field::new("label", Kind::Text(256), "What the key is for");
const IMPORT_HASH: Field = Field::new(
    "import_hash",
    Kind::Text(80),
    "Take over a key that the agent has from elsewhere: its hashes, as `portreeve agent import` makes them",
)
.secret();
const PROFILE: Field = Field::new("profile", Kind::Id, "A profile of the active policy").required();

/// A key that an agent gets, as the store takes it. The secret of a new one is for the answer alone.
#[derive(Debug, Clone)]
pub struct KeyDraft {
    /// Identifies the key.
    pub key_id: String,
    /// What the store keeps.
    pub hashes: KeyHashes,
    /// What it is for.
    pub label: Option<String>,
    /// None for a key that is taken over: only its owner knows it.
    secret: Option<String>,
}

impl KeyDraft {
    fn new(label: Option<String>) -> Result<Self> {
        let key = new_key().map_err(|error| {
            tracing::error!(error = %error, "the operating system gave no randomness");
            Error::StorageUnavailable
        })?;
        Ok(Self { key_id: super::new_id(), hashes: key.hashes, label, secret: Some(key.secret) })
    }

    fn taken_over(hash: &str, label: Option<String>) -> Result<Self> {
        let hashes = KeyHashes::from_hex(hash).ok_or_else(|| {
            let msg = "a key's hash is 80 hexadecimal digits, as `portreeve agent import` makes them";
            Error::field("import_hash", "invalid_hash", msg)
        })?;
        Ok(Self { key_id: super::new_id(), hashes, label, secret: None })
    }

    /// The key itself, for its owner; none of a key that is taken over.
    #[must_use]
    pub fn secret(&self) -> Option<String> {
        self.secret.clone()
    }
}

/// The profile must exist and be meant for the type; else every decision about the agent would deny.
fn check_profile(profiles: &[ProfileInfo], profile: &str, agent_type: Option<&str>) -> Result<()> {
    let names = || profiles.iter().map(|p| p.name.as_str()).collect::<Vec<_>>().join(", ");
    let Some(info) = profiles.iter().find(|info| info.name == profile) else {
        let msg = format!("`{profile}` is not a profile of the active policy; it has {}", names());
        return Err(Error::field("profile", "unknown_profile", msg));
    };
    let fits = |agent_type| info.agent_types.iter().any(|t| t == "*" || t == agent_type);
    match agent_type {
        Some(agent_type) if !fits(agent_type) => Err(Error::field(
            "profile",
            "profile_not_for_agent_type",
            format!("`{profile}` is for agents of type {}, not `{agent_type}`", info.agent_types.join(", ")),
        )),
        _ => Ok(()),
    }
}

fn check_name(field: &str, name: &str) -> Result<()> {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':' | '@' | '/');
    if name.chars().all(fine) && name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.len() <= 128 {
        return Ok(());
    }
    let msg = "a name begins with a letter or digit and holds letters, digits and `-_.:@/` only, at most 128";
    Err(Error::field(field, "invalid_name", msg))
}

// ------------------------------------------------------------------ create

/// Registers an agent and gives it its first key, if it is to have one.
#[derive(Debug, Clone)]
pub struct AgentCreate {
    /// Its name.
    pub agent_id: String,
    /// Its type.
    pub agent_type: String,
    /// Its profile.
    pub profile: String,
    /// Its archetype, which tasks may ask for.
    pub archetype: Option<String>,
    /// Its first key.
    pub key: Option<KeyDraft>,
}

/// What a registration answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct AgentCreated {
    /// Whether the agent is registered by this call.
    pub success: bool,
    /// Its name.
    pub agent_id: String,
    /// Its type.
    pub agent_type: String,
    /// Its profile.
    pub profile: String,
    /// Identifies the key.
    pub key_id: Option<String>,
    /// The key. Shown this once.
    pub key: Option<String>,
    /// Why not.
    pub reason: Option<&'static str>,
}

impl Action for AgentCreate {
    const NAME: &'static str = "agent_create";
    const OPERATION: &'static str = OPERATION;
    const INPUT: &'static [Field] = &[
        Field::new("agent_id", Kind::Id, "The agent's name").required(),
        Field::new("agent_type", Kind::Id, "The agent's type, for instance `claude_code`").required(),
        PROFILE,
        Field::new("archetype", Kind::Id, "Its archetype, which tasks may ask for"),
        LABEL,
        Field::new("with_key", Kind::Bool, "Whether it gets a key").preset(Preset::Bool(true)),
    ];
    type Output = AgentCreated;

    fn parse(input: &Input, _who: &Principal) -> Result<Self> {
        let (agent_id, agent_type) = (input.text("agent_id"), input.text("agent_type"));
        check_name("agent_id", &agent_id)?;
        check_name("agent_type", &agent_type)?;
        if agent_type == crate::authn::SYSTEM {
            return Err(Error::field("agent_type", "invalid_name", "`system` is the service's own type"));
        }
        let with_key = input.opt_bool("with_key").unwrap_or(true);
        let key = with_key.then(|| KeyDraft::new(input.opt_text("label"))).transpose()?;
        let (profile, archetype) = (input.text("profile"), input.opt_text("archetype"));
        Ok(Self { agent_id, agent_type, profile, archetype, key })
    }

    async fn subject(&self, _at: Lookout<'_>) -> Result<Subject> {
        Ok(Subject::of(self.resource()))
    }

    fn resource(&self) -> Target {
        Target::Agent(self.agent_id.clone())
    }
}

impl Command for AgentCreate {
    const SECRETS: &'static [&'static str] = &["key"];

    async fn check(&self, at: Lookout<'_>) -> Result<()> {
        check_profile(&at.manifest().profiles, &self.profile, Some(&self.agent_type))
    }

    fn is_refused(output: &AgentCreated) -> bool {
        !output.success
    }
}

// -------------------------------------------------------------------- keys

/// Gives an agent one more key: a new one, or one that it has from elsewhere.
#[derive(Debug, Clone)]
pub struct AgentKeyCreate {
    /// The agent.
    pub agent_id: String,
    /// The key.
    pub key: KeyDraft,
}

/// What a new key answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct AgentKeyCreated {
    /// Whether there is a new key.
    pub success: bool,
    /// Whose key it is.
    pub agent_id: String,
    /// Identifies the key.
    pub key_id: Option<String>,
    /// The key. Shown this once.
    pub key: Option<String>,
    /// Why not.
    pub reason: Option<&'static str>,
}

impl Action for AgentKeyCreate {
    const NAME: &'static str = "agent_key_create";
    const OPERATION: &'static str = OPERATION;
    const INPUT: &'static [Field] = &[ID, LABEL, IMPORT_HASH];
    type Output = AgentKeyCreated;

    fn parse(input: &Input, _who: &Principal) -> Result<Self> {
        let label = input.opt_text("label");
        let key = match input.opt_text("import_hash") {
            Some(hash) => KeyDraft::taken_over(&hash, label)?,
            None => KeyDraft::new(label)?,
        };
        Ok(Self { agent_id: input.text("id"), key })
    }

    async fn subject(&self, _at: Lookout<'_>) -> Result<Subject> {
        Ok(Subject::of(self.resource()))
    }

    fn resource(&self) -> Target {
        Target::Agent(self.agent_id.clone())
    }
}

impl Command for AgentKeyCreate {
    const SECRETS: &'static [&'static str] = &["key"];

    fn is_refused(output: &AgentKeyCreated) -> bool {
        !output.success
    }
}

/// Takes a key back, for good.
#[derive(Debug, Clone)]
pub struct AgentKeyRevoke {
    /// The agent.
    pub agent_id: String,
    /// Which key.
    pub key_id: String,
}

/// What a change of an agent answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct AgentChanged {
    /// Whether it was changed.
    pub success: bool,
    /// The agent.
    pub agent_id: String,
    /// Why not.
    pub reason: Option<&'static str>,
}

impl AgentChanged {
    /// It was changed.
    #[must_use]
    pub fn done(agent_id: &str) -> Self {
        Self { success: true, agent_id: agent_id.to_owned(), reason: None }
    }

    /// It was not.
    #[must_use]
    pub fn refused(agent_id: &str, reason: &'static str) -> Self {
        Self { success: false, agent_id: agent_id.to_owned(), reason: Some(reason) }
    }
}

impl Action for AgentKeyRevoke {
    const NAME: &'static str = "agent_key_revoke";
    const OPERATION: &'static str = OPERATION;
    const INPUT: &'static [Field] = &[ID, Field::new("key_id", Kind::Uuid, "Which key").required()];
    type Output = AgentChanged;

    fn parse(input: &Input, _who: &Principal) -> Result<Self> {
        Ok(Self { agent_id: input.text("id"), key_id: input.text("key_id") })
    }

    async fn subject(&self, _at: Lookout<'_>) -> Result<Subject> {
        Ok(Subject::of(self.resource()))
    }

    fn resource(&self) -> Target {
        Target::Agent(self.agent_id.clone())
    }
}

impl Command for AgentKeyRevoke {
    fn is_refused(output: &AgentChanged) -> bool {
        !output.success
    }
}

// ----------------------------------------------------------------- profile

/// Gives an agent another profile.
#[derive(Debug, Clone)]
pub struct AgentProfile {
    /// The agent.
    pub agent_id: String,
    /// Its new profile.
    pub profile: String,
}

impl Action for AgentProfile {
    const NAME: &'static str = "agent_profile";
    const OPERATION: &'static str = OPERATION;
    const INPUT: &'static [Field] = &[ID, PROFILE];
    type Output = AgentChanged;

    fn parse(input: &Input, _who: &Principal) -> Result<Self> {
        Ok(Self { agent_id: input.text("id"), profile: input.text("profile") })
    }

    async fn subject(&self, _at: Lookout<'_>) -> Result<Subject> {
        Ok(Subject::of(self.resource()))
    }

    fn resource(&self) -> Target {
        Target::Agent(self.agent_id.clone())
    }
}

impl Command for AgentProfile {
    async fn check(&self, at: Lookout<'_>) -> Result<()> {
        let facts = at.view.facts_by_agent(&self.agent_id).await?;
        check_profile(&at.manifest().profiles, &self.profile, facts.as_ref().map(|facts| facts.agent_type.as_str()))
    }

    fn is_refused(output: &AgentChanged) -> bool {
        !output.success
    }
}

// ----------------------------------------------------------------- suspend

/// Suspends an agent, or lets it work again.
#[derive(Debug, Clone)]
pub struct AgentSuspend {
    /// The agent.
    pub agent_id: String,
    /// Whether it is suspended from now on.
    pub suspended: bool,
    /// Why, in words.
    pub reason: Option<String>,
}

impl Action for AgentSuspend {
    const NAME: &'static str = "agent_suspend";
    const OPERATION: &'static str = OPERATION;
    const INPUT: &'static [Field] = &[
        ID,
        Field::new("suspended", Kind::Bool, "False lets it work again").required(),
        Field::new("reason", Kind::Text(4096), "Why, in words"),
    ];
    type Output = AgentChanged;

    fn parse(input: &Input, _who: &Principal) -> Result<Self> {
        let suspended = input.opt_bool("suspended").unwrap_or(true);
        Ok(Self { agent_id: input.text("id"), suspended, reason: input.opt_text("reason") })
    }

    async fn subject(&self, _at: Lookout<'_>) -> Result<Subject> {
        Ok(Subject::of(self.resource()))
    }

    fn resource(&self) -> Target {
        Target::Agent(self.agent_id.clone())
    }
}

impl Command for AgentSuspend {
    fn is_refused(output: &AgentChanged) -> bool {
        !output.success
    }
}

// -------------------------------------------------------------------- list

/// Lists agents and their keys, without secrets.
#[derive(Debug, Clone)]
pub struct AgentList {
    /// Only this agent.
    pub agent_id: Option<String>,
    /// Most entries.
    pub limit: i64,
    /// Whether the profiles of the policy in force are listed, too.
    pub with_profiles: bool,
}

/// A key as lists show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[expect(missing_docs, reason = "the columns of the table")]
pub struct KeyEntry {
    pub key_id: String,
    pub label: Option<String>,
    pub created_at: Time,
    pub created_by: String,
    pub revoked_at: Option<Time>,
}

/// An agent as lists show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[expect(missing_docs, reason = "the columns of the table")]
pub struct AgentEntry {
    pub agent_id: String,
    pub agent_type: String,
    pub profile: String,
    pub archetype: Option<String>,
    pub suspended: bool,
    pub suspended_reason: Option<String>,
    pub facts_version: i64,
    pub created_at: Time,
    pub created_by: String,
    pub keys: Vec<KeyEntry>,
}

/// A profile that an agent may be given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[expect(missing_docs, reason = "said by the policy")]
pub struct ProfileEntry {
    pub name: String,
    pub agent_types: Vec<String>,
    pub trust_level: u8,
}

/// Agents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct AgentListing {
    /// The agents, by name.
    pub agents: Vec<AgentEntry>,
    /// The profiles of the policy in force, if they are asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profiles: Option<Vec<ProfileEntry>>,
    #[serde(flatten)]
    #[expect(missing_docs, reason = "the same for every list")]
    pub listing: super::Listing,
}

impl Action for AgentList {
    const NAME: &'static str = "agent_list";
    const OPERATION: &'static str = OPERATION;
    const INPUT: &'static [Field] = &[
        Field::new("agent_id", Kind::Id, "Only this agent"),
        LIMIT,
        Field::new("with_profiles", Kind::Bool, "Also list the profiles of the policy in force")
            .preset(Preset::Bool(false)),
    ];
    type Output = AgentListing;

    fn parse(input: &Input, _who: &Principal) -> Result<Self> {
        let with_profiles = input.opt_bool("with_profiles").unwrap_or(false);
        Ok(Self { agent_id: input.opt_text("agent_id"), limit: input.int("limit"), with_profiles })
    }

    async fn subject(&self, _at: Lookout<'_>) -> Result<Subject> {
        Ok(Subject::of(self.resource()))
    }

    fn resource(&self) -> Target {
        Target::Agent(self.agent_id.clone().unwrap_or_else(|| "*".to_owned()))
    }
}

impl Query for AgentList {
    async fn read(&self, at: Lookout<'_>, _permit: &Permit<Self>) -> Result<AgentListing> {
        let page = at.view.agents(self).await?;
        let listing = super::Listing::of(&page, "name one with `agent_id`, or raise `limit` (most 1000)");
        let profiles = self.with_profiles.then(|| at.manifest().profiles.iter().map(entry_of).collect());
        Ok(AgentListing { agents: page.items, profiles, listing })
    }
}

fn entry_of(info: &ProfileInfo) -> ProfileEntry {
    ProfileEntry { name: info.name.clone(), agent_types: info.agent_types.clone(), trust_level: info.trust_level }
}
