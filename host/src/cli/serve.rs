//! `portreeve serve`: the whole service in one process, on one folder.

use std::io::{self, ErrorKind, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::error::CliError;
use super::output::{Output, Tone};
use super::progress::Progress;
use super::{failure, folders};
use crate::app::{App, Options};
use crate::clock::SystemClock;
use crate::engine::types::BundleFile;
use crate::engine::{Cage, EngineError, default_bundle, read_bundle};
use crate::gate::Wanted;
use crate::http::{Origin, Served, serve_with};
use crate::store::{Location, postgres};
use crate::telemetry;
use crate::vetting::Gates;

/// How often `--watch` looks at the files.
const WATCH_PERIOD: Duration = Duration::from_millis(300);
/// At which look a folder that cannot be read is told of.
const UNREAD_TOLD_AT: u32 = 3;
/// Exit code after a second signal, as a shell reports an interrupt.
const EXIT_INTERRUPTED: u8 = 130;

/// Serve the coordinator from one data folder, or several hosts of it from one database
///
/// Makes the folder, its database and the admin's key on the first start, and compiles the policy once. Stops on SIGINT
/// or SIGTERM after the requests in flight; a second signal stops at once.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  portreeve serve\n  portreeve serve --data ./coordinator --listen 127.0.0.1:0 --ready-file ready.json"
)]
pub(super) struct Serve {
    /// Where everything is kept [env: PORTREEVE_DATA] [default: ~/.local/share/portreeve]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// A PostgreSQL database instead of the data folder's own: postgres://USER@HOST/NAME, for one host or several. Better
    /// in the variable, where no list of processes shows it [env: PORTREEVE_DATABASE_URL]
    #[arg(long, value_name = "URL")]
    database: Option<String>,
    /// Connections to it for mutations; seven more are for lists, numbering the log, and telling other hosts
    #[arg(long, value_name = "N", env = "PORTREEVE_DATABASE_CONNECTIONS", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1000))]
    database_connections: u32,
    /// Serve although the database role may do more than a service should: a superuser, the owner of the tables
    #[arg(long)]
    allow_privileged_role: bool,
    /// Make a new key for the admin, and keep it in the data folder
    #[arg(long)]
    new_admin_key: bool,
    /// Address to listen on; port 0 picks a free one
    #[arg(long, value_name = "IP:PORT", env = "PORTREEVE_LISTEN", default_value = "127.0.0.1:8081", value_parser = parse_listen)]
    listen: SocketAddr,
    /// Gets {"url":…,"pid":…} once connections are accepted; removed at the end
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    /// Let pages of this origin use /mcp from a browser, and a proxy on this machine hand its name through; for instance
    /// https://tools.example. May be repeated; pages of this machine and of the server's own name may anyway
    #[arg(long, value_name = "ORIGIN")]
    allow_origin: Vec<Origin>,
    /// A policy bundle to put in force. Without it the policy that an operator activated stays in force; in a new folder, and
    /// where only a start put one in force, it is the one that the program carries
    #[arg(long, value_name = "DIR")]
    policies: Option<PathBuf>,
    /// For whoever writes a policy: put the bundle in this folder in force, and again whenever a file of it changes. It goes
    /// past the gates; what has problems is told, and the last good one stays
    #[arg(long, value_name = "DIR", conflicts_with = "policies")]
    watch: Option<PathBuf>,
    /// What is asked of a policy before it is put in force [default: gates.toml in the data folder, if it is there]
    #[arg(long, value_name = "FILE")]
    gates: Option<PathBuf>,
    /// Where compiled policies are kept, if not in the data folder [env: PORTREEVE_CACHE]
    #[arg(long, value_name = "DIR", hide = true)]
    cache: Option<PathBuf>,
}

fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    let numeric = text.strip_prefix("localhost:").map_or_else(|| text.to_owned(), |port| format!("127.0.0.1:{port}"));
    numeric
        .parse()
        .map_err(|_| "an address is IP:PORT, for instance 127.0.0.1:8081, [::1]:8081 or 127.0.0.1:0".to_owned())
}

