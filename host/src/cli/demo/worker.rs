//! One agent at work: what it does next is its own seeded choice.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::client::Client;
use super::history::Class;
use super::rng::Rng;
use super::world::World;

/// Reasons for which an operation is denied to a profile as such.
pub(super) const STANDING: &[&str] =
    &["operation_not_allowed", "trust_below_write", "trust_below_admin", "trust_below_owner"];
/// The reason for which texts are denied.
pub(super) const BLOCKED: &[&str] = &["destructive_operation_blocked"];
/// The reason for which another's name is refused.
pub(super) const IDENTITY: &[&str] = &["identity_mismatch"];
/// The reason for which a suspended agent is refused.
pub(super) const SUSPENDED: &str = "suspended";

/// How long an agent waits after it was told that it is suspended.
const SUSPENDED_PAUSE: Duration = Duration::from_millis(5);
/// How long an agent waits when the server did not answer.
const FAILED_PAUSE: Duration = Duration::from_millis(100);

/// What an agent does in the demo, from its profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Locks, edits, submits, claims.
    Writer,
    /// Claims and completes evaluations and reviews.
    Evaluator,
    /// Looks.
    Reviewer,
}

/// A lock that the agent keeps for a while.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    pub(super) file: usize,
    pub(super) token: i64,
    /// Where its grant stands in the history.
    pub(super) grant: usize,
}

/// A claim that ended, whose token must not work any more.
#[derive(Debug, Clone)]
pub(super) struct OldClaim {
    pub(super) task_id: String,
    pub(super) token: String,
    /// From this instant on it has ended for certain.
    pub(super) from: Instant,
}

/// One agent at work.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) client: Client,
    pub(super) world: Arc<World>,
    pub(super) rng: Rng,
    pub(super) trust: u8,
    pub(super) role: Role,
    /// Names of the other agents.
    pub(super) others: Vec<(String, String)>,
    pub(super) held: Vec<Held>,
    pub(super) submitted: VecDeque<String>,
    pub(super) old_claims: VecDeque<OldClaim>,
    /// Counts the agent's own repeatable requests.
    pub(super) repeats: u64,
}

impl Worker {
    pub(super) fn new(client: Client, world: Arc<World>, rng: Rng, trust: u8, others: Vec<(String, String)>) -> Self {
        let role = match (client.who.profile.as_str(), trust) {
            ("evaluator", _) => Role::Evaluator,
            (_, 0 | 1) => Role::Reviewer,
            _ => Role::Writer,
        };
        let (held, submitted, old_claims) = (Vec::new(), VecDeque::new(), VecDeque::new());
        Self { client, world, rng, trust, role, others, held, submitted, old_claims, repeats: 0 }
    }

    /// Works until the run is stopped, then gives its locks back.
    pub(super) async fn run(mut self) -> Client {
        while !self.world.is_stopped() {
            match self.role {
                Role::Writer => self.write().await,
                Role::Evaluator => self.evaluate().await,
                Role::Reviewer => self.review().await,
            }
            self.pause().await;
        }
        while let Some(held) = self.held.pop() {
            self.release(held).await;
        }
        self.client
    }

    async fn write(&mut self) {
        match self.rng.below(100) {
            0..34 => self.edit_a_file().await,
            34..54 => self.submit_a_task().await,
            54..78 => self.work_on_a_task(&[]).await,
            78..82 => self.cancel_a_task().await,
            82..85 => self.repeat_a_request().await,
            85..92 => self.collide().await,
            92..97 => self.try_what_is_forbidden().await,
            _ => self.look().await,
        }
    }

    async fn evaluate(&mut self) {
        match self.rng.below(100) {
            0..60 => self.work_on_a_task(&[]).await,
            60..70 => self.work_on_a_task(&["review"]).await,
            70..78 => self.use_an_old_claim().await,
            78..92 => self.try_what_readers_may_not().await,
            _ => self.look().await,
        }
    }

    async fn review(&mut self) {
        match self.rng.below(100) {
            0..70 => self.look().await,
            _ => self.try_what_readers_may_not().await,
        }
    }

    /// Waits where going on at once would be pointless.
    async fn pause(&self) {
        match self.client.history.records.last().map(|record| &record.class) {
            Some(Class::Denied(reason)) if reason == SUSPENDED => tokio::time::sleep(SUSPENDED_PAUSE).await,
            Some(Class::Odd(_)) => tokio::time::sleep(FAILED_PAUSE).await,
            _ => {}
        }
    }

    /// Another agent of the run: name and type.
    pub(super) fn other(&mut self) -> Option<(String, String)> {
        self.rng.pick(&self.others).cloned()
    }

    /// A file: one that everybody wants, or any.
    pub(super) fn choose_file(&mut self) -> usize {
        let material = &self.world.material;
        if self.rng.chance(35) { self.rng.below(material.hot()) } else { self.rng.below(material.files.len()) }
    }

    pub(super) fn path_of(&self, file: usize) -> String {
        self.world.material.files.get(file).map(|source| source.path.clone()).unwrap_or_default()
    }
}
