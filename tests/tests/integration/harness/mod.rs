//! What every test stands on: a real service, real HTTP, and a look at the database file.
//!
//! - [`Server`] is the service inside this process: the real component, a real
//!   store of its own, and a clock that the test holds. The store is a SQLite file, or
//!   with `PORTREEVE_TEST_STORE=postgres` a database of a real server ([`postgres`]). Each
//!   test has its own; the first one makes a store, the others start from a copy
//!   of it, and all share one cache of compiled components.
//! - [`Client`] speaks HTTP/1.1 over a socket, so that a test decides every byte
//!   of a request. [`Server::agent`] registers an agent and is the caller's receiver:
//!   `agent.post("/locks/acquire", json!({…})).await.ok()`.
//! - [`State`](state::State) is a digest of every state table, to show that nothing changed;
//!   [`AuditLine`](state::AuditLine) is a row of the log.
//! - [`cli`] is a command of the real binary that runs and ends.
//! - [`process`] is the same service as a process of its own: the real binary, to be killed.
//!
//! A test body runs on a runtime with several threads (the store's opening blocks
//! its thread): `#[tokio::test(flavor = "multi_thread")]`.

pub(crate) mod cli;
pub(crate) mod http;
pub(crate) mod masks;
pub(crate) mod mcp;
pub(crate) mod postgres;
pub(crate) mod process;
pub(crate) mod state;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use portreeve::app::{App, OpenError, Options};
use portreeve::clock::{Clock, ManualClock, SharedClock, SystemClock, Time};
use portreeve::engine::Cage;
use portreeve::gate::Wanted;
use portreeve::http::{Served, serve};
use portreeve::vetting::Gates;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::OnceCell;

pub(crate) use http::{Client, Reply, Request};

/// Where the clock of every test stands at first.
pub(crate) const START: &str = "2031-05-01T12:00:00Z";

/// When the shared store was opened first: before every clock of a test, so that no service finds itself behind its log.
const MADE: &str = "2025-01-01T00:00:00Z";

/// Compiling the default bundle takes seconds; all tests and all runs share it.
pub(crate) fn cache_dir() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("service-cache")
}

/// The type of agent that a profile of the default bundle is for.
pub(crate) fn type_of(profile: &str) -> &'static str {
    match profile.split('_').next().unwrap_or_default() {
        "claude" => "claude_code",
        "codex" => "codex",
        "cursor" => "cursor",
        "evaluator" => "evaluator",
        "admin" => "operator",
        _ => "claude_code",
    }
}

/// Files of a store that was opened once: its database, its write-ahead log, the admin's key.
type Template = Vec<(String, Vec<u8>)>;

static TEMPLATE: OnceCell<Template> = OnceCell::const_new();

/// How a [`Server`] is opened.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    pub(crate) cage: Cage,
    pub(crate) clock: SharedClock,
    /// Start from the shared store; else from an empty folder.
    pub(crate) template: bool,
    /// The test holds the time.
    pub(crate) held: bool,
    /// What is asked of a component before it is put in force.
    pub(crate) gates: Gates,
    /// The policy to start with.
    pub(crate) wanted: Wanted,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            cage: Cage::default(),
            clock: Arc::new(SystemClock::default()),
            template: true,
            held: false,
            gates: Gates::default(),
            wanted: Wanted::own(),
        }
    }
}

/// A service in this process.
pub(crate) struct Server {
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) admin: Client,
    served: Served,
    dir: TempDir,
    setup: Setup,
}

impl Server {
    /// A service whose time the test holds.
    pub(crate) async fn start() -> Self {
        let clock = manual_clock();
        let setup = Setup { clock: Arc::clone(&clock) as SharedClock, held: true, ..Setup::default() };
        Self { clock, ..Self::start_with(setup).await }
    }

    /// A service whose time is the machine's.
    pub(crate) async fn start_with(setup: Setup) -> Self {
        let dir = tempfile::tempdir().unwrap();
        match (setup.template, postgres::is_chosen(), setup.held) {
            (true, true, true) => drop(postgres::clone(dir.path(), postgres::Kind::Held).await),
            (true, ..) => copy_template(dir.path()).await,
            (false, ..) => {}
        }
        Self::open(dir, setup, manual_clock()).await
    }

    /// A service on PostgreSQL, whichever backend the tests run on, whose time the test holds.
    pub(crate) async fn on_postgres() -> Self {
        let (dir, clock) = (tempfile::tempdir().unwrap(), manual_clock());
        postgres::clone(dir.path(), postgres::Kind::Held).await;
        let setup = Setup { clock: Arc::clone(&clock) as SharedClock, held: true, ..Setup::default() };
        Self::open(dir, setup, clock).await
    }

    /// A service on the folder of one that was stopped.
    pub(crate) async fn start_on(dir: TempDir, setup: Setup) -> Self {
        Self::open(dir, setup, manual_clock()).await
    }

