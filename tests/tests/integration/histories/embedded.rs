//! Scenarios of the embedded store: its host's clock is the clock that leases go by, and its host's disk is the disk.

use tests::history::Answer;

use super::Scenario;
use super::script::Plan;

/// Leases end when the clock is stepped on. Stepped back, nothing that was over comes back, nor does it with a new process.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_clock_is_stepped() {
    Scenario::new("stepped-clock", 1, Plan::SteppedClocks).run().await;
}

/// Whoever asks for a change is told that there is no storage, nothing is half done, and it goes on when there is room again.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_disk_is_full() {
    let run = Scenario::new("full-disk", 1, Plan::FullDisk).run().await;
    let failed = run.history.calls.iter().filter(|call| call.answer == Some(Answer::Failed)).count();
    assert!(failed >= 3 && run.fleet.machine(0).refused() >= 3, "{failed} call(s) met a full disk");
}