impl Serve {
    pub(super) async fn run(self, output: &Output) -> Result<ExitCode, CliError> {
        telemetry::init_logs("info,rmcp=off");
        telemetry::init_metrics();
        let data = folders::data(self.data.clone())?;
        let ready = self.ready_file.clone().map(ReadyFile::prepare).transpose()?;
        self.check_address(output)?;
        let wanted = self.wanted()?;
        let app = self.open(data, wanted, output).await?;
        let watching = self.watch.clone().map(|folder| tokio::spawn(watch(Arc::clone(&app), folder, *output)));
        let mut stop = Stop::listen()?;
        let served = match serve_with(Arc::clone(&app), self.listen, self.allow_origin.clone()).await {
            Ok(served) => served,
            Err(error) => {
                app.close().await;
                return Err(self.cannot_listen(&error));
            }
        };
        let started = announce(&served, ready.as_ref(), output);
        if started.is_ok() {
            stop.asked().await;
            tracing::info!("stopping: requests in flight are finished; a second signal stops at once");
        }
        let ended = tokio::select! {
            () = served.stop() => ExitCode::SUCCESS,
            () = stop.asked() => ExitCode::from(EXIT_INTERRUPTED),
        };
        drop(ready);
        if let Some(watching) = watching {
            watching.abort();
        }
        started.map(|()| ended)
    }

    /// An address that is taken is told before seconds go into the policy.
    fn check_address(&self, output: &Output) -> Result<(), CliError> {
        drop(TcpListener::bind(self.listen).map_err(|error| self.cannot_listen(&error))?);
        if !self.listen.ip().is_loopback() {
            output.warn(format_args!(
                "{} is reachable from elsewhere, and keys travel over it in clear: put TLS in front, or listen on 127.0.0.1",
                self.listen
            ));
        }
        Ok(())
    }

    fn cannot_listen(&self, error: &io::Error) -> CliError {
        let next = match error.kind() {
            ErrorKind::AddrInUse => "choose another port, or let one be picked: --listen 127.0.0.1:0",
            ErrorKind::AddrNotAvailable => "listen on an address of this machine: --listen 127.0.0.1:8081",
            ErrorKind::PermissionDenied => "ports below 1024 are the system's: --listen 127.0.0.1:8081",
            _ => "choose another address: --listen 127.0.0.1:0",
        };
        CliError::new(format!("cannot listen on {}: {error}", self.listen), next)
    }

    fn database(&self, data: &Path, output: &Output) -> Result<Option<postgres::Options>, CliError> {
        let Some(options) = folders::database(self.database.as_deref(), Some(data))? else { return Ok(None) };
        if options.is_unverified() {
            output.warn(format_args!(
                "the server at {options} need not show that it is the one: say sslmode=verify-full in the URL"
            ));
        }
        Ok(Some(options.with_connections(self.database_connections).with_privileged(self.allow_privileged_role)))
    }

    fn wanted(&self) -> Result<Wanted, CliError> {
        let named = self.policies.as_deref().or(self.watch.as_deref());
        Ok(match named {
            None => Wanted::own(),
            Some(folder) => Wanted::named(bundle_of(Some(folder))?),
        })
    }

    async fn open(&self, data: PathBuf, wanted: Wanted, output: &Output) -> Result<Arc<App>, CliError> {
        let database = self.database(&data, output)?;
        let gates = folders::gates(&data, self.gates.as_deref())?;
        if !gates.names().is_empty() {
            tracing::info!(gates = gates.names().join(", "), "what is asked of a policy before it is put in force");
        }
        let options = Options {
            data,
            database,
            new_admin_key: self.new_admin_key,
            cache: folders::service_cache(self.cache.clone()),
            wanted,
            gates,
            cage: Cage::default(),
            clock: Arc::new(SystemClock::default()),
        };
        let (progress, data) = (Progress::new(output), options.data.clone());
        let app = App::open(options, &|stage| progress.show(stage)).await;
        let app = app.map_err(|error| failure::open(&error, self.policies.as_deref()))?;
        // Before anybody is let in: commands on the folder itself ask the same gates.
        if let Err(error) = Gates::keep(&data, self.gates.as_deref()) {
            app.close().await;
            return Err(folders::gates_failed(&error));
        }
        Ok(app)
    }
}

/// Puts the policy of a folder in force whenever it changes.
async fn watch(app: Arc<App>, folder: PathBuf, output: Output) {
    let mut last = read_bundle(&folder).ok();
    let mut unread = Unread::default();
    loop {
        tokio::time::sleep(WATCH_PERIOD).await;
        let now = match read_bundle(&folder) {
            Ok(now) => now,
            Err(error) => {
                if let Some(error) = unread.tell(error) {
                    output.error(&failure::engine(&error, Some(&folder)));
                }
                continue;
            }
        };
        unread = Unread::default();
        if last.as_ref() == Some(&now) {
            continue;
        }
        match app.put_in_force(now.clone()).await {
            Ok(digest) => output.note(format_args!("the policy in `{}` is in force: {digest}", folder.display())),
            Err(error) => {
                output.error(&failure::open(&error.into(), Some(&folder)));
            }
        }
        last = Some(now);
    }
}

