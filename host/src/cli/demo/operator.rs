//! The operator of the run: registers the agents, suspends one in the middle, takes a key back, watches.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::ask::Ask;
use super::client::{Client, Who};
use super::history::{Expect, Taken};
use super::op::Op;
use super::rng::Rng;
use super::worker::SUSPENDED;
use super::world::World;
use crate::cli::error::CliError;

/// The profiles that agents get in turn, with their types.
const CAST: &[(&str, &str)] = &[
    ("claude_code_local", "claude_code"),
    ("codex_remote", "codex"),
    ("claude_code_remote", "claude_code"),
    ("claude_code_reviewer", "claude_code"),
    ("evaluator", "evaluator"),
    ("grok_local", "grok"),
    ("codex_local", "codex"),
    ("pi_local", "pi"),
    ("antigravity_local", "antigravity"),
];
/// Which agent is suspended in the middle: one that writes.
const SUSPENDED_AGENT: usize = 2;
/// Pause between two looks of the operator.
const WATCH_PAUSE: Duration = Duration::from_millis(400);

/// When the suspension was in force for certain, and when it may have been.
#[derive(Debug, Clone)]
pub(super) struct Suspension {
    pub(super) agent_id: String,
    pub(super) asked: Instant,
    pub(super) acknowledged: Instant,
    /// When the resume was sent, and answered.
    pub(super) resumed: Option<(Instant, Instant)>,
}

/// The operator, and what it did.
#[derive(Debug)]
pub(super) struct Operator {
    pub(super) client: Client,
    world: Arc<World>,
    rng: Rng,
    pub(super) suspension: Option<Suspension>,
    /// The suspended agent's own probes.
    pub(super) probe: Option<Client>,
}

/// Registers an agent; without its key the run cannot start.
async fn register(client: &mut Client, agent_id: &str, agent_type: &str, profile: &str) -> Result<Who, CliError> {
    let archetype = if profile.ends_with("_local") { "builder" } else { "guest" };
    let body = json!({"agent_id": agent_id, "agent_type": agent_type, "profile": profile, "archetype": archetype});
    let reply = client.call(Ask::new(Op::AgentCreate, Expect::Works, body)).await;
    let key = reply.text("key").map(str::to_owned).ok_or_else(|| {
        let said: String = reply.body.to_string().chars().take(300).collect();
        CliError::new(
            format!("the agent `{agent_id}` could not be registered: {} {said}", reply.class.text()),
            "this is a fault of the program or its policy; please report it with this message",
        )
    })?;
    Ok(Who { agent_id: agent_id.to_owned(), agent_type: agent_type.to_owned(), profile: profile.to_owned(), key })
}

/// Registers an operator of the run's own, with the admin's key, and its agents with the operator's.
pub(super) async fn cast(
    world: &Arc<World>,
    admin_key: String,
    agents: usize,
    seed: u64,
) -> Result<(Client, Operator, Vec<Who>), CliError> {
    let name = crate::app::ADMIN.to_owned();
    let admin = Who { agent_id: name.clone(), agent_type: "operator".to_owned(), profile: name, key: admin_key };
    let mut admin = Client::new(Arc::clone(world), admin, "admin");
    let operator = register(&mut admin, "demo-operator", "operator", crate::app::ADMIN).await?;
    let mut client = Client::new(Arc::clone(world), operator, "operator");
    let mut cast = Vec::with_capacity(agents);
    for (number, (profile, agent_type)) in (1..=agents).zip(CAST.iter().cycle()) {
        cast.push(
            register(&mut client, &format!("{}-{number}", profile.replace('_', "-")), agent_type, profile).await?,
        );
    }
    let rng = Rng::new(seed, 0);
    let operator = Operator { client, world: Arc::clone(world), rng, suspension: None, probe: None };
    Ok((admin, operator, cast))
}

impl Operator {
    /// Watches until the run is stopped; on its way takes a key back, and suspends an agent for a while.
    pub(super) async fn run(mut self, agents: Vec<Who>, duration: Duration) -> Self {
        let started = Instant::now();
        let due = |percent: u32| started.elapsed() >= duration * percent / 100;
        let target = agents.get(SUSPENDED_AGENT.min(agents.len().saturating_sub(1))).cloned();
        let (mut revoked, mut resumed) = (false, false);
        while !self.world.is_stopped() {
            match &target {
                Some(target) if !revoked && due(20) => {
                    self.take_a_key_back(target).await;
                    revoked = true;
                }
                Some(target) if self.suspension.is_none() && due(40) => self.suspend(target).await,
                Some(target) if self.suspension.is_some() && !resumed && due(65) => {
                    self.resume(target).await;
                    resumed = true;
                }
                _ => self.watch().await,
            }
            tokio::time::sleep(WATCH_PAUSE).await;
        }
        self
    }

