//! The store on PostgreSQL, for several hosts: every mutation is one call of one function of the database, which checks
//! the decision, records it and makes the change in one transaction (`migrations/postgres`). The host's role may call
//! those functions and read; it writes nothing directly.

mod agents;
mod audit;
mod body;
mod call;
mod cleanup;
mod decision;
mod facts;
mod functions;
mod handoffs;
mod inspect;
mod locks;
mod memories;
mod migrate;
mod number;
mod objects;
mod options;
mod policy;
mod pool;
mod role;
mod sessions;
mod tasks;
mod time;
mod view;
mod wakes;
mod words;

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection, PgPool};
use tokio::sync::watch;

use crate::clock::SharedClock;
use crate::command::action::Wakes;
use crate::crash;
use crate::gate::{Evidence, Permit, Refusal};
use crate::store::audit::Outcome;
use crate::store::{CommitError, Committed, IdempotencyKey, StoreError};

pub(in crate::store) use audit::log_after;
pub use body::{Body, Unreadable};
pub use call::Call;
pub use decision::Args;
pub(in crate::store) use memories::{details_text, word_lists};
pub(in crate::store) use migrate::owner;
pub use migrate::{Migrated, Told, check, migrate, script};
pub use objects::objects;
pub use options::Options;
pub use view::View;

use decision::{Decision, call};

/// How long a request waits for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections for lists and searches.
const LISTS: u32 = 4;

/// The store.
#[derive(Debug, Clone)]
pub struct Store {
    view: View,
    clock: SharedClock,
    wakes: wakes::Sender,
    stop: Arc<watch::Sender<bool>>,
}

impl Store {
    /// Connects to a database that `portreeve migrate` prepared.
    ///
    /// # Errors
    /// When the server cannot be reached, the schema is not this program's, what stands in it differs from what this
    /// program's migrations make, or the role may do more than the service should.
    pub async fn open(options: &Options, clock: SharedClock) -> Result<Self, StoreError> {
        let mut conn = options.connect().await?;
        migrate::check_prepared(&mut conn).await?;
        role::check(&mut conn, options.allows_privileged()).await?;
        migrate::check_version(&mut conn).await?;
        functions::check(&mut conn).await?;
        migrate::check_whole(&mut conn).await?;
        objects::check(&mut conn, options.has_held_clock()).await?;
        migrate::check_goes_on(&mut conn).await?;
        // Whatever the connections' role or URL makes of it: row security asks the same.
        let workspace = sqlx::query_scalar("SELECT portreeve.current_workspace()").fetch_one(&mut conn).await?;
        // A connection that does not end well was none of the pools'.
        drop(conn.close().await);
        let pool = pool::Pool::open(options, options.connections()).await?;
        let lists = pool_of_lists(options).await?;
        let stop = Arc::new(watch::Sender::new(false));
        let facts = facts::Facts::default();
        let wakes = wakes::start(options.clone(), workspace, facts.clone(), stop.subscribe());
        let numbering = number::Numbering::open(options).await?;
        let view = View::new(pool, lists, facts, numbering);
        number::start(view.clone(), stop.subscribe());
        Ok(Self { view, clock, wakes, stop })
    }

    pub(in crate::store) const fn view(&self) -> &View {
        &self.view
    }

    pub(in crate::store) async fn commit<C: Call>(
        &self,
        permit: Permit<C>,
        command: C,
        idempotency: Option<IdempotencyKey>,
    ) -> Result<Committed<C::Output>, CommitError> {
        let evidence = permit.evidence();
        let decision = Decision::new(evidence, self.clock.now(), idempotency);
        match call::run(self.view.pool(), &decision, C::SQL, |args| command.bind(args)).await {
            Ok(reply) => {
                let committed = reply.committed(command, evidence);
                self.moved::<C>(evidence);
                committed
            }
            Err(error) => Err(self.failed(&error, &decision, evidence).await),
        }
    }

    pub(in crate::store) async fn record(&self, refusal: Refusal) -> Result<(), CommitError> {
        let evidence = refusal.evidence();
        let decision = Decision::new(evidence, self.clock.now(), None);
        match call::run(self.view.pool(), &decision, call!("decision_refuse"), |args| args).await {
            Ok(reply) => reply.recorded(evidence),
            Err(error) => Err(CommitError::Store(self.cause(&error).await)),
        }
    }