/// A folder that cannot be read is told once, and not at once: a file may be half written.
#[derive(Default)]
struct Unread {
    said: String,
    times: u32,
}

impl Unread {
    fn tell(&mut self, error: EngineError) -> Option<EngineError> {
        let said = error.to_string();
        self.times = if said == self.said { self.times.saturating_add(1) } else { 1 };
        self.said = said;
        (self.times == UNREAD_TOLD_AT).then_some(error)
    }
}

/// The bundle in a folder, or the one that the program carries.
pub(super) fn bundle_of(folder: Option<&Path>) -> Result<Vec<BundleFile>, CliError> {
    folder.map_or_else(
        || Ok(default_bundle()),
        |dir| read_bundle(dir).map_err(|error| failure::engine(&error, Some(dir))),
    )
}

/// Says where the service is: in the ready file, then on stdout.
fn announce(served: &Served, ready: Option<&ReadyFile>, output: &Output) -> Result<(), CliError> {
    let (url, pid) = (served.url(), std::process::id());
    if let Some(ready) = ready {
        ready.write(&json!({"url": url, "pid": pid}).to_string())?;
    }
    let app = served.app();
    let (data, key) = (app.data().display().to_string(), app.admin_key_path().display().to_string());
    if output.json {
        return output.json(&json!({"url": url, "pid": pid, "data": data, "admin_key": key}));
    }
    output.line(format_args!("listening on  {}", output.paint(Tone::Good, &url)))?;
    output.line(format_args!("data folder   {data}"))?;
    if let Location::Postgres(database) = app.gate().store().location() {
        output.line(format_args!("database      {database}"))?;
    }
    if !app.admin_key_path().exists() {
        output.line("admin key     with the host that made it; --new-admin-key makes another one here")?;
    } else {
        output.line(format_args!("admin key in  {key}"))?;
    }
    if !app.admin_key_is_new() {
        return Ok(());
    }
    // Made by this start: shown this once, as every new key is.
    let secret = std::fs::read_to_string(app.admin_key_path())
        .map_err(|error| CliError::new(format!("cannot read `{key}`: {error}"), "look at the data folder"))?;
    output.line(format_args!("admin key     {} (new, shown this once)", secret.trim()))
}

/// The file that tells other programs that the service accepts connections.
struct ReadyFile {
    path: PathBuf,
}

impl ReadyFile {
    /// A file of an earlier run must not be taken for this one's.
    fn prepare(path: PathBuf) -> Result<Self, CliError> {
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(unready(&path, &error)),
            _ if !folder_of(&path).is_dir() => Err(unready(&path, &ErrorKind::NotFound.into())),
            _ => Ok(Self { path }),
        }
    }

    /// Whoever sees the file sees all of it.
    fn write(&self, text: &str) -> Result<(), CliError> {
        let written = tempfile::NamedTempFile::new_in(folder_of(&self.path)).and_then(|mut file| {
            writeln!(file, "{text}")?;
            file.persist(&self.path).map_err(|error| error.error)
        });
        written.map(drop).map_err(|error| unready(&self.path, &error))
    }
}

impl Drop for ReadyFile {
    fn drop(&mut self) {
        // Gone already is as good.
        drop(std::fs::remove_file(&self.path));
    }
}

fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

fn unready(path: &Path, error: &io::Error) -> CliError {
    CliError::new(
        format!("cannot write the ready file `{}`: {error}", path.display()),
        "name a file in a folder that is there and writable",
    )
}

/// The signals that ask the service to stop.
struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    fn listen() -> Result<Self, CliError> {
        let listen = |kind| {
            signal(kind).map_err(|error| {
                CliError::new(format!("cannot listen for signals: {error}"), "look at the system's limits")
            })
        };
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_numeric_or_localhost() {
        assert_eq!(parse_listen("localhost:0").unwrap().to_string(), "127.0.0.1:0");
        assert_eq!(parse_listen("[::1]:80").unwrap().to_string(), "[::1]:80");
        for wrong in ["8081", ":8081", "localhost", "example.com:80", ""] {
            assert!(parse_listen(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_ready_file_replaces_an_earlier_one_and_goes_with_its_run() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ready.json");
        std::fs::write(&path, "stale").unwrap();
        let ready = ReadyFile::prepare(path.clone()).unwrap();
        assert!(!path.exists());
        ready.write("{}").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{}\n");
        drop(ready);
        assert!(!path.exists());
        assert!(ReadyFile::prepare(dir.path().join("missing/ready.json")).is_err());
    }
}
