//! The store without its write methods: one list of what both backends answer.

use super::audit::AuditRow;
use super::{
    Activation, Claims, Page, Seen, ShadowChoice, StoreError, StoredComponent, StoredLock, StoredTask, postgres, sqlite,
};
use crate::authn::{AgentFacts, StoredKey};
use crate::command::agents::{AgentEntry, AgentList};
use crate::command::audit::{AuditEntry, AuditQuery};
use crate::command::handoffs::{HandoffEntry, HandoffRead};
use crate::command::locks::LockList;
use crate::command::memories::{MemoryEntry, MemoryQuery};
use crate::command::sessions::{SessionEntry, SessionList};
use crate::command::tasks::{Candidate, TaskEntry, TaskList};
use crate::domain::lock::Lock;
use crate::domain::lock_key::LockKey;

/// The store without its write methods. Leases are judged by the store's own time: an embedded one's is the process's,
/// a server's is the server's.
#[derive(Debug, Clone)]
pub enum View {
    /// The embedded store.
    #[doc(hidden)]
    Sqlite(sqlite::View),
    /// A PostgreSQL server.
    #[doc(hidden)]
    Postgres(postgres::View),
}

/// Each look is a method of the same name of both backends' views.
macro_rules! looks {
    ($($(#[$meta:meta])* $vis:vis fn $name:ident(&self $(, $argument:ident: $kind:ty)*) -> $output:ty;)*) => {
        impl View {$(
            $(#[$meta])*
            ///
            /// # Errors
            /// When the store cannot be read.
            $vis async fn $name(&self $(, $argument: $kind)*) -> Result<$output, StoreError> {
                match self {
                    Self::Sqlite(view) => view.$name($($argument),*).await,
                    Self::Postgres(view) => view.$name($($argument),*).await,
                }
            }
        )*}
    };
}

looks! {
    /// The lock of a key as it is stored, live or not.
    pub fn lock(&self, key: &LockKey) -> Seen<Option<Lock>>;
    /// Live locks, by key.
    pub fn locks(&self, query: &LockList) -> Page<Lock>;
    /// The next task in order of priority, then age, that the claimant may take.
    pub fn task_candidate(&self, claims: &Claims<'_>) -> Option<Candidate>;
    /// Whether time has something to do.
    pub fn tasks_lapsed(&self) -> bool;
    /// A task, whole.
    pub fn task(&self, task_id: &str) -> Option<TaskEntry>;
    /// Tasks, newest first.
    pub fn tasks(&self, query: &TaskList) -> Page<TaskEntry>;
    /// Handoffs, newest first.
    pub fn handoffs(&self, query: &HandoffRead) -> Page<HandoffEntry>;
    /// Memories, the most relevant first; of a search for words, those where the words weigh most, as they fade.
    pub fn memories(&self, query: &MemoryQuery) -> Page<MemoryEntry>;
    /// Sessions, the one last heard of first.
    pub fn sessions(&self, query: &SessionList) -> Page<SessionEntry>;
    /// Agents with their keys, by name; the service's own is not one of them.
    pub fn agents(&self, query: &AgentList) -> Page<AgentEntry>;
    /// Rows of the audit log, newest first; only those of `own`, if given.
    pub fn audit(&self, query: &AuditQuery, own: Option<&str>) -> Page<AuditEntry>;
    /// Up to `limit` rows after position `after`, oldest first, each with the leaf hash that is stored beside it.
    pub fn audit_rows(&self, after: i64, limit: i64) -> Vec<(AuditRow, Vec<u8>)>;

    /// Live keys whose lookup hash is this one. A server's may be a moment old: the facts version tells.
    pub(crate) fn keys_by_lookup(&self, lookup: &[u8]) -> Vec<StoredKey>;
    /// The facts of a live key's agent.
    pub(crate) fn facts_by_key_id(&self, key_id: &str) -> Option<AgentFacts>;
    /// The facts of an agent.
    pub(crate) fn facts_by_agent(&self, agent_id: &str) -> Option<AgentFacts>;
    /// Whether the agent used this idempotency key before. The writer decides; this only saves needless work.
    pub(crate) fn is_repeat(&self, agent_id: &str, key: &str) -> bool;
    /// What decides now; none in a new store.
    pub(crate) fn activation(&self) -> Option<Activation>;
    /// The latest activations, the newest first.
    pub(crate) fn activations(&self, limit: i64) -> Vec<Activation>;
    /// The greatest version of a signature by one of these keys over a component that was ever in force.
    pub(crate) fn signed_version_max(&self, signers: &[String]) -> Option<i64>;
    /// The latest choice of what is asked beside the policy in force; none before the first.
    pub(crate) fn shadow(&self) -> Option<ShadowChoice>;
    /// Components, the one that decided last first, then those that were stored last.
    pub(crate) fn components(&self, limit: i64) -> Page<StoredComponent>;
    /// One component.
    pub(crate) fn component(&self, digest: &str) -> Option<StoredComponent>;
    /// The bytes of a stored component.
    pub fn component_bytes(&self, digest: &str) -> Option<Vec<u8>>;

    /// What is wrong with the database, in words; empty when nothing is.
    pub fn problems(&self) -> Vec<String>;
    /// All locks, by key.
    pub fn stored_locks(&self) -> Vec<StoredLock>;
    /// The last fencing token of every key that was ever locked, by key.
    pub fn stored_fences(&self) -> Vec<(String, i64)>;
    /// All tasks, by identifier.
    pub fn stored_tasks(&self) -> Vec<StoredTask>;
    /// Agents with the version of their facts, by name.
    pub fn stored_facts(&self) -> Vec<(String, i64)>;
    /// How many guardrail violations are recorded.
    pub fn violations_count(&self) -> i64;
    /// Rows of the audit log that will never have a position: they would have to stand before the last one that has.
    pub fn left_out(&self) -> i64;
}
