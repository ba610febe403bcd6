//! Concurrent histories of the real service under faults, each checked for an explanation.
//!
//! A scenario is some clients, HTTP and MCP, that work on a few locks and tasks of one host or three, while a schedule of faults is
//! carried out: hosts and databases that are killed, hosts that stand still past a lease, connections that are cut, clocks that are
//! stepped, disks that are full or slow. Scripts and schedule follow from a seed, which is printed; `PORTREEVE_SEED` runs it again.
//! `PORTREEVE_HISTORY_SECONDS` makes scenarios longer.
//!
//! What the clients were told is checked by `tests::history`; see there for what that means. What became of calls without
//! an answer is read from the log. A history that is rejected is kept, and its path is printed.
//!
//! [`embedded`] and [`server`] hold the scenarios that only one of the backends has.

mod aftermath;
mod clients;
mod database;
mod embedded;
mod faults;
mod fleet;
mod link;
mod machine;
mod script;
mod server;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tests::history::clock::ServerClock;
use tests::history::{History, Op};
use tokio::sync::Mutex;

use self::aftermath::{Figures, Kept, assert_allowed, assert_explained, assert_logged, close};
use self::clients::{Desk, Failure, Worker};
use self::faults::{Done, carry_out};
use self::fleet::Fleet;
use self::script::{KEYS, Plan, Script, schedule};
use crate::harness::postgres;

/// Two of them are one agent, over HTTP and over MCP.
const CLIENTS: usize = 7;

/// So long do clients work, unless it is said.
const SECONDS: u64 = 8;

/// So long do they work at the least once all faults are over.
const CALM_AT_END: Duration = Duration::from_millis(2500);

/// So many claims get a task at the least: where none does, there is nothing to say of claims.
const CLAIMED_MIN: usize = 10;

/// What is run.
struct Scenario {
    name: &'static str,
    hosts: usize,
    plan: Plan,
    /// So many of a hundred calls are given up by their client right after they were sent.
    cut_percent: usize,
}

/// How a run went, for what a scenario has to show beside its history.
struct Run {
    fleet: Fleet,
    history: History,
    done: Done,
}

fn number_of(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is `{text}`, which is no number")))
}

/// One that nobody chose.
fn new_seed() -> u64 {
    u64::try_from(uuid::Uuid::now_v7().as_u128() & 0xFFFF_FFFF).unwrap()
}

impl Scenario {
    const fn new(name: &'static str, hosts: usize, plan: Plan) -> Self {
        Self { name, hosts, plan, cut_percent: 0 }
    }

