//! Locks: acquire, renew, release, verify, look, and release by force.

pub(crate) mod wait;

use schemars::JsonSchema;
use serde::Serialize;

use super::action::{Action, Command, Lookout, Query, Subject, Wakes};
use super::input::{AGENT_ID, AGENT_TYPE, FILE_PATH, Field, Input, Kind, LIMIT, TTL_MINUTES};
use super::plain;
use super::sessions::SESSION_ID;
use crate::authn::Principal;
use crate::clock::Time;
use crate::domain::lock::Lock;
use crate::domain::lock_key::LockKey;
use crate::engine::types::Target;
use crate::error::Result;
use crate::gate::Permit;
use crate::store::Seen;

/// Business reason: another agent holds the lock.
pub const LOCKED_BY_OTHER: &str = "locked_by_other";
/// Business reason: nothing that the caller holds.
pub const NOT_FOUND_OR_NOT_OWNER: &str = "lock_not_found_or_not_owner";

const TOKEN: Field = Field::new("fencing_token", Kind::Int(1, i64::MAX), "The token that the grant answered");

/// Takes a lock, or refreshes the caller's own.
#[derive(Debug, Clone)]
pub struct LockAcquire {
    /// What is locked.
    pub lock_key: LockKey,
    /// Recorded as given.
    pub session_id: Option<String>,
    /// Why, in the caller's words.
    pub reason: Option<String>,
    /// How long, in minutes.
    pub ttl_minutes: i64,
    /// How long to wait for a holder, in seconds.
    pub wait_seconds: i64,
    /// Whether the caller is answered whatever comes of it, and does not wait on.
    pub is_last: bool,
}

/// What an attempt to take a lock answers; every key is always there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct LockGrant {
    /// Whether the caller now holds the lock.
    pub success: bool,
    /// `acquired`, `refreshed` or `blocked`.
    pub action: &'static str,
    /// What is locked.
    pub file_path: String,
    /// When the lock frees itself: the caller's, or its holder's.
    pub expires_at: Option<Time>,
    /// Why not.
    pub reason: Option<&'static str>,
    /// Who holds it.
    pub locked_by: Option<String>,
    /// Why they hold it.
    pub lock_reason: Option<String>,
    /// The caller's token; none when blocked.
    pub fencing_token: Option<i64>,
    /// The caller waits on, so this is not its answer. Never shown.
    #[serde(skip)]
    pub waits: bool,
}

impl LockGrant {
    /// The caller holds it.
    #[must_use]
    pub fn held(action: &'static str, lock: Lock) -> Self {
        Self {
            success: true,
            action,
            file_path: lock.lock_key.to_string(),
            expires_at: Some(lock.expires_at),
            reason: None,
            locked_by: Some(lock.agent_id),
            lock_reason: lock.reason,
            fencing_token: Some(lock.fencing_token),
            waits: false,
        }
    }

    /// Another agent holds it.
    #[must_use]
    pub fn blocked(lock: Lock) -> Self {
        Self {
            success: false,
            action: "blocked",
            reason: Some(LOCKED_BY_OTHER),
            fencing_token: None,
            ..Self::held("blocked", lock)
        }
    }

    /// The caller does not hold what it wants to renew.
    #[must_use]
    pub fn not_owner(key: &LockKey) -> Self {
        Self { action: "blocked", file_path: key.to_string(), reason: Some(NOT_FOUND_OR_NOT_OWNER), ..Self::default() }
    }
}

impl Action for LockAcquire {
    const NAME: &'static str = "lock_acquire";
    const OPERATION: &'static str = "acquire_lock";
    const INPUT: &'static [Field] = &[
        FILE_PATH,
        AGENT_ID,
        AGENT_TYPE,
        SESSION_ID,
        Field::new("reason", Kind::Text(4096), "Why, for whoever finds the lock held"),
        TTL_MINUTES,
        Field::new("wait_seconds", Kind::Int(0, 60), "Wait so long for a holder to let go")
            .default(0)
            .code("wait_out_of_range"),
    ];
    type Output = LockGrant;

    fn parse(input: &Input, _who: &Principal) -> Result<Self> {
        let wait_seconds = input.int("wait_seconds");
        Ok(Self {
            wait_seconds,
            is_last: wait_seconds == 0,
            lock_key: input.lock_key("file_path")?,
            session_id: input.opt_text("session_id"),
            reason: input.opt_text("reason").filter(|reason| !reason.is_empty()),
            ttl_minutes: input.int("ttl_minutes"),
        })
    }

    async fn subject(&self, _at: Lookout<'_>) -> Result<Subject> {
        // The key is a text as well: who locks `.ssh/id_rsa` is about to edit it.
        let texts = plain(&[
            ("file_path", Some(self.lock_key.as_str())),
            ("lock_reason", self.reason.as_deref()),
            ("session_id", self.session_id.as_deref()),
        ]);
        Ok(Subject { target: self.resource(), texts })
    }

    fn resource(&self) -> Target {
        Target::LockKey(self.lock_key.to_string())
    }
}

impl Command for LockAcquire {
    fn is_refused(output: &LockGrant) -> bool {
        !output.success
    }

