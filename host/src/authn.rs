//! Who asks. Only this module makes a [`Principal`], and only from a key that
//! the store knows, or for the service's own background work.

use std::fmt;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::error::{Error, Result};
use crate::store::{Store, StoreError};

/// Longest key that is looked at; longer ones are unknown.
pub const KEY_BYTES_MAX: usize = 512;

/// Bytes of the hash that finds a key.
const LOOKUP_BYTES: usize = 8;
/// Bytes of the hash that a key is compared by.
const HASH_BYTES: usize = 32;

/// The agent that background work runs as.
pub const SYSTEM: &str = "system";

/// An agent whose key was verified, with the facts that decisions are made from.
///
/// The fields are private: a principal cannot be put together outside of this module.
///
/// ```compile_fail
/// let forged = portreeve::authn::Principal { agent_id: "admin".into() };
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    agent_id: String,
    agent_type: String,
    profile: String,
    archetype: Option<String>,
    suspended: bool,
    facts_version: i64,
    proof: Proof,
}

/// What shows that a principal is who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Proof {
    /// It is the service itself.
    Service,
    /// Its own key, by identifier.
    Key(String),
    /// The admin's key, by identifier, whose holder named the agent.
    AdminKey(String),
}

impl Principal {
    /// The agent's name.
    #[must_use]
    pub fn agent_id(&self) -> &str {
        &self.agent_id
    }

    /// The agent's registered type.
    #[must_use]
    pub fn agent_type(&self) -> &str {
        &self.agent_type
    }

    /// The name of the agent's profile.
    #[must_use]
    pub fn profile(&self) -> &str {
        &self.profile
    }

    /// The agent's registered archetype.
    #[must_use]
    pub fn archetype(&self) -> Option<&str> {
        self.archetype.as_deref()
    }

    /// Whether the agent is suspended.
    #[must_use]
    pub const fn is_suspended(&self) -> bool {
        self.suspended
    }

    /// The version of the facts; it moves with every change of them.
    #[must_use]
    pub const fn facts_version(&self) -> i64 {
        self.facts_version
    }

    /// The admin's key, by identifier, where its holder named this agent.
    pub(crate) fn admin_key_id(&self) -> Option<&str> {
        match &self.proof {
            Proof::AdminKey(key_id) => Some(key_id),
            Proof::Service | Proof::Key(_) => None,
        }
    }

    fn from_facts(facts: AgentFacts, proof: Proof) -> Self {
        Self {
            agent_id: facts.agent_id,
            agent_type: facts.agent_type,
            profile: facts.profile,
            archetype: facts.archetype,
            suspended: facts.suspended,
            facts_version: facts.facts_version,
            proof,
        }
    }
}

/// What the store knows of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentFacts {
    /// The agent's name.
    pub agent_id: String,
    /// Its registered type.
    pub agent_type: String,
    /// The name of its profile.
    pub profile: String,
    /// Its registered archetype.
    pub archetype: Option<String>,
    /// Whether it is suspended.
    pub suspended: bool,
    /// Moves with every change of these facts and with every revoked key.
    pub facts_version: i64,
}

/// A key as the store keeps it: never the key itself.
#[derive(Debug, Clone)]
pub struct StoredKey {
    /// Identifies the key.
    pub key_id: String,
    /// SHA-256 of the key, for comparison.
    pub key_hash: Vec<u8>,
    /// The agent it belongs to.
    pub facts: AgentFacts,
}

/// A new key: the secret for its owner, the hashes for the store.
pub struct NewKey {
    /// Shown once.
    pub secret: String,
    /// What the store keeps.
    pub hashes: KeyHashes,
}

impl fmt::Debug for NewKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewKey").finish_non_exhaustive()
    }
}

/// What the store keeps of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyHashes {
    /// Finds the row. Not the beginning of `key_hash`, so that an index on it says nothing of the comparison.
    pub lookup: Vec<u8>,
    /// Compared in constant time.
    pub key_hash: Vec<u8>,
}

impl KeyHashes {
    /// The hashes of a key. Keys are 256 random bits, so a fast hash is enough.
    #[must_use]
    pub fn of(key: &str) -> Self {
        let hash = |domain: &[u8]| Sha256::new().chain_update(domain).chain_update(key.as_bytes()).finalize().to_vec();
        let mut lookup = hash(b"portreeve key lookup\0");
        lookup.truncate(LOOKUP_BYTES);
        Self { lookup, key_hash: hash(b"portreeve key\0") }
    }

    /// Both as one text: how a key is taken over without its being sent.
    #[must_use]
    pub fn to_hex(&self) -> String {
        self.lookup.iter().chain(&self.key_hash).map(|byte| format!("{byte:02x}")).collect()
    }

