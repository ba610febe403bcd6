//! Carries out a schedule of faults on a fleet, and notes what the checker has to know of it.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::Connection;
use tests::history::clock::Step;
use tests::history::{Call, History};
use tokio::time::{Instant, sleep, sleep_until};

use super::clients::Desk;
use super::fleet::Fleet;
use super::script::Fault;

/// A host that was killed, or a database: whatever was asked before `at_us` takes no effect after `settled_us`.
#[derive(Debug, Clone, Copy)]
struct Settled {
    host: Option<usize>,
    at_us: i64,
    settled_us: i64,
}

/// What was done, for the history.
#[derive(Debug, Default)]
pub(crate) struct Done {
    pub(crate) counts: BTreeMap<&'static str, u64>,
    steps: Vec<Step>,
    settled: Vec<Settled>,
}

impl Done {
    /// Tells the history of it.
    pub(crate) fn tell(&self, history: &mut History) {
        history.clock.steps.clone_from(&self.steps);
        for settled in &self.settled {
            history.settle(settled.host, settled.at_us, settled.settled_us);
        }
    }

    fn step(&mut self, from_us: i64, until_us: i64, offset_us: i64) {
        self.steps.push(Step { from_us, until_us, offset_us });
    }

    fn count(&mut self, name: &'static str) {
        *self.counts.entry(name).or_default() += 1;
    }
}

/// Carries out a schedule that begins now.
pub(crate) async fn carry_out(fleet: &mut Fleet, desk: &Desk, schedule: &[(Duration, Fault)]) -> Done {
    let start = Instant::now();
    let mut done = Done::default();
    for (after, fault) in schedule {
        sleep_until(start + *after).await;
        one(fleet, desk, &mut done, *fault).await;
    }
    done
}

async fn one(fleet: &mut Fleet, desk: &Desk, done: &mut Done, fault: Fault) {
    match fault {
        Fault::KillHost { host, down } => {
            done.count("host_killed");
            kill(fleet, desk, done, host).await;
            sleep(down).await;
            start(fleet, desk, host);
        }
        Fault::KillHostAndStep { host, offset_us } => {
            done.count("host_killed_and_clock_stepped");
            kill(fleet, desk, done, host).await;
            step_host(fleet, desk, done, host, offset_us);
            start(fleet, desk, host);
        }
        Fault::KillDatabase { down } => {
            done.count("database_killed");
            let database = fleet.database();
            // Nothing is settled by it: what waits in a host for a connection is sent once the database is there again.
            tokio::task::block_in_place(|| database.kill());
            sleep(down).await;
            tokio::task::block_in_place(|| database.start_again());
        }
        Fault::PauseHost { host, standing, offset_us } => {
            done.count("host_paused");
            fleet.signal(host, "-STOP");
            sleep(standing / 2).await;
            step_leases(fleet, desk, done, offset_us);
            sleep(standing / 2).await;
            fleet.signal(host, "-CONT");
        }
        Fault::StepHost { host, offset_us } => {
            done.count("host_clock_stepped");
            step_host(fleet, desk, done, host, offset_us);
        }
        Fault::StepDatabase { offset_us } => {
            done.count("database_clock_stepped");
            step_leases(fleet, desk, done, offset_us);
        }
        Fault::Cut { deaf } => {
            done.count("connections_cut");
            let link = fleet.link();
            link.deafen();
            sleep(deaf).await;
            link.cut();
        }
        Fault::EndSessions => {
            if fleet.is_embedded() {
                done.count("connections_cut");
                fleet.link().cut();
                return;
            }
            done.count("sessions_ended");
            let mut conn = fleet.database().superuser().await;
            let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'portreeve_app'";
            sqlx::raw_sql(sql).execute(&mut conn).await.unwrap();
            conn.close().await.unwrap();
        }
        Fault::FullDisk { standing } => {
            done.count("disk_full");
            fleet.machine(0).set_full(Some(fleet.data(0)));
            sleep(standing).await;
            fleet.machine(0).set_full(None);
        }
        Fault::SlowDisk { delay, standing } => {
            done.count("disk_slow");
            fleet.disk().set_sync_delay(delay);
            sleep(standing).await;
            fleet.disk().set_sync_delay(Duration::ZERO);
        }
    }
}

/// Kills a host, and waits until nothing runs any more that it began.
async fn kill(fleet: &mut Fleet, desk: &Desk, done: &mut Done, host: usize) {
    fleet.kill(host);
    let at_us = desk.now_us();
    if !fleet.is_embedded() {
        fleet.database().settle().await;
    }
    done.settled.push(Settled { host: Some(host), at_us, settled_us: desk.now_us() });
}

fn start(fleet: &mut Fleet, desk: &Desk, host: usize) {
    let door = tokio::task::block_in_place(|| fleet.start_again(host));
    desk.doors.lock().unwrap()[host] = door;
}

/// Steps a host's clock, by which leases go only where the host has the store.
fn step_host(fleet: &Fleet, desk: &Desk, done: &mut Done, host: usize, offset_us: i64) {
    let from_us = desk.now_us();
    fleet.machine(host).set_clock_offset(offset_us);
    if fleet.is_embedded() {
        done.step(from_us, desk.now_us(), offset_us);
    }
}

/// Steps the clock that leases go by.
fn step_leases(fleet: &Fleet, desk: &Desk, done: &mut Done, offset_us: i64) {
    let from_us = desk.now_us();
    if fleet.is_embedded() {
        fleet.machine(0).set_clock_offset(offset_us);
    } else {
        fleet.database().machine.set_clock_offset(offset_us);
    }
    done.step(from_us, desk.now_us(), offset_us);
}

/// Calls that nobody answered.
pub(crate) fn unanswered(calls: &[Call]) -> usize {
    calls.iter().filter(|call| call.answer.is_none()).count()
}
