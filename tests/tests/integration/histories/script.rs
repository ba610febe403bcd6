//! What the clients want to do, and what goes wrong meanwhile: all of it follows from the seed.

use std::time::Duration;

use tests::chance::Chance;

/// Few of each, so that clients meet.
pub(crate) const KEYS: [&str; 3] = ["src/a.rs", "api:GET /v1/users", "docs/b.md"];
pub(crate) const TASK_TYPES: [&str; 2] = ["build", "test"];

/// The largest part of a minute that a client thinks between two calls.
const PAUSE_MS_MAX: i64 = 70;

/// What a client does next. What it needs for that (a token, a claim) it takes from what it was told, `pick`ing one of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Intent {
    pub(crate) kind: Kind,
    pub(crate) key: &'static str,
    pub(crate) task_type: &'static str,
    pub(crate) ttl_minutes: i64,
    pub(crate) lease_seconds: i64,
    pub(crate) max_attempts: i64,
    pub(crate) is_success: bool,
    pub(crate) names_token: bool,
    pub(crate) pick: usize,
    pub(crate) host: usize,
    pub(crate) pause: Duration,
    /// The client gives up so long after sending.
    pub(crate) cut: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Acquire,
    Renew,
    Release,
    Verify,
    Status,
    ForceRelease,
    Submit,
    Claim,
    Heartbeat,
    Complete,
    Cancel,
    Get,
}

/// Of a hundred intents, so many are of a kind.
const SHARES: [(Kind, usize); 12] = [
    (Kind::Acquire, 25),
    (Kind::Renew, 8),
    (Kind::Release, 9),
    (Kind::Verify, 7),
    (Kind::Status, 7),
    (Kind::ForceRelease, 1),
    (Kind::Submit, 8),
    (Kind::Claim, 13),
    (Kind::Heartbeat, 5),
    (Kind::Complete, 9),
    (Kind::Cancel, 1),
    (Kind::Get, 7),
];

/// The intents of one client, one after the other.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    chance: Chance,
    hosts: usize,
    cut_percent: usize,
}

impl Script {
    pub(crate) fn new(seed: u64, client: usize, hosts: usize, cut_percent: usize) -> Self {
        Self { chance: Chance::new(seed, 100 + client as u64), hosts, cut_percent }
    }

    pub(crate) fn next(&mut self) -> Intent {
        let chance = &mut self.chance;
        let mut share = chance.below(SHARES.iter().map(|(_, share)| share).sum());
        let kind = SHARES.iter().find(|(_, width)| {
            let is_here = share < *width;
            share = share.saturating_sub(*width);
            is_here
        });
        // All of it is drawn, whether it is needed or not: so a client's choices do not depend on what it was told.
        Intent {
            kind: kind.unwrap().0,
            key: KEYS[chance.below(KEYS.len())],
            task_type: TASK_TYPES[chance.below(TASK_TYPES.len())],
            ttl_minutes: chance.between(1, 2),
            lease_seconds: chance.between(1, 2),
            max_attempts: chance.between(1, 3),
            is_success: chance.percent(60),
            names_token: chance.percent(70),
            pick: chance.below(1000),
            host: chance.below(self.hosts),
            pause: millis(chance.between(0, PAUSE_MS_MAX)),
            cut: Some(millis(chance.between(0, 12))).filter(|_| chance.percent(self.cut_percent)),
        }
    }
}

fn millis(ms: i64) -> Duration {
    Duration::from_millis(ms.unsigned_abs())
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A host dies at once, and is started again so much later.
    KillHost { host: usize, down: Duration },
    /// A host dies, and its clock is stepped before it is started again.
    KillHostAndStep { host: usize, offset_us: i64 },
    /// All processes of the database die.
    KillDatabase { down: Duration },
    /// A host stands still, while the clock that leases go by is stepped.
    PauseHost { host: usize, standing: Duration, offset_us: i64 },
    /// A host's clock is stepped.
    StepHost { host: usize, offset_us: i64 },
    /// The database's clock is stepped.
    StepDatabase { offset_us: i64 },
    /// Answers are lost for a moment, and then all connections.
    Cut { deaf: Duration },
    /// The database ends all sessions of the hosts.
    EndSessions,
    /// The disk is full for a while.
    FullDisk { standing: Duration },
    /// The disk takes longer for a while.
    SlowDisk { delay: Duration, standing: Duration },
}

