//! `portreeve demo`: many agents at once on the files of a real repository, over real HTTP, and then a check of
//! everything they left behind.

mod ask;
mod check;
mod client;
mod edits;
mod forbidden;
mod history;
mod hosts;
mod material;
mod op;
mod operator;
mod pace;
mod queue;
mod reads;
mod report;
mod rng;
mod setup;
mod worker;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;

use super::error::{CliError, EXIT_USAGE};
use super::output::Output;
use super::progress::Progress;
use super::{failure, folders};
use crate::app::{App, Options};
use crate::clock::{SharedClock, SystemClock};
use crate::engine::{Cage, PolicyComponent};
use crate::gate::Wanted;
use crate::http::Served;
use crate::store::{Location, Store, postgres};
use crate::telemetry;
use crate::vetting::Gates;

use client::{Client, Who};
use history::History;
use hosts::{Disturbance, Disturbed, Hosts};
use material::Material;
use operator::{Operator, Suspension};
use report::{Report, Setting};
use rng::Rng;
use setup::Folder;
use worker::Worker;
use world::World;

/// Let agents loose on a repository's files, and check what they left
///
/// Starts a server on a free port with a store of its own. Agents of several profiles then lock, edit, submit, claim,
/// complete, collide and try what is forbidden, with keys of their own; one of them is suspended for a while. Files are
/// read and never written. At the end the store is checked against what the agents saw; exits with 1 when anything broke.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  portreeve demo\n  portreeve demo --repo ~/src/project --agents 16 --seconds 30 --json\n  portreeve demo --database postgres://portreeve_app@127.0.0.1/fleet --hosts 3 --kill-every 10"
)]
pub(super) struct Demo {
    /// A git repository whose files the agents work on
    #[arg(long, value_name = "PATH", default_value = ".")]
    repo: PathBuf,
    /// How many agents work at once
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    agents: u16,
    /// How long they work
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    seconds: u32,
    /// Makes the agents' choices again; their interleaving is the machine's
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Keep the store in this folder, which must be new or empty [default: a temporary one]
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Work on this PostgreSQL database, which must be prepared and never served. Only this option names it: the variable of
    /// a service must not lead the demo's agents there
    #[arg(long, value_name = "URL")]
    database: Option<String>,
    /// How many hosts serve the database; each is a process of its own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
    hosts: u8,
    /// Kill a host without notice every so many seconds, and start it again
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u16).range(1..))]
    kill_every: Option<u16>,
    /// Restart a host every so many seconds, one after the other
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u16).range(1..))]
    restart_every: Option<u16>,
}

/// The service that the agents work on.
struct Stage {
    urls: Vec<String>,
    /// The folder with the admin's key.
    data: PathBuf,
    /// The service itself, or a look at what the hosts serve.
    app: Arc<App>,
    served: Option<Served>,
    hosts: Option<Arc<Hosts>>,
}

/// What a run leaves to be checked.
struct Ran {
    disturbed: Disturbed,
    history: History,
    suspension: Option<Suspension>,
    world: Arc<World>,
    agents: Vec<Who>,
    took: Duration,
}

impl Demo {
    pub(super) async fn run(self, output: &Output) -> Result<ExitCode, CliError> {
        telemetry::init_logs("warn");
        let material = tokio::task::block_in_place(|| Material::read(&self.repo))?;
        let folder = Folder::new(self.keep.as_deref())?;
        let clock: SharedClock = Arc::new(SystemClock::default());
        let stage = self.set(&folder, &clock, output).await?;
        let component = Arc::clone(&stage.app.gate().policy().active().component);
        let location = stage.app.gate().store().location().clone();
        let ran = self.let_loose(&stage, material, &clock, output).await;
        stage.close().await?;
        let ran = ran?;
        output.note("checking the store and what the agents saw");
        let report = self.check(ran, location, clock, &component).await?;
        report.print(output)?;
        if !report.is_ok() {
            return Err(CliError::new(
                "the run broke what must hold; see the lines with ✘ above",
                "run it again with --keep DIR to keep the store, and report both",
            ));
        }
        if let Some(dir) = &self.keep {
            output.note(format_args!("the store is kept in {}", dir.display()));
        }
        Ok(ExitCode::SUCCESS)
    }

