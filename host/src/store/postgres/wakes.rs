//! What one host's commits set free is told to the others, after the commit and outside of it: notifications inside of the
//! hot transaction would serialise commits. They are hints. Who misses one looks again a moment later.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sqlx::postgres::{PgListener, PgPoolOptions};
use sqlx::{ConnectOptions, PgConnection};
use tokio::sync::{broadcast, mpsc, watch};

use super::facts::Facts;
use super::options::Options;
use crate::command::action::Wakes;

const CHANNEL: &str = "portreeve_wakes";
/// Hints that wait to be sent; more are dropped.
const WAITING_MAX: usize = 1024;
/// Hints that are sent at once.
const BATCH_MAX: usize = 64;
/// How long to wait for a server that is away.
const AGAIN: Duration = Duration::from_secs(1);

/// What one host tells the others.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Hint {
    /// Who tells it: hosts pass over their own.
    host: String,
    /// Whom it concerns.
    workspace: String,
    what: What,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum What {
    /// Tasks may be there.
    Tasks,
    /// The lock of this key may be free.
    Lock(String),
    /// Anything may be free.
    All,
    /// The facts of this agent moved.
    Agent(String),
}

/// Tells other hosts, and hears them.
#[derive(Debug, Clone)]
pub(super) struct Sender {
    out: mpsc::Sender<What>,
    heard: broadcast::Sender<Wakes>,
}

impl Sender {
    pub(super) fn send(&self, wakes: Wakes) {
        let what = match wakes {
            Wakes::Nothing => return,
            Wakes::Tasks => What::Tasks,
            Wakes::Lock(key) => What::Lock(key),
            Wakes::All => What::All,
        };
        // Too many wait, or the service stops: a hint may be dropped.
        drop(self.out.try_send(what));
    }

    pub(super) fn send_facts(&self, agent_id: &str) {
        drop(self.out.try_send(What::Agent(agent_id.to_owned())));
    }

    pub(super) fn listen(&self) -> broadcast::Receiver<Wakes> {
        self.heard.subscribe()
    }
}

/// Starts telling and hearing what concerns a workspace, until told to stop.
pub(super) fn start(options: Options, workspace: String, facts: Facts, stop: watch::Receiver<bool>) -> Sender {
    let (out, waiting) = mpsc::channel(WAITING_MAX);
    let heard = broadcast::Sender::new(WAITING_MAX);
    let host = crate::command::new_id();
    let telling = tell(options.clone(), host.clone(), workspace.clone(), waiting);
    tokio::spawn(until(stop.clone(), telling));
    let (host, heard_here) = (host, heard.clone());
    tokio::spawn(until(stop, async move {
        loop {
            if let Err(error) = hear(&options, &host, &workspace, &facts, &heard_here).await {
                tracing::warn!(error = %error, "other hosts are not heard; those who wait look by themselves");
            }
            // What was missed meanwhile may concern anybody.
            facts.clear();
            drop(heard_here.send(Wakes::All));
            tokio::time::sleep(AGAIN).await;
        }
    }));
    Sender { out, heard }
}

async fn until(mut stop: watch::Receiver<bool>, work: impl Future<Output = ()>) {
    tokio::select! {
        () = work => {}
        // The service is gone, or stops.
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

async fn tell(options: Options, host: String, workspace: String, mut waiting: mpsc::Receiver<What>) {
    let mut conn: Option<PgConnection> = None;
    let mut batch = Vec::with_capacity(BATCH_MAX);
    while waiting.recv_many(&mut batch, BATCH_MAX).await > 0 {
        let hint = |what: What| {
            let hint = Hint { host: host.clone(), workspace: workspace.clone(), what };
            serde_json::to_string(&hint).unwrap_or_default()
        };
        let hints: Vec<String> = batch.drain(..).map(hint).collect();
        if conn.is_none() {
            conn = options.for_hints().connect().await.ok();
        }
        let Some(open) = &mut conn else { continue };
        let sql = "SELECT pg_notify($1, hint) FROM unnest($2::text[]) AS hint";
        if let Err(error) = sqlx::query(sql).bind(CHANNEL).bind(&hints).execute(open).await {
            tracing::debug!(error = %error, "hints were not sent");
            conn = None;
        }
    }
}

/// Hears the others until the connection ends.
async fn hear(
    options: &Options,
    host: &str,
    workspace: &str,
    facts: &Facts,
    heard: &broadcast::Sender<Wakes>,
) -> Result<(), sqlx::Error> {
    let pool = PgPoolOptions::new().max_connections(1).connect_with(options.for_hints()).await?;
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.eager_reconnect(false);
    listener.listen(CHANNEL).await?;
    while let Some(told) = listener.try_recv().await? {
        // Whoever may connect to the database may send anything.
        let Ok(hint) = serde_json::from_str::<Hint>(told.payload()) else { continue };
        if hint.host == host || hint.workspace != workspace {
            continue;
        }
        let wakes = match hint.what {
            What::Tasks => Wakes::Tasks,
            What::Lock(key) => Wakes::Lock(key),
            What::All => Wakes::All,
            What::Agent(agent_id) => {
                facts.forget_agent(&agent_id);
                continue;
            }
        };
        // Nobody may listen yet.
        drop(heard.send(wakes));
    }
    Ok(())
}
