//! A correct service that is asked by many, in a time that is made up: whatever happens there has to be accepted.
//!
//! Each call takes effect at one moment between its invocation and its return, or, when its answer is lost, some time later or never.
//! What it does was decided a little before that, by the clock of then: a commit takes its time. The service's clock is stepped now
//! and then, on and back, and held when it is stepped back.

use std::collections::BTreeMap;

use super::check::{Rejected, check};
use super::clock::{ServerClock, Step};
use super::{Answer, Call, History, Op};
use crate::chance::Chance;

const WALL_US: i64 = 1_900_000_000_000_000;
const CLIENTS: usize = 5;
const END_US: i64 = 6_000_000;
const SECOND_US: i64 = 1_000_000;

#[derive(Default)]
struct Service {
    offset_us: i64,
    /// When the clock was stepped last.
    stepped_us: i64,
    /// The clock of the last change.
    now: i64,
    locks: BTreeMap<String, Lock>,
    tasks: Vec<Task>,
    claims: i64,
}

#[derive(Default)]
struct Lock {
    last_token: i64,
    /// Holder, and end.
    held: Option<(String, i64)>,
}

struct Task {
    name: String,
    task_type: String,
    max_attempts: i64,
    status: &'static str,
    attempts: i64,
    /// Holder, token, and end.
    claim: Option<(String, String, i64)>,
}

impl Service {
    /// Looks at a lock by the clock of now, which changes nothing.
    fn look(&self, at_us: i64, op: &Op) -> Option<Answer> {
        let lock = self.locks.get(op.key()?)?;
        let now = self.now.max(WALL_US + at_us + self.offset_us);
        let held = lock.held.clone().filter(|(_, end)| now < *end);
        match op {
            Op::Verify { token, .. } => Some(Answer::Verified { valid: held.is_some() && *token == lock.last_token }),
            Op::Status { .. } => Some(held.map_or(Answer::Free, |(by, expires_at)| Answer::Held {
                by,
                token: lock.last_token,
                expires_at,
            })),
            _ => None,
        }
    }

    fn tick(&mut self, at_us: i64) {
        self.now = self.now.max(WALL_US + at_us + self.offset_us);
        for lock in self.locks.values_mut() {
            lock.held.take_if(|(_, end)| *end <= self.now);
        }
        for task in &mut self.tasks {
            if task.claim.take_if(|(_, _, end)| *end <= self.now).is_some() {
                task.fail();
            }
        }
    }

    fn answer(&mut self, agent: &str, op: &Op) -> Answer {
        let now = self.now;
        if let Some(key) = op.key() {
            return self.locks.entry(key.to_owned()).or_default().answer(agent, op, now);
        }
        match op {
            Op::Submit { task, task_type, max_attempts } => {
                let (name, task_type) = (task.clone(), task_type.clone());
                let max_attempts = *max_attempts;
                self.tasks.push(Task { name, task_type, max_attempts, status: "pending", attempts: 0, claim: None });
                Answer::Submitted { task_id: format!("id-{task}") }
            }
            Op::Claim { task_type, lease_seconds } => {
                let waiting = |task: &&mut Task| task.status == "pending" && task.task_type == *task_type;
                let Some(task) = self.tasks.iter_mut().find(waiting) else { return Answer::NothingToClaim };
                self.claims += 1;
                let (token, end) = (format!("claim-{}", self.claims), now + lease_seconds * SECOND_US);
                task.status = "claimed";
                task.claim = Some((agent.to_owned(), token.clone(), end));
                let (task_id, name) = (format!("id-{}", task.name), task.name.clone());
                Answer::Claimed { task_id, task: name, claim_token: token, expires_at: end, attempt: task.attempts + 1 }
            }
            _ => {
                let named = |task: &&mut Task| op.task_id() == Some(format!("id-{}", task.name).as_str());
                self.tasks.iter_mut().find(named).map_or(Answer::Missing, |task| task.answer(agent, op, now))
            }
        }
    }
}