    fn is_answer(output: &LockGrant) -> bool {
        !output.waits
    }
}

/// Extends the lease of a lock that the caller holds under a token.
#[derive(Debug, Clone)]
pub struct LockRenew {
    /// What is locked.
    pub lock_key: LockKey,
    /// The token that the grant answered.
    pub fencing_token: i64,
    /// How long from now, in minutes.
    pub ttl_minutes: i64,
}

impl Action for LockRenew {
    const NAME: &'static str = "lock_renew";
    const OPERATION: &'static str = "acquire_lock";
    const INPUT: &'static [Field] = &[FILE_PATH, AGENT_ID, AGENT_TYPE, TOKEN.required(), TTL_MINUTES];
    type Output = LockGrant;

    fn parse(input: &Input, _who: &Principal) -> Result<Self> {
        Ok(Self {
            lock_key: input.lock_key("file_path")?,
            fencing_token: input.int("fencing_token"),
            ttl_minutes: input.int("ttl_minutes"),
        })
    }

    async fn subject(&self, _at: Lookout<'_>) -> Result<Subject> {
        Ok(Subject::of(self.resource()))
    }

    fn resource(&self) -> Target {
        Target::LockKey(self.lock_key.to_string())
    }
}

impl Command for LockRenew {
    fn is_refused(output: &LockGrant) -> bool {
        !output.success
    }
}

/// Gives back a lock that the caller holds.
#[derive(Debug, Clone)]
pub struct LockRelease {
    /// What is locked.
    pub lock_key: LockKey,
    /// If given, must be the present one.
    pub fencing_token: Option<i64>,
}

/// What a release answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct LockReleased {
    /// Whether the lock is free now by this call.
    pub success: bool,
    /// `released`, or `none`.
    pub action: &'static str,
    /// What was locked.
    pub file_path: String,
    /// Why not.
    pub reason: Option<&'static str>,
}

impl Action for LockRelease {
    const NAME: &'static str = "lock_release";
    const OPERATION: &'static str = "release_lock";
    const INPUT: &'static [Field] = &[FILE_PATH, AGENT_ID, AGENT_TYPE, TOKEN];
    type Output = LockReleased;

    fn parse(input: &Input, _who: &Principal) -> Result<Self> {
        Ok(Self { lock_key: input.lock_key("file_path")?, fencing_token: input.opt_int("fencing_token") })
    }

    async fn subject(&self, _at: Lookout<'_>) -> Result<Subject> {
        Ok(Subject::of(self.resource()))
    }

    fn resource(&self) -> Target {
        Target::LockKey(self.lock_key.to_string())
    }
}

impl Command for LockRelease {
    fn is_refused(output: &LockReleased) -> bool {
        !output.success
    }

    fn wakes(output: &LockReleased) -> Wakes {
        if output.success { Wakes::Lock(output.file_path.clone()) } else { Wakes::Nothing }
    }
}

/// Frees a lock whoever holds it.
#[derive(Debug, Clone)]
pub struct LockForceRelease {
    /// What is locked.
    pub lock_key: LockKey,
}

/// What a forced release answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct LockForced {
    /// Whether there was a live lock.
    pub released: bool,
    /// Who held it.
    pub prior_holder_agent_id: Option<String>,
    /// Since when.
    pub prior_acquired_at: Option<Time>,
    /// What was locked. Not shown: the caller named it.
    #[serde(skip)]
    pub file_path: String,
}

impl Action for LockForceRelease {
    const NAME: &'static str = "lock_force_release";
    const OPERATION: &'static str = "force_release_lock";
    const INPUT: &'static [Field] = &[FILE_PATH];
    type Output = LockForced;

    fn parse(input: &Input, _who: &Principal) -> Result<Self> {
        Ok(Self { lock_key: input.lock_key("file_path")? })
    }

    async fn subject(&self, _at: Lookout<'_>) -> Result<Subject> {
        Ok(Subject::of(self.resource()))
    }

    fn resource(&self) -> Target {
        Target::LockKey(self.lock_key.to_string())
    }
}

impl Command for LockForceRelease {
    fn is_refused(output: &LockForced) -> bool {
        !output.released
    }

    fn wakes(output: &LockForced) -> Wakes {
        if output.released { Wakes::Lock(output.file_path.clone()) } else { Wakes::Nothing }
    }
}

/// Asks whether a token is still the newest and live.
#[derive(Debug, Clone)]
pub struct LockVerify {
    lock_key: LockKey,
    fencing_token: i64,
}

/// Whether a token may still be written under.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct LockVerified {
    /// Whether the token is the newest of its key and its lease is live.
    pub valid: bool,
    /// `token_superseded`, `lease_expired` or `not_locked`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
}

impl Action for LockVerify {
    const NAME: &'static str = "lock_verify";
    const OPERATION: &'static str = "check_locks";
    const INPUT: &'static [Field] = &[FILE_PATH, TOKEN.required()];
    type Output = LockVerified;

    fn parse(input: &Input, _who: &Principal) -> Result<Self> {
        Ok(Self { lock_key: input.lock_key("file_path")?, fencing_token: input.int("fencing_token") })
    }