    /// A service on a folder that others were copied into, whose time the test holds.
    pub(crate) async fn start_held_on(dir: TempDir) -> Self {
        let clock = manual_clock();
        let setup = Setup { clock: Arc::clone(&clock) as SharedClock, held: true, ..Setup::default() };
        Self::open(dir, setup, clock).await
    }

    async fn open(dir: TempDir, setup: Setup, clock: Arc<ManualClock>) -> Self {
        let app = open_app(dir.path(), &setup).await.unwrap();
        let served = serve(app, ([127, 0, 0, 1], 0).into()).await.unwrap();
        let key = std::fs::read_to_string(dir.path().join("admin.key")).unwrap();
        let admin = Client::new(served.address(), key.trim()).named("admin", "operator");
        Self { clock, admin, served, dir, setup }
    }

    /// Stops the service and opens it anew on the same folder. Clients of before have the old address.
    pub(crate) async fn restart(self) -> Self {
        let Self { clock, served, dir, setup, .. } = self;
        served.stop().await;
        Self::open(dir, setup, clock).await
    }

    /// Stops the service; the folder stays until the answer is dropped.
    pub(crate) async fn stop(self) -> TempDir {
        self.served.stop().await;
        self.dir
    }

    pub(crate) fn data(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn app(&self) -> &Arc<App> {
        self.served.app()
    }

    /// A caller without a key.
    pub(crate) fn nobody(&self) -> Client {
        Client::keyless(self.served.address())
    }

    /// A client's key at this server's address, for use after a restart.
    pub(crate) fn again(&self, client: &Client) -> Client {
        Client { address: self.served.address(), ..client.clone() }
    }

    /// Registers an agent with a profile, of the type that the profile is for.
    pub(crate) async fn agent(&self, name: &str, profile: &str) -> Client {
        self.agent_of(json!({"agent_id": name, "agent_type": type_of(profile), "profile": profile})).await
    }

    /// Registers an agent with all that the body says.
    pub(crate) async fn agent_of(&self, body: Value) -> Client {
        let created = self.admin.post("/agents", body).await.ok();
        assert_eq!(created["success"], true, "{created}");
        let text = |field: &str| created[field].as_str().unwrap().to_owned();
        let client = Client::new(self.served.address(), &text("key")).named(&text("agent_id"), &text("agent_type"));
        Client { key_id: text("key_id"), ..client }
    }

    /// Suspends an agent, or lets it work again.
    pub(crate) async fn suspend(&self, agent_id: &str, suspended: bool) {
        let done = self.admin.post(&format!("/agents/{agent_id}/suspend"), json!({"suspended": suspended})).await.ok();
        assert_eq!(done["success"], true);
    }

    pub(crate) fn now(&self) -> Time {
        self.app().gate().clock().now()
    }

    /// Moves the time that the test holds; negative moves it back.
    pub(crate) async fn advance(&self, seconds: i64) {
        self.clock.advance_seconds(seconds);
        if let Some(database) = postgres::known(self.data()) {
            postgres::set_clock(&database, self.clock.now()).await;
        }
    }
}

fn manual_clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at(Time::parse(START).unwrap()))
}

/// Opens a service on a folder, or says why not.
pub(crate) async fn open_app(data: &Path, setup: &Setup) -> Result<Arc<App>, OpenError> {
    let database = if postgres::is_for(data) {
        let url = postgres::service_url(&postgres::of(data).await);
        // Some tests open many services at once, on one server.
        Some(portreeve::store::postgres::Options::parse(&url).unwrap().with_connections(6).with_held_clock())
    } else {
        None
    };
    let options = Options {
        data: data.to_owned(),
        database,
        new_admin_key: false,
        cache: Some(cache_dir()),
        wanted: setup.wanted.clone(),
        gates: setup.gates.clone(),
        cage: setup.cage.clone(),
        clock: Arc::clone(&setup.clock),
    };
    App::open(options, &|_| ()).await
}

/// Fills a folder with a store that was opened once before.
pub(crate) async fn copy_template(dir: &Path) {
    if postgres::is_chosen() {
        postgres::clone(dir, postgres::Kind::Served).await;
        return;
    }
    for (name, bytes) in TEMPLATE.get_or_init(make_template).await {
        std::fs::write(dir.join(name), bytes).unwrap();
    }
}

async fn make_template() -> Template {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(Time::parse(MADE).unwrap()));
    let app = open_app(dir.path(), &Setup { clock, ..Setup::default() }).await.unwrap();
    app.close().await;
    let files = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
    // The shared-memory index belongs to a process; SQLite makes it anew.
    let kept = files.filter(|path| path.is_file() && !path.to_string_lossy().ends_with("-shm"));
    kept.map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(&path).unwrap())).collect()
}