impl Lock {
    fn answer(&mut self, agent: &str, op: &Op, now: i64) -> Answer {
        let mine = self.held.as_ref().is_some_and(|(by, _)| by == agent);
        let is_last = |token: Option<i64>| token.is_none_or(|token| token == self.last_token);
        match op {
            Op::Acquire { ttl_minutes, .. } => {
                let end = now + ttl_minutes * 60 * SECOND_US;
                if let Some((by, expires_at)) = self.held.clone().filter(|_| !mine) {
                    return Answer::Blocked { by, expires_at };
                }
                self.held = Some((agent.to_owned(), end));
                self.last_token += i64::from(!mine);
                let (token, expires_at) = (self.last_token, end);
                if mine { Answer::Refreshed { token, expires_at } } else { Answer::Granted { token, expires_at } }
            }
            Op::Renew { token, ttl_minutes, .. } if mine && is_last(Some(*token)) => {
                let end = now + ttl_minutes * 60 * SECOND_US;
                self.held = Some((agent.to_owned(), end));
                Answer::Refreshed { token: *token, expires_at: end }
            }
            Op::Release { token, .. } if mine && is_last(*token) => {
                self.held = None;
                Answer::Released
            }
            Op::Verify { .. } => Answer::Verified { valid: false },
            Op::Status { .. } => Answer::Free,
            Op::ForceRelease { .. } => Answer::Forced { by: self.held.take().map(|(by, _)| by) },
            _ => Answer::NotOwner,
        }
    }
}

impl Task {
    fn fail(&mut self) {
        self.claim = None;
        self.attempts += 1;
        self.status = if self.attempts >= self.max_attempts { "failed" } else { "pending" };
    }

    fn answer(&mut self, agent: &str, op: &Op, now: i64) -> Answer {
        let holds = |named: &str| self.claim.as_ref().is_some_and(|(by, token, _)| by == agent && token == named);
        match op {
            Op::Heartbeat { claim_token, lease_seconds, .. } if holds(claim_token) => {
                let end = now + lease_seconds * SECOND_US;
                self.claim = Some((agent.to_owned(), claim_token.clone(), end));
                Answer::Beat { expires_at: end }
            }
            Op::Complete { claim_token, success, .. } if holds(claim_token) => {
                if *success {
                    (self.status, self.claim) = ("completed", None);
                    self.attempts += 1;
                } else {
                    self.fail();
                }
                Answer::Ended { status: self.status.to_owned() }
            }
            Op::Cancel { .. } if matches!(self.status, "pending" | "claimed") => {
                self.attempts += i64::from(self.claim.take().is_some());
                self.status = "cancelled";
                Answer::Ended { status: "cancelled".to_owned() }
            }
            Op::Cancel { .. } => Answer::AlreadyFinal,
            Op::Get { .. } => {
                let (by, expires_at) = self.claim.clone().map(|(by, _, end)| (by, end)).unzip();
                Answer::Task { status: self.status.to_owned(), attempts: self.attempts, by, expires_at }
            }
            _ => Answer::NotHeld,
        }
    }
}

/// What a client knows, to ask something that means something.
#[derive(Default)]
struct Known {
    tokens: Vec<(String, i64)>,
    claims: Vec<(String, String)>,
    tasks: Vec<String>,
}

fn choose(chance: &mut Chance, known: &Known, name: String) -> Op {
    let key = ["k", "l"][chance.below(2)].to_owned();
    let task_type = ["t", "u"][chance.below(2)].to_owned();
    let ttl_minutes = chance.between(1, 3);
    let lease_seconds = chance.between(1, 2);
    let token = known.tokens.get(chance.below(known.tokens.len())).cloned();
    let claim = known.claims.get(chance.below(known.claims.len())).cloned();
    let task = known.tasks.get(chance.below(known.tasks.len())).cloned();
    match (chance.below(13), token, claim, task) {
        (0, Some((key, token)), ..) => Op::Renew { key, token, ttl_minutes },
        (1, Some((key, token)), ..) => Op::Release { key, token: Some(token).filter(|_| chance.percent(80)) },
        (2, Some((key, token)), ..) => Op::Verify { key, token },
        (3, ..) => Op::Status { key },
        (4, ..) if chance.percent(20) => Op::ForceRelease { key },
        (5, ..) => Op::Submit { task: name, task_type, max_attempts: chance.between(1, 3) },
        (6 | 7, ..) => Op::Claim { task_type, lease_seconds },
        (8, _, Some((task_id, claim_token)), _) => Op::Heartbeat { task_id, claim_token, lease_seconds },
        (9, _, Some((task_id, claim_token)), _) => Op::Complete { task_id, claim_token, success: chance.percent(60) },
        (10, .., Some(task_id)) if chance.percent(20) => Op::Cancel { task_id },
        (11, .., Some(task_id)) => Op::Get { task_id },
        _ => Op::Acquire { key, ttl_minutes },
    }
}

