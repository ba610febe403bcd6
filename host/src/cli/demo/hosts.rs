//! Several hosts on one database: real processes, which may be killed and started again while the agents work.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::sync::Mutex;

use super::world::World;
use crate::cli::error::CliError;
use crate::cli::folders;
use crate::cli::output::Output;
use crate::store::postgres;

/// How long a host may take to start; the first one compiles the policy.
const START_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a host may take to end when it is asked to.
const STOP_TIMEOUT: Duration = Duration::from_secs(45);
/// How long a host that was killed stays away.
const AWAY: Duration = Duration::from_millis(700);

/// One host.
#[derive(Debug)]
struct Host {
    data: PathBuf,
    /// Compiled policies, which all hosts of this machine share.
    cache: Option<PathBuf>,
    listen: String,
    child: Option<Child>,
}

/// The hosts of a run. Those that run are killed when this is dropped.
#[derive(Debug)]
pub(super) struct Hosts {
    hosts: Vec<Mutex<Host>>,
    urls: Vec<String>,
    database: postgres::Options,
}

/// What became of the hosts while the agents worked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub(super) struct Disturbed {
    /// Ended without notice, and started again.
    pub(super) killed: u64,
    /// Asked to end, and started again.
    pub(super) restarted: u64,
}

/// How the hosts are disturbed.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Disturbance {
    /// Kill one so often.
    pub(super) kill_every: Option<Duration>,
    /// Ask one to end so often.
    pub(super) restart_every: Option<Duration>,
}

fn cannot(what: &str, error: impl std::fmt::Display) -> CliError {
    CliError::new(format!("cannot {what}: {error}"), "look at the machine's limits, and try again")
}

impl Host {
    /// Starts it and returns its URL once it accepts connections.
    async fn start(&mut self, database: &postgres::Options) -> Result<String, CliError> {
        std::fs::create_dir_all(&self.data).map_err(|error| cannot("make a host's folder", error))?;
        let ready = self.data.join("ready.json");
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.data.join("stderr.log"));
        let log = log.map_err(|error| cannot("write a host's log", error))?;
        let program = std::env::current_exe().map_err(|error| cannot("find this program", error))?;
        let mut command = Command::new(program);
        command.args(["serve", "--listen", &self.listen]).arg("--data").arg(&self.data);
        command.arg("--ready-file").arg(&ready).env("PORTREEVE_DATABASE_URL", database.url());
        if let Some(cache) = &self.cache {
            command.arg("--cache").arg(cache);
        }
        command.env_remove("PORTREEVE_API_KEY").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let mut child = command.kill_on_drop(true).spawn().map_err(|error| cannot("start a host", error))?;
        let url = self.ready(&mut child, &ready).await?;
        self.listen = url.trim_start_matches("http://").trim_end_matches('/').to_owned();
        self.child = Some(child);
        Ok(url.trim_end_matches('/').to_owned())
    }

    async fn ready(&self, child: &mut Child, ready: &Path) -> Result<String, CliError> {
        let started = Instant::now();
        loop {
            let told = std::fs::read_to_string(ready).ok().and_then(|text| serde_json::from_str::<Value>(&text).ok());
            // A file that an earlier life left is not this one's.
            if let Some(told) = told.filter(|told| told.get("pid").and_then(Value::as_u64) == child.id().map(u64::from))
                && let Some(url) = told.get("url").and_then(Value::as_str)
            {
                return Ok(url.to_owned());
            }
            let ended = child.try_wait().map_err(|error| cannot("look after a host", error))?;
            if ended.is_some() || started.elapsed() > START_TIMEOUT {
                let log = std::fs::read_to_string(self.data.join("stderr.log")).unwrap_or_default();
                let last: Vec<&str> = log.lines().rev().take(6).collect();
                let last = last.into_iter().rev().collect::<Vec<_>>().join("\n  ");
                return Err(CliError::new(
                    format!("a host did not start:\n  {last}"),
                    "mend what it says; the database must be prepared (`portreeve migrate`) and the login be the service's",
                ));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn stop(&mut self, gently: bool) -> Result<(), CliError> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        if gently && let Some(pid) = child.id() {
            let asked = Command::new("kill").args(["-TERM", &pid.to_string()]).status().await;
            if asked.is_ok_and(|status| status.success())
                && tokio::time::timeout(STOP_TIMEOUT, child.wait()).await.is_ok()
            {
                return Ok(());
            }
        }
        child.kill().await.map_err(|error| cannot("end a host", error))
    }
}

impl Hosts {
    /// Starts so many hosts, one after the other: the first one puts the policy in force.
    pub(super) async fn start(database: postgres::Options, count: usize, data: &Path) -> Result<Arc<Self>, CliError> {
        let mut hosts = Self { hosts: Vec::new(), urls: Vec::new(), database };
        for number in 1..=count {
            let listen = "127.0.0.1:0".to_owned();
            let cache = folders::cache(None).ok();
            let mut host = Host { data: data.join(format!("host-{number}")), cache, listen, child: None };
            hosts.urls.push(host.start(&hosts.database).await?);
            hosts.hosts.push(Mutex::new(host));
        }
        Ok(Arc::new(hosts))
    }

    /// Where they are, for as long as the run lasts: one that comes back listens where it did.
    pub(super) fn urls(&self) -> &[String] {
        &self.urls
    }

    /// The folder of the first host, which has the admin's key.
    pub(super) async fn first_data(&self) -> PathBuf {
        match self.hosts.first() {
            Some(host) => host.lock().await.data.clone(),
            None => PathBuf::new(),
        }
    }

    /// Takes one host after the other away and brings it back, until the run is stopped.
    pub(super) async fn disturb(
        self: Arc<Self>,
        world: Arc<World>,
        how: Disturbance,
        output: Output,
    ) -> Result<Disturbed, CliError> {
        let started = Instant::now();
        let (mut next, mut did) = (0_usize, Disturbed::default());
        let is_due = |every: Option<Duration>, times: u64| {
            let times = u32::try_from(times).unwrap_or(u32::MAX).saturating_add(1);
            every.is_some_and(|every| started.elapsed() >= every.saturating_mul(times))
        };
        while !world.is_stopped() {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let kills = is_due(how.kill_every, did.killed);
            if !kills && !is_due(how.restart_every, did.restarted) {
                continue;
            }
            let place = next % self.hosts.len().max(1);
            next = next.wrapping_add(1);
            let Some(host) = self.hosts.get(place) else { return Ok(did) };
            let mut host = host.lock().await;
            host.stop(!kills).await?;
            if kills {
                did.killed = did.killed.saturating_add(1);
                tokio::time::sleep(AWAY).await;
            } else {
                did.restarted = did.restarted.saturating_add(1);
            }
            host.start(&self.database).await?;
            let what = if kills { "killed" } else { "restarted" };
            output.note(format_args!("host {} was {what} and is back", place + 1));
        }
        Ok(did)
    }

    /// Ends all of them.
    pub(super) async fn stop(&self) -> Result<(), CliError> {
        for host in &self.hosts {
            host.lock().await.stop(true).await?;
        }
        Ok(())
    }
}
