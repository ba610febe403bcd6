//! The running service: store, policy, gate and what waits, without any transport.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;

use crate::authn::{self, Principal};
use crate::clock::SharedClock;
use crate::command::agents::AgentCreate;
use crate::command::catalogue::{Answer, Call, Entry};
use crate::command::input::{Input, Place};
use crate::command::tasks::TaskExpire;
use crate::command::tasks::claim::{Kept, Reservations};
use crate::command::{action::Action, action::Wakes, agents::AgentKeyCreate};
use crate::crash;
use crate::engine::types::BundleFile;
use crate::engine::{Cage, Engine, EngineError, Stage};
use crate::error::{Error, Result};
use crate::gate::{Circumstances, Gate, Policy, StartError, Wanted};
use crate::store::{Committed, Location, Store, StoreError, postgres};
use crate::vetting::{Gates, Vetting, check_operations};

/// Name of the first agent of a new store.
pub const ADMIN: &str = "admin";

/// How often leases are looked at when nobody asks.
const EXPIRY_PERIOD: Duration = Duration::from_secs(1);

/// How long [`App::close`] waits for the writer.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(30);

/// What a service is opened with.
#[derive(Debug)]
pub struct Options {
    /// The data folder: admin key, cache, and the database where no other is named.
    pub data: PathBuf,
    /// A PostgreSQL database that several hosts may share; none for the embedded one in the data folder.
    pub database: Option<postgres::Options>,
    /// Makes a new key for the admin of a database although the admin is there already.
    pub new_admin_key: bool,
    /// Where compiled components are kept; none for `DATA/cache`.
    pub cache: Option<PathBuf>,
    /// The policy to start with.
    pub wanted: Wanted,
    /// What is asked of a component before it is put in force.
    pub gates: Gates,
    /// Limits on the component.
    pub cage: Cage,
    /// The time.
    pub clock: SharedClock,
}