    async fn suspend(&mut self, target: &Who) {
        let mut probe = Client::new(Arc::clone(&self.world), target.clone(), "probe");
        let body = json!({"suspended": true, "reason": "the demo looks whether this holds at once"});
        let ask = Ask::new(Op::AgentSuspend, Expect::Works, body).segment("id", &target.agent_id);
        let reply = self.client.call(ask).await;
        if reply.is_allowed() {
            let (agent_id, asked, acknowledged) = (target.agent_id.clone(), reply.sent, reply.answered);
            self.suspension = Some(Suspension { agent_id, asked, acknowledged, resumed: None });
            refused(&mut probe).await;
        }
        self.probe = Some(probe);
    }

    async fn resume(&mut self, target: &Who) {
        let Some(probe) = &mut self.probe else { return };
        refused(probe).await;
        let body = json!({"suspended": false});
        let ask = Ask::new(Op::AgentSuspend, Expect::Works, body).segment("id", &target.agent_id);
        let reply = self.client.call(ask).await;
        if let Some(suspension) = &mut self.suspension {
            suspension.resumed = Some((reply.sent, reply.answered));
        }
        probe.call(Ask::new(Op::LockList, Expect::Works, Value::Null)).await;
    }

    /// A second key works until it is taken back, and not once more.
    async fn take_a_key_back(&mut self, target: &Who) {
        let ask = Ask::new(Op::AgentKeyCreate, Expect::Works, json!({"label": "for a minute"}));
        let reply = self.client.call(ask.segment("id", &target.agent_id)).await;
        let (Some(key), Some(key_id)) = (reply.text("key"), reply.text("key_id")) else { return };
        let mut second =
            Client::new(Arc::clone(&self.world), Who { key: key.to_owned(), ..target.clone() }, "second-key");
        second.call(Ask::new(Op::LockList, Expect::Works, Value::Null)).await;
        let ask = Ask::new(Op::AgentKeyRevoke, Expect::Works, Value::Null);
        self.client.call(ask.segment("id", &target.agent_id).segment("key_id", key_id)).await;
        for (op, body) in [(Op::LockList, Value::Null), (Op::TaskClaim, json!({}))] {
            second.call(Ask::new(op, Expect::Unauthenticated, body)).await;
        }
        self.client.history.absorb(second.history);
    }

    async fn watch(&mut self) {
        match self.rng.below(6) {
            0 => self.take_a_lock_away().await,
            1 => drop(self.client.call(Ask::new(Op::AgentList, Expect::Works, Value::Null)).await),
            2 => drop(self.client.call(Ask::new(Op::TaskList, Expect::Works, Value::Null).query("limit=50")).await),
            3 => drop(self.client.call(Ask::new(Op::LockList, Expect::Works, Value::Null)).await),
            _ => {
                let ask = Ask::new(Op::AuditQuery, Expect::Works, Value::Null).query("decision=deny&limit=50");
                self.client.call(ask).await;
            }
        }
    }

    async fn take_a_lock_away(&mut self) {
        let held: Vec<usize> = self.world.board().held.keys().copied().collect();
        let source = self.rng.pick(&held).and_then(|file| self.world.material.files.get(*file));
        let Some(path) = source.map(|source| source.path.clone()) else { return };
        let ask = Ask::new(Op::LockForceRelease, Expect::Either, Value::Null).segment("file_path", &path);
        let reply = self.client.call(ask).await;
        self.client.history.taken.push(Taken { what: path, sent: reply.sent, answered: reply.answered });
    }
}

/// A suspended agent is refused, whatever it asks for.
async fn refused(probe: &mut Client) {
    let suspended = Expect::Denied(&[SUSPENDED]);
    let asks = [
        Ask::new(Op::LockAcquire, suspended, json!({"file_path": "demo/suspended"})),
        Ask::new(Op::TaskClaim, suspended, json!({})),
        Ask::new(
            Op::TaskSubmit,
            suspended,
            json!({"task_type": "docs", "task_description": "not by a suspended agent"}),
        ),
        Ask::new(Op::LockList, suspended, Value::Null),
    ];
    for ask in asks {
        probe.call(ask).await;
    }
}