    async fn subject(&self, _at: Lookout<'_>) -> Result<Subject> {
        Ok(Subject::of(self.resource()))
    }

    fn resource(&self) -> Target {
        Target::LockKey(self.lock_key.to_string())
    }
}

impl Query for LockVerify {
    async fn read(&self, at: Lookout<'_>, _permit: &Permit<Self>) -> Result<LockVerified> {
        let Seen { what, now } = at.view.lock(&self.lock_key).await?;
        let reason = match what {
            None => Some("not_locked"),
            Some(lock) if lock.fencing_token != self.fencing_token => Some("token_superseded"),
            Some(lock) if !lock.is_live(now) => Some("lease_expired"),
            Some(_) => None,
        };
        Ok(LockVerified { valid: reason.is_none(), reason })
    }
}

/// Looks at one lock.
#[derive(Debug, Clone)]
pub struct LockStatus {
    lock_key: LockKey,
}

/// One lock, or its absence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct LockState {
    /// Whether it is held.
    pub locked: bool,
    /// What was asked about.
    pub file_path: String,
    /// The lock, if it is held.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lock: Option<LockEntry>,
}

/// A held lock, as lists show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct LockEntry {
    /// What is locked.
    pub file_path: String,
    /// Who holds it.
    pub locked_by: String,
    /// The holder's type.
    pub agent_type: String,
    /// Since when.
    pub locked_at: Time,
    /// When it frees itself.
    pub expires_at: Time,
    /// Why, in the holder's words.
    pub reason: Option<String>,
    /// The holder's token.
    pub fencing_token: i64,
}

impl From<Lock> for LockEntry {
    fn from(lock: Lock) -> Self {
        Self {
            file_path: lock.lock_key.to_string(),
            locked_by: lock.agent_id,
            agent_type: lock.agent_type,
            locked_at: lock.locked_at,
            expires_at: lock.expires_at,
            reason: lock.reason,
            fencing_token: lock.fencing_token,
        }
    }
}

impl Action for LockStatus {
    const NAME: &'static str = "lock_status";
    const OPERATION: &'static str = "check_locks";
    const INPUT: &'static [Field] = &[FILE_PATH];
    type Output = LockState;

    fn parse(input: &Input, _who: &Principal) -> Result<Self> {
        Ok(Self { lock_key: input.lock_key("file_path")? })
    }

    async fn subject(&self, _at: Lookout<'_>) -> Result<Subject> {
        Ok(Subject::of(self.resource()))
    }

    fn resource(&self) -> Target {
        Target::LockKey(self.lock_key.to_string())
    }
}

impl Query for LockStatus {
    async fn read(&self, at: Lookout<'_>, _permit: &Permit<Self>) -> Result<LockState> {
        let Seen { what, now } = at.view.lock(&self.lock_key).await?;
        let held = what.filter(|lock| lock.is_live(now));
        Ok(LockState { locked: held.is_some(), file_path: self.lock_key.to_string(), lock: held.map(LockEntry::from) })
    }
}

/// Lists held locks.
#[derive(Debug, Clone)]
pub struct LockList {
    /// Only keys that begin so.
    pub prefix: Option<String>,
    /// Only this holder's.
    pub agent_id: Option<String>,
    /// Only these keys, as a JSON list; none for any.
    pub file_paths: Option<String>,
    /// Most entries.
    pub limit: i64,
}

/// Held locks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct LockListing {
    /// The locks, by key.
    pub locks: Vec<LockEntry>,
    #[serde(flatten)]
    #[expect(missing_docs, reason = "the same for every list")]
    pub listing: super::Listing,
}

impl Action for LockList {
    const NAME: &'static str = "lock_list";
    const OPERATION: &'static str = "check_locks";
    const INPUT: &'static [Field] = &[
        Field::new("prefix", Kind::Text(1024), "Only keys that begin so"),
        Field::new("agent_id", Kind::Id, "Only this agent's locks"),
        Field::new("file_paths", Kind::LockKeys(1000), "Only the locks of these keys"),
        LIMIT,
    ];
    type Output = LockListing;

    fn parse(input: &Input, _who: &Principal) -> Result<Self> {
        let file_paths = input.texts("file_paths");
        Ok(Self {
            prefix: input.opt_text("prefix"),
            agent_id: input.opt_text("agent_id"),
            file_paths: (!file_paths.is_empty()).then(|| serde_json::json!(file_paths).to_string()),
            limit: input.int("limit"),
        })
    }

    async fn subject(&self, _at: Lookout<'_>) -> Result<Subject> {
        Ok(Subject::of(self.resource()))
    }

    fn resource(&self) -> Target {
        Target::LockKey("*".to_owned())
    }
}

impl Query for LockList {
    async fn read(&self, at: Lookout<'_>, _permit: &Permit<Self>) -> Result<LockListing> {
        let page = at.view.locks(self).await?;
        let listing = super::Listing::of(&page, "narrow it with `prefix` or `agent_id`, or raise `limit` (most 1000)");
        Ok(LockListing { locks: page.items.into_iter().map(LockEntry::from).collect(), listing })
    }
}
