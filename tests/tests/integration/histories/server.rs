//! Scenarios of hosts on a database. They run with `PORTREEVE_TEST_STORE=postgres`.

use super::Scenario;
use super::script::Plan;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn three_hosts_without_faults() {
    Scenario::new("calm-3", 3, Plan::Calm).run().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_database_is_killed() {
    Scenario::new("killed-database", 3, Plan::KilledDatabase).run().await;
}

/// Leases go by the database's clock: that hosts disagree about the time, by minutes, changes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_hosts_clocks_are_skewed() {
    Scenario::new("skewed-hosts", 3, Plan::SkewedHosts).run().await;
}