/// Of which faults a schedule is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plan {
    Calm,
    KilledHosts,
    KilledDatabase,
    PausedHosts,
    CutConnections,
    SteppedClocks,
    SkewedHosts,
    FullDisk,
    SlowDisk,
}

const SECOND_US: i64 = 1_000_000;

/// Which fault comes how long after the beginning, in a run of so many seconds.
pub(crate) fn schedule(plan: Plan, seed: u64, hosts: usize, seconds: u64) -> Vec<(Duration, Fault)> {
    let mut chance = Chance::new(seed, 1);
    let mut planned = Vec::new();
    let mut at = 700 + chance.between(0, 500);
    let mut steps = 0;
    while at < i64::try_from(seconds).unwrap_or(0) * 1000 - 1500 {
        let (fault, took_ms) = next(plan, &mut chance, hosts, &mut steps);
        planned.extend(fault.map(|fault| (millis(at), fault)));
        at += took_ms + chance.between(300, 900);
    }
    planned
}

/// A fault, and how long it takes.
fn next(plan: Plan, chance: &mut Chance, hosts: usize, steps: &mut i64) -> (Option<Fault>, i64) {
    let (host, down) = (chance.below(hosts), millis(chance.between(0, 500)));
    // On past the leases of the locks that are held, or back.
    let on = |steps: &mut i64, seconds: i64| {
        *steps += seconds * SECOND_US;
        *steps
    };
    match plan {
        Plan::Calm => (None, 60_000),
        Plan::KilledHosts => (Some(Fault::KillHost { host, down }), 1200),
        Plan::KilledDatabase => (Some(Fault::KillDatabase { down }), 2500),
        Plan::PausedHosts => {
            let offset_us = on(steps, chance.between(61, 125));
            (Some(Fault::PauseHost { host, standing: millis(chance.between(1200, 2600)), offset_us }), 3000)
        }
        Plan::CutConnections if chance.percent(30) => (Some(Fault::EndSessions), 200),
        Plan::CutConnections => (Some(Fault::Cut { deaf: millis(chance.between(0, 120)) }), 200),
        Plan::SteppedClocks => {
            // Mostly on; back by more than a lease. Now and then it is back when the host is started.
            let seconds = if chance.percent(60) { chance.between(30, 130) } else { chance.between(-200, -20) };
            let (offset_us, is_killed) = (on(steps, seconds), chance.percent(35));
            let step = if is_killed {
                Fault::KillHostAndStep { host, offset_us }
            } else {
                Fault::StepHost { host, offset_us }
            };
            (Some(step), if is_killed { 1200 } else { 500 })
        }
        Plan::SkewedHosts if chance.percent(30) => {
            (Some(Fault::StepDatabase { offset_us: on(steps, chance.between(61, 125)) }), 300)
        }
        Plan::SkewedHosts => (Some(Fault::StepHost { host, offset_us: chance.between(-900, 900) * SECOND_US }), 200),
        Plan::FullDisk => (Some(Fault::FullDisk { standing: millis(chance.between(200, 900)) }), 900),
        Plan::SlowDisk => {
            let (delay, standing) = (millis(chance.between(20, 250)), millis(chance.between(500, 1500)));
            (Some(Fault::SlowDisk { delay, standing }), 1500)
        }
    }
}

#[test]
fn a_seed_makes_the_same_scripts_and_the_same_schedule_again() {
    let script = |seed, client| {
        let mut script = Script::new(seed, client, 3, 10);
        (0..200).map(|_| script.next()).collect::<Vec<_>>()
    };
    assert_eq!(script(7, 1), script(7, 1));
    assert_ne!(script(7, 1), script(7, 2));
    assert_ne!(script(7, 1), script(8, 1));
    for kind in SHARES {
        assert!(script(7, 1).iter().any(|intent| intent.kind == kind.0), "{kind:?}");
    }
    let plans = [
        Plan::KilledHosts,
        Plan::KilledDatabase,
        Plan::PausedHosts,
        Plan::CutConnections,
        Plan::SteppedClocks,
        Plan::SkewedHosts,
        Plan::FullDisk,
        Plan::SlowDisk,
    ];
    for plan in plans {
        let planned = schedule(plan, 7, 3, 12);
        assert_eq!(planned, schedule(plan, 7, 3, 12));
        assert_ne!(planned, schedule(plan, 8, 3, 12));
        assert!(planned.len() >= 3, "{plan:?}: {planned:?}");
    }
    assert_eq!(schedule(Plan::Calm, 7, 3, 12), []);
}
