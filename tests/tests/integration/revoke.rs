//! REVOKE: once a suspension, a revocation or a change of profile is acknowledged,
//! nothing commits that was decided before it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::task::JoinHandle;

use crate::harness::state::AuditLine;
use crate::harness::{Client, Server, Setup};

const WORKERS: usize = 8;

/// Clients that take locks as fast as they can, each with a prefix of its own.
struct Burst {
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicUsize>,
    workers: Vec<JoinHandle<Vec<u16>>>,
}

impl Burst {
    fn start(agent: &Client, prefix: &'static str) -> Self {
        let (stop, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let workers = (0..WORKERS).map(|worker| {
            let (agent, stop, answers) = (agent.clone(), Arc::clone(&stop), Arc::clone(&answers));
            tokio::spawn(async move {
                let mut statuses = Vec::new();
                for n in 0_u32.. {
                    if stop.load(Ordering::Acquire) {
                        break;
                    }
                    let path = format!("{prefix}/{worker}/{}.rs", n % 5);
                    statuses.push(agent.acquire(&path).await.status);
                    statuses.push(agent.release(&path).await.status);
                    answers.fetch_add(2, Ordering::AcqRel);
                }
                statuses
            })
        });
        Self { workers: workers.collect(), stop, answers }
    }

    /// Waits until there are so many more answers, however slow the machine is.
    async fn more(&self, answers: usize) {
        let until = self.answers.load(Ordering::Acquire) + answers;
        while self.answers.load(Ordering::Acquire) < until {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Statuses, in the order of each worker.
    async fn end(self) -> Vec<u16> {
        self.stop.store(true, Ordering::Release);
        futures::future::join_all(self.workers).await.into_iter().flat_map(Result::unwrap).collect()
    }
}

/// Starts a burst, lets `change` happen in the midst of it, and gives the log from that change on.
async fn in_the_midst<F: Future<Output = ()>>(
    server: &Server,
    agent: &Client,
    command: &str,
    change: F,
) -> (Vec<u16>, Vec<AuditLine>) {
    let burst = Burst::start(agent, "src");
    burst.more(100).await;
    change.await;
    burst.more(100).await;
    let statuses = burst.end().await;
    let lines = server.audit_after(0).await;
    let at = lines.iter().rposition(|line| line.command == command && line.outcome == "ok").unwrap();
    assert!(lines[..at].iter().any(|line| is_committed(line, &agent.agent_id)), "nothing happened before the change");
    (statuses, lines[at + 1..].to_vec())
}

/// A mutation of the agent that took effect.
fn is_committed(line: &AuditLine, agent_id: &str) -> bool {
    line.agent_id == agent_id && line.decision == "allow" && line.outcome != "failed"
}

async fn server() -> Server {
    Server::start_with(Setup::default()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_of_an_agent_commits_after_its_suspension() {
    let server = server().await;
    let agent = server.agent("a", "claude_code_local").await;
    let (statuses, after) = in_the_midst(&server, &agent, "agent_suspend", server.suspend("a", true)).await;
    let late: Vec<_> = after.iter().filter(|line| is_committed(line, "a")).collect();
    assert!(late.is_empty(), "{late:#?}");
    assert!(after.iter().any(|line| line.agent_id == "a" && line.reason == "suspended"));
    assert!(statuses.iter().all(|status| matches!(status, 200 | 403)), "{statuses:?}");
    agent.acquire("src/x.rs").await.denied("suspended");
    server.suspend("a", false).await;
    agent.acquire("src/x.rs").await.done();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_of_a_key_commits_after_its_revocation_and_the_other_key_goes_on() {
    let server = server().await;
    let agent = server.agent("a", "claude_code_local").await;
    let second = server.admin.post("/agents/a/keys", json!({"label": "second"})).await.done();
    let second = Client { key: second["key"].as_str().map(str::to_owned), ..agent.clone() };
    let kept = Burst::start(&second, "kept");
    let revoke = async {
        server.admin.delete(&format!("/agents/a/keys/{}", agent.key_id)).await.done();
    };
    let (statuses, after) = in_the_midst(&server, &agent, "agent_key_revoke", revoke).await;
    let late: Vec<_> =
        after.iter().filter(|line| is_committed(line, "a") && line.resource.starts_with("lock_key:src/")).collect();
    assert!(late.is_empty(), "{late:#?}");
    assert!(statuses.iter().all(|status| matches!(status, 200 | 401)), "{statuses:?}");
    assert!(statuses.contains(&401));
    let seq = server.last_seq().await;
    kept.more(40).await;
    let kept = kept.end().await;
    assert!(kept.iter().all(|status| *status == 200), "{kept:?}");
    let later = server.audit_after(seq).await;
    assert!(later.iter().any(|line| is_committed(line, "a") && line.resource.starts_with("lock_key:kept/")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_commits_under_a_profile_that_was_taken_away() {
    let server = server().await;
    let agent = server.agent("a", "claude_code_local").await;
    let change = async {
        server.admin.post("/agents/a/profile", json!({"profile": "claude_code_reviewer"})).await.done();
    };
    let (statuses, after) = in_the_midst(&server, &agent, "agent_profile", change).await;
    let late: Vec<_> = after.iter().filter(|line| is_committed(line, "a")).collect();
    assert!(late.is_empty(), "{late:#?}");
    assert!(after.iter().any(|line| line.agent_id == "a" && line.reason == "operation_not_allowed"));
    assert!(statuses.iter().all(|status| matches!(status, 200 | 403)), "{statuses:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn changes_back_and_forth_leave_every_request_answered() {
    let server = server().await;
    let agent = server.agent("a", "claude_code_local").await;
    let burst = Burst::start(&agent, "src");
    for n in 0..20 {
        let profile = if n % 2 == 0 { "claude_code_remote" } else { "claude_code_local" };
        server.admin.post("/agents/a/profile", json!({"profile": profile})).await.done();
        // Without a pause, facts may move faster than decisions are made: 503 `contention`.
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    let statuses = burst.end().await;
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_claim_ends_with_the_suspension_of_its_agent() {
    let server = Server::start().await;
    let agent = server.agent("a", "codex_remote").await;
    let waiter = agent.clone();
    let waiting =
        tokio::spawn(async move { waiter.post("/work/claim", json!({"task_types": ["t"], "wait_seconds": 20})).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.suspend("a", true).await;
    let id = server.admin.submit("t", json!({})).await;
    waiting.await.unwrap().denied("suspended");
    assert_eq!(server.admin.task(&id).await["status"], "pending");
}

#[tokio::test(flavor = "multi_thread")]
async fn suspension_revocation_and_profile_outlive_a_restart() {
    let server = Server::start().await;
    let suspended = server.agent("s", "codex_local").await;
    let revoked = server.agent("r", "codex_local").await;
    server.suspend("s", true).await;
    server.admin.delete(&format!("/agents/r/keys/{}", revoked.key_id)).await.done();
    let server = server.restart().await;
    server.again(&suspended).acquire("src/a.rs").await.denied("suspended");
    assert_eq!(server.again(&revoked).acquire("src/a.rs").await.status, 401);
}