    /// One host in this process on a store of its own, or several on a database.
    async fn set(&self, folder: &Folder, clock: &SharedClock, output: &Output) -> Result<Stage, CliError> {
        let Some(url) = self.database.as_deref() else {
            if self.hosts > 1 || self.kill_every.is_some() || self.restart_every.is_some() {
                let next = "name a database that they share: --database postgres://portreeve_app@HOST/NAME";
                return Err(
                    CliError::new("several hosts, or one that comes back, need a database", next).with_exit(EXIT_USAGE)
                );
            }
            let app = self.open(folder, clock, output).await?;
            let served = setup::start(Arc::clone(&app)).await?;
            return Ok(Stage {
                urls: vec![served.url()],
                data: folder.path.clone(),
                app,
                served: Some(served),
                hosts: None,
            });
        };
        let database = postgres::Options::parse(url);
        let database = database.map_err(|error| failure::store(&error).with_exit(EXIT_USAGE))?;
        setup::unserved(&database, clock).await?;
        output.note(format_args!("starting {} host(s) on {database}", self.hosts));
        let hosts = Hosts::start(database.clone(), usize::from(self.hosts), &folder.path).await?;
        let data = hosts.first_data().await;
        let options = Options {
            data: data.clone(),
            database: Some(database.with_connections(2)),
            new_admin_key: false,
            cache: folders::cache(None).ok(),
            wanted: Wanted::own(),
            gates: Gates::default(),
            cage: Cage::default(),
            clock: Arc::clone(clock),
        };
        let app = App::attach(options, &|_| ()).await.map_err(|error| failure::open(&error, None))?;
        Ok(Stage { urls: hosts.urls().to_vec(), data, app, served: None, hosts: Some(hosts) })
    }

    async fn open(&self, folder: &Folder, clock: &SharedClock, output: &Output) -> Result<Arc<App>, CliError> {
        let options = Options {
            data: folder.path.clone(),
            database: None,
            new_admin_key: false,
            // Without a home folder the policy is compiled for this run alone.
            cache: folders::cache(None).ok(),
            wanted: Wanted::own(),
            gates: Gates::default(),
            cage: Cage::default(),
            clock: Arc::clone(clock),
        };
        let progress = Progress::new(output);
        App::open(options, &|stage| progress.show(stage)).await.map_err(|error| failure::open(&error, None))
    }

    fn disturbance(&self) -> Disturbance {
        let every = |seconds: Option<u16>| seconds.map(|seconds| Duration::from_secs(u64::from(seconds)));
        Disturbance { kill_every: every(self.kill_every), restart_every: every(self.restart_every) }
    }