    /// Runs it, and checks all that has to hold of any run.
    async fn run(self) -> Run {
        // Two at once would slow each other down, and find less.
        static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());
        let _one = ONE_AT_A_TIME.lock().await;
        let backend = if postgres::is_chosen() { "postgres" } else { "sqlite" };
        let seed = number_of("PORTREEVE_SEED").unwrap_or_else(new_seed);
        let seconds = number_of("PORTREEVE_HISTORY_SECONDS").unwrap_or(SECONDS);
        announce(self.name, backend, seed);
        let start = Instant::now();
        let mut fleet = Fleet::start(self.hosts, self.plan == Plan::CutConnections).await;
        let (mut history, done, desk) = self.work(&mut fleet, seed, seconds).await;
        done.tell(&mut history);
        let kept = Kept::of(&history, backend);
        fleet.stop().await;
        let log = fleet.log().await;
        close(&mut history, &log, desk.now_us());
        kept.again(&history);
        let checking = Instant::now();
        let checked = assert_explained(&history);
        let checked_ms = u64::try_from(checking.elapsed().as_millis()).unwrap();
        assert_logged(&history, &log);
        let rows_validated = assert_allowed(&fleet);
        assert!(checked.answered > 150, "{checked:?} is too little to mean something");
        assert!(checked.claimed >= CLAIMED_MIN, "{checked:?}: hardly a claim got a task");
        assert!(self.plan == Plan::Calm || !done.counts.is_empty(), "nothing went wrong");
        let told = fleet.told();
        assert!(!told.contains("panicked"), "a host panicked:\n{told}");
        kept.holds();
        let (faults, seconds) = (&done.counts, start.elapsed().as_secs_f64());
        let hosts = self.hosts;
        Figures { history: &history, backend, hosts, checked, faults, checked_ms, rows_validated, seconds }.write();
        Run { fleet, history, done }
    }

    /// How many calls may be told that there is no storage: a service that always says so would answer nothing wrong.
    fn unavailable_max(&self) -> usize {
        match self.plan {
            Plan::FullDisk | Plan::KilledDatabase | Plan::CutConnections => usize::MAX,
            // A database whose clock is stepped on takes statements at work for late.
            Plan::SkewedHosts | Plan::PausedHosts if postgres::is_chosen() => 2 * CLIENTS,
            _ => 0,
        }
    }

    /// Lets clients work while faults are carried out, and looks at everything at the end.
    async fn work(&self, fleet: &mut Fleet, seed: u64, seconds: u64) -> (History, Done, Arc<Desk>) {
        let failure = match self.plan {
            Plan::FullDisk => Failure::Nothing,
            Plan::CutConnections => Failure::Open,
            _ => Failure::Settled,
        };
        let desk = Desk::new(fleet.doors(), failure);
        let mut workers = Vec::new();
        for n in 0..CLIENTS {
            let profile = ["claude_code_local", "codex_local"][n % 2];
            let client = match workers.first() {
                // The last one is the first one's agent.
                Some(Worker { client, .. }) if n + 1 == CLIENTS => client.clone(),
                _ => fleet.agent(&format!("agent-{n}"), profile).await,
            };
            workers.push(Worker::new(format!("client-{n}"), client, n % 2 == 1 || n + 1 == CLIENTS, desk.clone()));
        }
        let planned = schedule(self.plan, seed, self.hosts, seconds);
        let start = Instant::now();
        let working = workers
            .into_iter()
            .enumerate()
            .map(|(n, worker)| tokio::spawn(worker.work(Script::new(seed, n, self.hosts, self.cut_percent))));
        let working: Vec<_> = working.collect();
        let done = carry_out(fleet, &desk, &planned).await;
        // A while without faults at the end, however long they took.
        let left = Duration::from_secs(seconds).saturating_sub(start.elapsed());
        tokio::time::sleep(left.max(CALM_AT_END)).await;
        desk.is_over.store(true, Ordering::Relaxed);
        let mut workers = Vec::new();
        for worker in working {
            workers.push(worker.await.unwrap());
        }
        for host in 0..self.hosts {
            fleet.wait_until_usable(host).await;
        }
        look(&mut workers[0], self.hosts).await;
        let calls = std::mem::take(&mut *desk.calls.lock().unwrap());
        let unavailable = desk.unavailable.load(Ordering::Relaxed);
        assert!(unavailable <= self.unavailable_max(), "{unavailable} calls were told that there is no storage");
        (History { name: self.name.to_owned(), seed, clock: ServerClock::default(), calls }, done, desk)
    }
}

#[expect(clippy::print_stderr, reason = "whoever reads why a test failed has to be able to run it again")]
fn announce(name: &str, backend: &str, seed: u64) {
    eprintln!("scenario {name} on {backend}: PORTREEVE_SEED={seed}");
}

/// Looks at every lock and every task: what was acknowledged is there.
async fn look(worker: &mut Worker, hosts: usize) {
    let looks = KEYS.iter().map(|key| Op::Status { key: (*key).to_owned() });
    let looks = looks.chain(worker.desk.tasks().into_iter().map(|task_id| Op::Get { task_id }));
    for (n, op) in looks.collect::<Vec<_>>().into_iter().enumerate() {
        let answer = worker.call(op.clone(), n % hosts, None).await;
        assert!(answer.is_some(), "no answer to {op:?} after all faults were over");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn without_faults() {
    Scenario::new("calm", 1, Plan::Calm).run().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn hosts_are_killed() {
    let hosts = if postgres::is_chosen() { 3 } else { 1 };
    let run = Scenario::new("killed-hosts", hosts, Plan::KilledHosts).run().await;
    assert!(run.done.counts["host_killed"] >= 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn hosts_stand_still_past_leases() {
    let hosts = if postgres::is_chosen() { 3 } else { 1 };
    Scenario::new("paused-hosts", hosts, Plan::PausedHosts).run().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn connections_are_cut() {
    let scenario = Scenario { cut_percent: 6, ..Scenario::new("cut-connections", 1, Plan::CutConnections) };
    let run = scenario.run().await;
    assert!(faults::unanswered(&run.history.calls) > 5, "nothing was cut");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_disk_is_slow() {
    let run = Scenario::new("slow-disk", 1, Plan::SlowDisk).run().await;
    let synced = run.fleet.disk().synced();
    assert!(synced >= 5, "{synced} syncs waited");
}