/// Why a service does not start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The data folder cannot be used.
    #[error("cannot use the data folder `{}`: {source}", path.display())]
    Folder {
        /// Which file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no usable policy.
    #[error(transparent)]
    Policy(#[from] StartError),
    /// The first agent could not be made.
    #[error("cannot make the admin's key: {0}")]
    Bootstrap(Error),
}

/// A service that is open.
#[derive(Debug)]
pub struct App {
    gate: Gate,
    vetting: Arc<Vetting>,
    data: PathBuf,
    admin_key_is_new: bool,
    reservations: Arc<Reservations>,
    kept: Kept,
    stopping: watch::Sender<bool>,
}

impl App {
    /// Opens the service on a data folder; makes folder, database, policy and admin key where there are none.
    ///
    /// # Errors
    /// When anything of it cannot be used. Nothing is recreated that is there but damaged.
    pub async fn open(options: Options, progress: &(dyn Fn(Stage) + Sync)) -> Result<Arc<Self>, OpenError> {
        private_folder(&options.data)?;
        let (store, engine) = open_parts(&options).await?;
        crash::point!("start.store-opened");
        let gates = options.gates;
        if let Some(database) = &options.database {
            let path = database_file(&options.data);
            write_private(&path, database.url()).map_err(|source| OpenError::Folder { path, source })?;
        }
        let policy = Policy::start(engine, &options.wanted, &store, &options.clock, progress).await?;
        crash::point!("start.policy-in-force");
        let gate = Gate::new(store, policy, options.clock);
        let mut app = Self::new(gate, gates, options.data);
        app.admin_key_is_new = app.ensure_admin(options.new_admin_key).await?;
        Ok(Arc::new(app))
    }

    fn new(gate: Gate, gates: Gates, data: PathBuf) -> Self {
        let (reservations, kept, stopping) = (Arc::default(), Kept::default(), watch::Sender::new(false));
        let vetting = Arc::new(Vetting::new(Arc::clone(gate.policy()), gates));
        Self { gate, vetting, data, admin_key_is_new: false, reservations, kept, stopping }
    }

    /// Opens the service on a data folder that is there, under the policy that is in force on it; the options' bundle
    /// is not looked at. Another process may be serving it meanwhile: this one changes neither policy nor admin key.
    ///
    /// # Errors
    /// When anything of it cannot be used.
    pub async fn attach(options: Options, progress: &(dyn Fn(Stage) + Sync)) -> Result<Arc<Self>, OpenError> {
        let (store, engine) = open_parts(&options).await?;
        let policy = Policy::resume(engine, &store, progress).await?;
        check_operations(&policy.active().component).map_err(StartError::from)?;
        let gate = Gate::new(store, policy, options.clock);
        Ok(Arc::new(Self::new(gate, options.gates, options.data)))
    }

    pub(crate) const fn vetting(&self) -> &Arc<Vetting> {
        &self.vetting
    }

    /// Follows at once what a change of policy here came to. When that fails, the next request does it, or the background.
    pub(crate) async fn follow_policy(&self) {
        if let Err(error) = self.gate.policy().keep_up(self.gate.store(), self.gate.clock()).await {
            tracing::warn!(error = %error, "the policy in the store could not be followed yet");
        }
    }

    /// Puts the policy of a folder in force, as the service itself and past the gates: for somebody who writes it.
    ///
    /// # Errors
    /// When it has problems, or is not fit to decide.
    pub async fn put_in_force(&self, files: Vec<BundleFile>) -> Result<String, StartError> {
        let policy = Arc::clone(self.gate.policy());
        let build = move || policy.engine().load_bundle(&files, &|_| {});
        let built = tokio::task::spawn_blocking(build).await;
        let component = built.map_err(|error| EngineError::Trap(error.to_string()))??;
        let policy = self.gate.policy();
        if policy.active().component.digest() != component.digest() {
            let why = json!({"watched": true});
            policy.put_in_force(&component, &why, self.gate.store(), self.gate.clock()).await?;
        }
        Ok(component.digest().to_owned())
    }

    /// The gate.
    #[must_use]
    pub const fn gate(&self) -> &Gate {
        &self.gate
    }

    /// The data folder.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Where the admin's key is.
    #[must_use]
    pub fn admin_key_path(&self) -> PathBuf {
        self.data.join("admin.key")
    }

    /// Whether this start made the admin's key, so that it has not been shown yet.
    #[must_use]
    pub const fn admin_key_is_new(&self) -> bool {
        self.admin_key_is_new
    }

    pub(crate) const fn reservations(&self) -> &Arc<Reservations> {
        &self.reservations
    }

    pub(crate) const fn kept(&self) -> &Kept {
        &self.kept
    }

    /// Ends what only waits, so that a stop need not wait for it.
    pub fn begin_stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Whether the service stops.
    pub(crate) fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// Returns once the service stops.
    pub(crate) async fn stopping(&self) {
        // An error would mean that the sender is gone, which it is not before this service is.
        drop(self.stopping.subscribe().wait_for(|stopping| *stopping).await);
    }

    /// What the active policy says of the caller's profile, to look for tasks by. The decision is the component's.
    pub(crate) fn profile_of(&self, who: &Principal) -> ProfileHint {
        let active = self.gate.policy().active();
        let info = active.component.manifest().profiles.iter().find(|info| info.name == who.profile());
        info.map_or_else(ProfileHint::default, |info| ProfileHint {
            trust_level: i64::from(info.trust_level),
            task_types: info.task_types.clone(),
        })
    }

    /// Answers a call of the holder of `key`.
    ///
    /// # Errors
    /// Whatever keeps the call from its answer; [`Error::Unauthenticated`] before anything else.
    pub async fn call(&self, key: Option<&str>, entry: &Entry, input: Map<String, Value>) -> Result<Answer> {
        let who = authn::authenticate(self.gate.store(), key).await?;
        let circumstances = self.circumstances(crate::command::new_id());
        entry.call(self, &who, Call { input, place: Place::Body, circumstances }).await
    }

    /// The circumstances of a request that arrives now.
    #[must_use]
    pub fn circumstances(&self, request_id: String) -> Circumstances {
        let started_at = self.gate.clock().now();
        Circumstances { request_id, started_at, idempotency_key: None, parameters: json!({}) }
    }

    /// Lets time do its work on tasks: as `system`, through the gate, and only when there is something to do.
    ///
    /// # Errors
    /// When the store cannot be used or policy keeps `system` from it.
    pub async fn expire_tasks(&self) -> Result<()> {
        while self.gate.store().view().tasks_lapsed().await? {
            crash::point!("background.lapse-seen");
            let system = authn::system(self.gate.store()).await?;
            let circumstances = self.circumstances(crate::command::new_id());
            if let Committed::Done(expired) = self.gate.run(&system, TaskExpire, &circumstances).await? {
                crash::point!("background.lapse-handled");
                if expired.requeued == 0 && expired.failed == 0 {
                    break;
                }
                tracing::info!(requeued = expired.requeued, failed = expired.failed, "tasks expired");
            }
        }
        Ok(())
    }

    /// Starts the background work; it ends when the handle is aborted.
    #[must_use]
    pub fn spawn_background(self: &Arc<Self>) -> JoinHandle<()> {
        let app = Arc::clone(self);
        if let Some(told) = self.gate.store().listen() {
            tokio::spawn(wake_when_told(Arc::downgrade(self), told));
        }
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(EXPIRY_PERIOD);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                app.follow_policy().await;
                match app.expire_tasks().await {
                    // The store told the log of that one, once.
                    Ok(()) | Err(Error::StoreMoves { .. }) => {}
                    Err(error) => {
                        tracing::warn!(error = %error, "tasks could not be expired; tried again in a second");
                    }
                }
            }
        })
    }

    /// Finishes what waits and closes the store.
    pub async fn close(&self) {
        if tokio::time::timeout(CLOSE_TIMEOUT, self.gate.store().close()).await.is_err() {
            tracing::error!("the store did not close in time; what was acknowledged is committed");
        }
    }

    /// A new store gets an `admin` agent; a lost key file of an embedded one gets a new key. Both through the gate, as
    /// `system`. A key file beside a store without an admin is of another store, and is replaced. Of several hosts on one
    /// database the first keeps the key, and the others make none unless they are asked to. True if there is a new key.
    async fn ensure_admin(&self, asked: bool) -> Result<bool, OpenError> {
        let path = self.admin_key_path();
        let is_shared = matches!(self.gate.store().location(), Location::Postgres(_));
        if !asked && (path.exists() || is_shared) && self.gate.store().view().facts_by_agent(ADMIN).await?.is_some() {
            return Ok(false);
        }
        let secret = self.admin_key().await.map_err(OpenError::Bootstrap)?;
        crash::point!("start.admin-made");
        write_private(&path, &secret).map_err(|source| OpenError::Folder { path, source })?;
        crash::point!("start.admin-key-written");
        Ok(true)
    }

    async fn admin_key(&self) -> Result<String> {
        let system = authn::system(self.gate.store()).await?;
        let create = json!({
            "agent_id": ADMIN, "agent_type": "operator", "profile": ADMIN, "label": "made at start-up",
        });
        let mut circumstances = self.circumstances(crate::command::new_id());
        circumstances.parameters = create.clone();
        let command = AgentCreate::parse(&read::<AgentCreate>(&create)?, &system)?;
        if let Committed::Done(created) = self.gate.run(&system, command, &circumstances).await?
            && let Some(key) = created.key
        {
            return Ok(key);
        }
        let renew = json!({"id": ADMIN, "label": "made because admin.key was missing"});
        circumstances.parameters = renew.clone();
        let command = AgentKeyCreate::parse(&read::<AgentKeyCreate>(&renew)?, &system)?;
        match self.gate.run(&system, command, &circumstances).await? {
            Committed::Done(created) => created.key.ok_or(Error::StorageUnavailable),
            Committed::Replayed(_) => Err(Error::StorageUnavailable),
        }
    }
}

