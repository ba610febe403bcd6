//! What the store hands out that no command's answer is.

use crate::clock::Time;
use crate::domain::task::Status;

/// Something that was seen, with the store's time of seeing it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen<T> {
    /// What was seen.
    pub what: T,
    /// The time by which leases in it are judged.
    pub now: Time,
}

/// What decides now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Activation {
    /// Counts activations, from 1.
    pub epoch: i64,
    /// Digest of the component.
    pub digest: String,
    /// Who activated it.
    pub by: String,
}

/// Which component is asked beside the one that decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShadowChoice {
    /// Counts choices, from 1.
    pub choice: i64,
    /// Digest of the component; none when none is asked any more.
    pub digest: Option<String>,
}

/// A component in the store, without its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredComponent {
    /// Its digest.
    pub digest: String,
    /// What it says of itself, JSON.
    pub manifest: String,
    /// Its size.
    pub bytes: i64,
    /// When it was stored.
    pub stored_at: Time,
    /// By whom.
    pub stored_by: String,
    /// Whose signature is over it.
    pub signed_by: Option<String>,
    /// The signature's version.
    pub signed_version: Option<i64>,
    /// The last epoch in which it decided.
    pub epoch: Option<i64>,
    /// When that began.
    pub activated_at: Option<Time>,
    /// Who activated it then.
    pub activated_by: Option<String>,
}

/// Whose claim it is and what they may see.
#[derive(Debug, Clone)]
pub struct Claims<'a> {
    /// The claimant.
    pub agent_id: &'a str,
    /// Its registered archetype.
    pub archetype: Option<&'a str>,
    /// Its trust.
    pub trust_level: i64,
    /// Types to look for; empty for any.
    pub task_types: &'a [String],
    /// Tasks to pass over.
    pub passed_over: &'a [String],
}

/// A row of the locks, live or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredLock {
    /// What is locked.
    pub lock_key: String,
    /// Its holder.
    pub agent_id: String,
    /// The holder's token.
    pub fencing_token: i64,
    /// When it frees itself.
    pub expires_at: Time,
}

/// A task, as far as its progress goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredTask {
    /// Identifies it.
    pub task_id: String,
    /// Where it stands.
    pub status: Status,
    /// Attempts that ended.
    pub attempt_count: i64,
    /// Who works on it, or did.
    pub claimed_by: Option<String>,
}