impl Known {
    fn learn(&mut self, op: &Op, answer: &Answer) {
        match (op.key(), answer) {
            (Some(key), Answer::Granted { token, .. }) => self.tokens.push((key.to_owned(), *token)),
            (_, Answer::Submitted { task_id }) => self.tasks.push(task_id.clone()),
            (_, Answer::Claimed { task_id, claim_token, .. }) => {
                self.claims.push((task_id.clone(), claim_token.clone()));
                self.tasks.push(task_id.clone());
            }
            _ => {}
        }
    }
}

/// What is to happen at an instant.
enum Due {
    Begin(usize),
    /// The call at this place of the history takes effect.
    Effect(usize),
    /// A client reads the answer, and is free.
    Return(usize, usize),
    /// The clock is stepped by this offset.
    Stepped(i64),
}

/// What a log has of a change: what was answered, and the clock that it was decided by.
type Log = BTreeMap<String, (Answer, i64)>;

fn simulated(seed: u64, lost_percent: usize) -> History {
    simulated_with_log(seed, lost_percent).0
}

fn simulated_with_log(seed: u64, lost_percent: usize) -> (History, Log) {
    let mut log = Log::new();
    let mut chance = Chance::new(seed, 1);
    let mut service = Service::default();
    let mut history = History { name: "simulated".to_owned(), seed, clock: ServerClock::default(), calls: Vec::new() };
    let mut known: Vec<Known> = (0..CLIENTS).map(|_| Known::default()).collect();
    let mut due: BTreeMap<(i64, usize), Due> = BTreeMap::new();
    let mut order = 0;
    let mut at = |due: &mut BTreeMap<(i64, usize), Due>, us: i64, what: Due| {
        order += 1;
        due.insert((us, order), what);
    };
    for client in 0..CLIENTS {
        at(&mut due, chance.between(0, 20_000), Due::Begin(client));
    }
    for n in 1..4 {
        let offset = if chance.percent(70) { chance.between(20, 200) } else { chance.between(-100, 20) };
        at(&mut due, n * END_US / 4, Due::Stepped(offset * SECOND_US));
    }
    while let Some(((now, _), what)) = due.pop_first() {
        match what {
            Due::Stepped(offset_us) => {
                (service.offset_us, service.stepped_us) = (offset_us, now);
                history.clock.steps.push(Step { from_us: now - 500, until_us: now + 500, offset_us });
            }
            Due::Begin(_) if now > END_US => {}
            Due::Begin(client) => {
                let index = history.calls.len();
                let op = choose(&mut chance, &known[client], format!("task-{index}"));
                let (is_lost, took) = (chance.percent(lost_percent), chance.between(100, 30_000));
                let returned_us = now + took;
                let late = if chance.percent(50) { chance.between(took, 400_000) } else { took };
                if !is_lost || chance.percent(60) {
                    let effect = if is_lost { chance.between(0, late) } else { chance.between(0, took) };
                    at(&mut due, now + effect, Due::Effect(index));
                }
                at(&mut due, returned_us, Due::Return(client, index));
                history.calls.push(Call {
                    id: format!("call-{index}"),
                    client: format!("client-{client}"),
                    // Two clients are one agent.
                    agent: format!("agent-{}", client.min(CLIENTS - 2)),
                    host: 0,
                    surface: "none".to_owned(),
                    invoked_us: now,
                    returned_us,
                    wall_invoked_us: WALL_US + now,
                    wall_returned_us: WALL_US + returned_us,
                    op,
                    answer: None,
                    settled_us: is_lost.then_some(now + late.max(took)),
                    logged: None,
                });
            }
            Due::Effect(index) => {
                let call = &mut history.calls[index];
                let decided_us = chance.between(call.invoked_us, now).max(service.stepped_us.min(now));
                call.answer = service.look(now, &call.op).or_else(|| {
                    service.tick(if call.op.is_look() { now } else { decided_us });
                    Some(service.answer(&call.agent, &call.op))
                });
                if let Some(answer) = call.answer.as_ref().filter(|answer| answer.is_change()) {
                    log.insert(call.id.clone(), (answer.clone(), service.now));
                }
            }
            Due::Return(client, index) => {
                let call = &mut history.calls[index];
                if call.settled_us.is_none() {
                    known[client].learn(&call.op, call.answer.as_ref().unwrap());
                }
                at(&mut due, now + chance.between(0, 120_000), Due::Begin(client));
            }
        }
    }
    // What was lost, nobody knows.
    history.calls.iter_mut().filter(|call| call.settled_us.is_some()).for_each(|call| call.answer = None);
    (history, log)
}