async fn open_parts(options: &Options) -> Result<(Store, Engine), OpenError> {
    let cache = options.cache.clone().unwrap_or_else(|| options.data.join("cache"));
    let location = location(&options.data, options.database.clone());
    let store = Store::open(location, Arc::clone(&options.clock)).await?;
    let engine = Engine::open(&cache, options.cage.clone()).map_err(StartError::from)?;
    Ok((store, engine))
}

/// Where a data folder keeps the URL of the database that its service uses, for commands on that folder. It may hold a
/// password, and is its owner's alone to read.
#[must_use]
pub fn database_file(data: &Path) -> PathBuf {
    data.join("database.url")
}

/// Where a data folder keeps the embedded store.
#[must_use]
pub fn store_file(data: &Path) -> PathBuf {
    data.join("portreeve.db")
}

/// The database that is named, or the embedded one of the data folder.
#[must_use]
pub fn location(data: &Path, database: Option<postgres::Options>) -> Location {
    database.map_or_else(|| Location::File(store_file(data)), Location::Postgres)
}

/// Wakes those who wait here when another host's commit may have set free what they wait for.
async fn wake_when_told(app: std::sync::Weak<App>, mut told: broadcast::Receiver<Wakes>) {
    loop {
        let wakes = match told.recv().await {
            Ok(wakes) => wakes,
            // So much was missed that it is not known what.
            Err(broadcast::error::RecvError::Lagged(_)) => Wakes::All,
            Err(broadcast::error::RecvError::Closed) => return,
        };
        let Some(app) = app.upgrade() else { return };
        app.gate.signals().wake(&wakes);
    }
}

/// What a claim needs of a profile to look for tasks.
#[derive(Debug, Clone, Default)]
pub(crate) struct ProfileHint {
    pub(crate) trust_level: i64,
    pub(crate) task_types: Vec<String>,
}

fn read<A: Action>(value: &Value) -> Result<Input> {
    Input::read(A::INPUT, value.as_object().unwrap_or(&Map::new()), Place::Body)
}

/// Makes the folder with access for its owner only.
fn private_folder(path: &Path) -> Result<(), OpenError> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| OpenError::Folder { path: path.to_owned(), source })
}

/// Writes a file that only its owner reads, whole or not at all.
fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let temporary = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)
}