    /// What [`Self::to_hex`] wrote; none for any other text.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        if text.len() != 2 * (LOOKUP_BYTES + HASH_BYTES) || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let byte = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
        let mut lookup = (0..text.len()).step_by(2).map(byte).collect::<Option<Vec<u8>>>()?;
        let key_hash = lookup.split_off(LOOKUP_BYTES);
        Some(Self { lookup, key_hash })
    }
}

/// Makes a key from the operating system's randomness.
///
/// # Errors
/// When the operating system gives none.
pub fn new_key() -> Result<NewKey, getrandom::Error> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes)?;
    let secret = bytes.iter().fold(String::from("prv_"), |text, byte| text + &format!("{byte:02x}"));
    let hashes = KeyHashes::of(&secret);
    Ok(NewKey { secret, hashes })
}

/// Finds the principal of a key.
///
/// # Errors
/// [`Error::Unauthenticated`] for a key that is absent, unknown or revoked.
pub async fn authenticate(store: &Store, key: Option<&str>) -> Result<Principal> {
    let key = key.map(str::trim).filter(|key| !key.is_empty() && key.len() <= KEY_BYTES_MAX);
    let hashes = KeyHashes::of(key.ok_or(Error::Unauthenticated)?);
    let candidates = store.view().keys_by_lookup(&hashes.lookup).await?;
    let found = candidates.into_iter().find(|stored| bool::from(stored.key_hash.ct_eq(&hashes.key_hash)));
    let stored = found.ok_or(Error::Unauthenticated)?;
    Ok(Principal::from_facts(stored.facts, Proof::Key(stored.key_id)))
}

/// The principal of an agent, for whoever holds the key of the data folder's admin: who can read that key can open the
/// store itself. The agent acts with its own, lesser standing.
///
/// # Errors
/// [`Error::Unauthenticated`] for a key that is not the admin's, or an agent that the store does not know.
pub(crate) async fn as_agent(store: &Store, admin_key: &str, agent_id: &str) -> Result<Principal> {
    let admin = authenticate(store, Some(admin_key)).await?;
    let Proof::Key(key_id) = admin.proof else { return Err(Error::Unauthenticated) };
    if admin.agent_id != crate::app::ADMIN || agent_id == SYSTEM {
        return Err(Error::Unauthenticated);
    }
    let facts = store.view().facts_by_agent(agent_id).await?.ok_or(Error::Unauthenticated)?;
    Ok(Principal::from_facts(facts, Proof::AdminKey(key_id)))
}

/// Reads a principal's facts anew, after the store said that they moved.
///
/// # Errors
/// [`Error::Unauthenticated`] when its key was revoked meanwhile.
pub(crate) async fn refresh(store: &Store, who: &Principal) -> Result<Principal> {
    let view = store.view();
    let facts = match &who.proof {
        Proof::Service => return system(store).await.map_err(Error::from),
        Proof::Key(key_id) => view.facts_by_key_id(key_id).await?,
        // The key must still be live; the facts are those of the agent that it named.
        Proof::AdminKey(key_id) => match view.facts_by_key_id(key_id).await? {
            Some(_) => view.facts_by_agent(&who.agent_id).await?,
            None => None,
        },
    };
    facts.map(|facts| Principal::from_facts(facts, who.proof.clone())).ok_or(Error::Unauthenticated)
}

/// The principal of background work.
///
/// # Errors
/// When the store cannot be read or has lost its `system` agent.
pub(crate) async fn system(store: &Store) -> Result<Principal, StoreError> {
    let facts = store.view().facts_by_agent(SYSTEM).await?;
    facts
        .map(|facts| Principal::from_facts(facts, Proof::Service))
        .ok_or(StoreError::Damaged("the agent `system` is missing"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_long_random_and_known_only_by_their_hashes() {
        let (a, b) = (new_key().unwrap(), new_key().unwrap());
        assert_ne!(a.secret, b.secret);
        assert_eq!(a.secret.len(), 4 + 64);
        assert_eq!(a.hashes, KeyHashes::of(&a.secret));
        assert!(!a.hashes.key_hash.starts_with(&a.hashes.lookup));
        assert!(!format!("{a:?}").contains(&a.secret));
        let hex = a.hashes.to_hex();
        assert_eq!(KeyHashes::from_hex(&hex), Some(a.hashes));
        for wrong in ["", "00", &hex[1..], &format!("{hex}00"), &hex.replace(&hex[..1], "+"), &"ä".repeat(40)] {
            assert_eq!(KeyHashes::from_hex(wrong), None, "{wrong}");
        }
    }
}