    /// Everything while the server runs.
    async fn let_loose(
        &self,
        stage: &Stage,
        mut material: Material,
        clock: &SharedClock,
        output: &Output,
    ) -> Result<Ran, CliError> {
        let key = std::fs::read_to_string(stage.data.join("admin.key")).map_err(|error| {
            CliError::new(format!("cannot read the admin's key: {error}"), "look at the data folder")
        })?;
        let key = key.trim().to_owned();
        let http = setup::http_client()?;
        setup::sort_out(&mut material, &stage.app.gate().policy().active().component).await;
        material.enough()?;
        output.note(format_args!(
            "{} agents on {} of {} files of {} for {} s, server on {}",
            self.agents,
            material.files.len(),
            material.listed,
            material.root().display(),
            self.seconds,
            stage.urls.join(", "),
        ));
        let world = Arc::new(World::new(stage.urls.clone(), http, material, Arc::clone(clock)));
        let (admin, operator, agents) = operator::cast(&world, key, usize::from(self.agents), self.seed).await?;
        let started = Instant::now();
        let duration = Duration::from_secs(u64::from(self.seconds));
        let operator = tokio::spawn(operator.run(agents.clone(), duration));
        let workers: Vec<_> =
            self.workers(&world, &agents, &stage.app).into_iter().map(|w| tokio::spawn(w.run())).collect();
        let disturbing = stage
            .hosts
            .as_ref()
            .map(|hosts| tokio::spawn(Arc::clone(hosts).disturb(Arc::clone(&world), self.disturbance(), *output)));
        tokio::select! {
            () = pace::keep(&world, duration, output) => {}
            () = setup::interrupted() => output.note("stopping early; the check follows"),
        }
        world.stop();
        let disturbed = match disturbing {
            Some(disturbing) => disturbing.await.map_err(|error| broke(&error))??,
            None => Disturbed::default(),
        };
        let mut clients = vec![admin];
        for worker in workers {
            clients.push(worker.await.map_err(|error| broke(&error))?);
        }
        let took = started.elapsed();
        let Operator { client, suspension, probe, .. } = operator.await.map_err(|error| broke(&error))?;
        clients.extend([client].into_iter().chain(probe));
        let mut history = History::default();
        clients.into_iter().for_each(|client| history.absorb(client.history));
        Ok(Ran { disturbed, history, suspension, world, agents, took })
    }

    fn workers(&self, world: &Arc<World>, agents: &[Who], app: &App) -> Vec<Worker> {
        let active = app.gate().policy().active();
        let profiles = &active.component.manifest().profiles;
        let trust =
            |who: &Who| profiles.iter().find(|info| info.name == who.profile).map_or(0, |info| info.trust_level);
        let worker = |(number, who): (u64, &Who)| {
            let others = agents.iter().filter(|other| other.agent_id != who.agent_id);
            let others = others.map(|other| (other.agent_id.clone(), other.agent_type.clone())).collect();
            let client = Client::new(Arc::clone(world), who.clone(), &format!("agent-{number}"));
            Worker::new(client, Arc::clone(world), Rng::new(self.seed, number), trust(who), others)
        };
        (1..).zip(agents).map(worker).collect()
    }

    async fn check(
        &self,
        ran: Ran,
        location: Location,
        clock: SharedClock,
        component: &Arc<PolicyComponent>,
    ) -> Result<Report, CliError> {
        // Opened anew, as the next start would find it.
        let store = Store::open(location, clock).await.map_err(|error| failure::store(&error))?;
        let Ran { disturbed, history, suspension, world, agents, took } = ran;
        let material = &world.material;
        let suspension = suspension.as_ref();
        let evidence = check::Evidence { view: store.view(), component, history: &history, material, suspension };
        let checked = check::check(evidence).await.map_err(|error| failure::store(&error))?;
        store.close().await;
        let setting = Setting {
            repository: material.root().display().to_string(),
            files_listed: material.listed,
            files_skipped: material.skipped,
            files_used: material.files.len(),
            files_guarded: material.guarded.len(),
            agents: agents.into_iter().map(|who| who.agent_id).collect(),
            seed: self.seed,
            component: component.digest().to_owned(),
            data: self.keep.as_ref().map(|dir| dir.display().to_string()),
            hosts: usize::from(self.hosts),
            disturbed,
        };
        Ok(Report::new(setting, took, &history, checked))
    }
}

impl Stage {
    async fn close(self) -> Result<(), CliError> {
        match (self.served, self.hosts) {
            (Some(served), _) => served.stop().await,
            (None, Some(hosts)) => {
                self.app.close().await;
                hosts.stop().await?;
            }
            (None, None) => {}
        }
        Ok(())
    }
}

fn broke(error: &tokio::task::JoinError) -> CliError {
    CliError::new(format!("an agent of the demo broke off: {error}"), "this is a fault of the demo; please report it")
}