/// One that was closed by its log. Of half of them nothing is known of when a lost call was settled.
fn closed(seed: u64, change: impl FnOnce(&History, &mut Log)) -> History {
    let (mut history, mut log) = simulated_with_log(seed, 15);
    if seed.is_multiple_of(2) {
        history.calls.iter_mut().for_each(|call| call.settled_us = None);
    }
    change(&history, &mut log);
    history.close(2 * END_US, |call| log.get(&call.id).cloned());
    history
}

fn accepted(history: &History) -> usize {
    let told = |rejected: Box<Rejected>| panic!("seed {}: a right history was rejected: {rejected}", history.seed);
    check(history).unwrap_or_else(told).possibilities
}

#[test]
fn whatever_a_correct_service_answers_is_accepted() {
    let (mut calls, mut unanswered, mut possibilities) = (0, 0, 0);
    for seed in 0..200 {
        let history = simulated(seed, [0, 5, 15][usize::try_from(seed % 3).unwrap()]);
        calls += history.calls.len();
        unanswered += history.calls.iter().filter(|call| call.answer.is_none()).count();
        possibilities = possibilities.max(accepted(&history));
    }
    // The simulation has to be worth something: calls that overlap, and calls of which nobody heard.
    assert!(calls > 40_000 && unanswered > 2000, "{calls} calls, {unanswered} without an answer");
    assert!(possibilities > 3, "{possibilities}");
}

/// The log tells of every lost change, and none of them may be taken for wrong, however late the log was read.
#[test]
fn what_a_correct_service_logged_is_accepted() {
    let mut logged = 0;
    for seed in 0..100 {
        let history = closed(seed, |_, _| ());
        accepted(&history);
        logged += history.calls.iter().filter(|call| call.is_logged()).count();
    }
    assert!(logged > 200, "{logged} changes that only the log tells of");
}

/// A grant that nobody was told of and that the log denies is missed by those who were told of the next one.
#[test]
fn changes_that_the_log_denies_are_found() {
    let (mut found, mut tried) = (0, 0);
    for seed in 0..120 {
        let mut is_denied = false;
        let history = closed(seed, |history, log| {
            let is_granted =
                |call: &&Call| call.answer.is_none() && matches!(log.get(&call.id), Some((Answer::Granted { .. }, _)));
            let id = history.calls.iter().find(is_granted).map(|call| call.id.clone());
            is_denied = id.is_some_and(|id| log.remove(&id).is_some());
        });
        tried += usize::from(is_denied);
        found += usize::from(is_denied && check(&history).is_err());
    }
    assert!(tried > 20 && found * 10 > tried * 6, "{found} of {tried}");
}

/// An answer that is changed to another call's is found nearly always: where it is not, it was possible.
#[test]
fn answers_that_are_exchanged_are_found() {
    let (mut found, mut tried) = (0, 0);
    for seed in 0..120 {
        let mut history = simulated(seed, 3);
        let mut chance = Chance::new(seed, 2);
        let granted = |call: &&mut Call| matches!(call.answer, Some(Answer::Granted { .. } | Answer::Claimed { .. }));
        let count = history.calls.iter_mut().filter(granted).count();
        let Some(call) = history.calls.iter_mut().filter(granted).nth(chance.below(count)) else { continue };
        // Somebody else got it.
        call.agent = if call.agent == "agent-0" { "agent-1".to_owned() } else { "agent-0".to_owned() };
        tried += 1;
        found += usize::from(check(&history).is_err());
    }
    assert!(tried > 100 && found * 10 > tried * 6, "{found} of {tried}");
}