    pub(in crate::store) async fn answered<Q: Send + 'static>(
        &self,
        permit: Permit<Q>,
        ended: Outcome,
        summary: Value,
    ) -> Result<(), CommitError> {
        let evidence = permit.evidence();
        let decision = Decision::new(evidence, self.clock.now(), None);
        let summary = crate::store::audit::kept(&summary);
        let sql = call!("decision_answer", "$32, $33");
        match call::run(self.view.pool(), &decision, sql, |args| args.bind(ended.as_str()).bind(&summary)).await {
            Ok(reply) => reply.recorded(evidence),
            Err(error) => Err(CommitError::Store(self.cause(&error).await)),
        }
    }

    pub(in crate::store) async fn ping(&self) -> Result<(), StoreError> {
        migrate::check_stays_whole(&self.view).await
    }

    pub(in crate::store) async fn close(&self) {
        self.stop.send_replace(true);
        self.view.numbering().close().await;
        self.view.pool().close();
        self.view.lists().close().await;
    }

    /// Tells the other hosts what a commit may have set free. Not part of the commit: who misses it looks a moment later.
    pub(in crate::store) fn tell(&self, woken: Wakes) {
        self.wakes.send(woken);
    }

    /// What other hosts' commits may have set free.
    pub(in crate::store) fn listen(&self) -> tokio::sync::broadcast::Receiver<Wakes> {
        self.wakes.listen()
    }

    /// A change of agents makes what is remembered of their keys old.
    fn moved<C: Call>(&self, evidence: &Evidence) {
        if C::NAME.starts_with("agent_")
            && let Some(agent_id) = evidence.resource.strip_prefix("agent:")
        {
            self.view.facts().forget_agent(agent_id);
            self.wakes.send_facts(agent_id);
            crash::point!("postgres.facts-forgotten");
        }
    }

    /// The database failed a mutation and rolled it back. That is recorded as well, in a transaction of its own; if not
    /// even that can be done the server is away, and nothing happened or it is not known whether it did.
    async fn failed(&self, error: &sqlx::Error, decision: &Decision, evidence: &Evidence) -> CommitError {
        let cause = self.cause(error).await;
        if matches!(cause, StoreError::HalfMoved { .. }) {
            return CommitError::Store(cause);
        }
        tracing::error!(error = %error, command = evidence.command, "a mutation failed");
        if let sqlx::Error::Database(_) = error {
            crash::point!("postgres.before-failure");
            let recorded = call::run(self.view.pool(), decision, call!("decision_fail"), |args| args).await;
            if let Err(error) = recorded {
                tracing::error!(error = %error, command = evidence.command, "that a mutation failed was not recorded");
            }
            crash::point!("postgres.failure-recorded");
        }
        CommitError::Store(cause)
    }

    /// What an error of the driver means; where the database refuses everything, whether that is because a store moves there.
    async fn cause(&self, error: &sqlx::Error) -> StoreError {
        if call::code(error) == Some("55000")
            && let Err(half @ StoreError::HalfMoved { .. }) = migrate::check_stays_whole(&self.view).await
        {
            return half;
        }
        failure(error)
    }
}

async fn pool_of_lists(options: &Options) -> Result<PgPool, StoreError> {
    let pool = PgPoolOptions::new().max_connections(LISTS).acquire_timeout(ACQUIRE_TIMEOUT);
    pool.connect_with(options.for_lists()).await.map_err(|error| options.unreachable(&error))
}

/// What an error of the driver means to the store.
fn failure(error: &sqlx::Error) -> StoreError {
    match (error, call::code(error)) {
        // Too long for a lock or in all; too many connections; a shutdown.
        (_, Some("55P03" | "57014" | "53300" | "57P01" | "57P02" | "57P03")) | (sqlx::Error::PoolTimedOut, _) => {
            StoreError::Busy
        }
        (sqlx::Error::PoolClosed, _) => StoreError::Closed,
        _ => StoreError::Database(error.to_string()),
    }
}
