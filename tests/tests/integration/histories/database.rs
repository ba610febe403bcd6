//! A PostgreSQL of one scenario's own, on a machine with faults: to be killed whole, and started again on its files.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;

use portreeve::store::postgres::{Options, migrate};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection};

use super::machine::Machine;

/// The one database in it.
const NAME: &str = "fleet";

/// One call for the file system, and not one for each file, when it is started after it was killed.
const RECOVERY: &str = "recovery_init_sync_method=syncfs";

pub(crate) struct Database {
    pub(crate) machine: Machine,
    url: String,
    /// Its files.
    data: PathBuf,
    /// Its programs.
    programs: PathBuf,
    /// Holds the pipe whose end stops it.
    child: Child,
}

impl Database {
    /// Starts one, and prepares its database.
    pub(crate) async fn start() -> Self {
        let machine = Machine::new();
        let mut child = Command::new("bash")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("postgres/cluster"))
            // Killed, it has to find again what it said was committed.
            .args(["--durable", "-c", RECOVERY])
            .envs(machine.variables())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("bash starts the private cluster");
        let mut url = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut url).unwrap();
        let url = url.trim().to_owned();
        assert!(url.starts_with("postgres://"), "no private PostgreSQL was started; see above");
        let mut conn = PgConnectOptions::from_str(&url).unwrap().connect().await.unwrap();
        let data: String = sqlx::query_scalar("SHOW data_directory").fetch_one(&mut conn).await.unwrap();
        sqlx::raw_sql("CREATE DATABASE fleet").execute(&mut conn).await.unwrap();
        conn.close().await.unwrap();
        let data = PathBuf::from(data);
        let programs = std::fs::read_link(format!("/proc/{}/exe", postmaster(&data))).unwrap();
        let programs = programs.parent().unwrap().to_owned();
        let database = Self { machine, url, data, programs, child };
        migrate(&Options::parse(&database.url_of("postgres")).unwrap(), &mut |_| ()).await.unwrap();
        database
    }

    /// The database's URL for a role.
    pub(crate) fn url_of(&self, role: &str) -> String {
        self.url_at(role, self.port())
    }

    /// The same through another port.
    pub(crate) fn url_at(&self, role: &str, port: u16) -> String {
        format!("postgres://{role}@127.0.0.1:{port}/{NAME}")
    }

    pub(crate) fn port(&self) -> u16 {
        PgConnectOptions::from_str(&self.url).unwrap().get_port()
    }

    /// A superuser's connection, which finds the service's tables.
    pub(crate) async fn superuser(&self) -> PgConnection {
        let options = PgConnectOptions::from_str(&self.url_of("postgres")).unwrap().disable_statement_logging();
        options.options([("search_path", "portreeve, public")]).connect().await.unwrap()
    }

    /// Kills all its processes at once.
    pub(crate) fn kill(&self) {
        let first = postmaster(&self.data);
        // Stopped, it neither starts others nor cleans up behind those that are gone.
        send("-STOP", &[first]);
        let all: Vec<u32> = children_of(first).into_iter().chain([first]).collect();
        assert!(all.len() > 3, "a server has processes beside its first: {all:?}");
        send("-KILL", &all);
        while all.iter().any(|id| is_running(*id)) {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        // Where nobody waits for orphans the first one stays as a zombie, which would be taken for a server that runs.
        let socket = self.data.with_file_name(format!(".s.PGSQL.{}.lock", self.port()));
        for file in [self.data.join("postmaster.pid"), socket] {
            std::fs::remove_file(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        }
    }

    /// Starts it again on its files and its port.
    pub(crate) fn start_again(&self) {
        let owner = std::fs::metadata(&self.data).unwrap();
        let mut command = if owner.uid() == own_user() {
            Command::new(self.programs.join("pg_ctl"))
        } else {
            let mut command = Command::new("setpriv");
            command.arg(format!("--reuid={}", owner.uid())).arg(format!("--regid={}", owner.gid()));
            command.args(["--clear-groups", "--"]).arg(self.programs.join("pg_ctl"));
            command
        };
        let output = command
            .current_dir("/")
            .arg("-D")
            .arg(&self.data)
            .args(["-w", "-s", "-o", &format!("-p {} -c {RECOVERY}", self.port()), "-l"])
            .arg(self.data.with_file_name("log"))
            .arg("start")
            .envs(self.machine.variables())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(output.success(), "{}", std::fs::read_to_string(self.data.with_file_name("log")).unwrap_or_default());
    }

    /// Waits until no statement runs any more that ran when this was called.
    pub(crate) async fn settle(&self) {
        // What was sent and not yet read is a statement a moment later.
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        let mut conn = self.superuser().await;
        let running = "SELECT pid::text || ' ' || query_start::text FROM pg_stat_activity
                       WHERE application_name = 'portreeve' AND state <> 'idle' AND query_start IS NOT NULL";
        let before: Vec<String> = sqlx::query_scalar(running).fetch_all(&mut conn).await.unwrap();
        loop {
            let now: Vec<String> = sqlx::query_scalar(running).fetch_all(&mut conn).await.unwrap();
            if !before.iter().any(|one| now.contains(one)) {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        conn.close().await.unwrap();
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        drop(self.child.wait());
    }
}

fn own_user() -> u32 {
    std::fs::metadata("/proc/self").unwrap().uid()
}

/// The number of the server's first process.
fn postmaster(data: &Path) -> u32 {
    let file = std::fs::read_to_string(data.join("postmaster.pid")).unwrap();
    file.lines().next().unwrap().parse().unwrap()
}

fn children_of(parent: u32) -> Vec<u32> {
    let processes =
        std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    processes.filter(|id: &u32| status_of(*id, "PPid") == Some(parent.to_string())).collect()
}

/// A line of what the system says of a process.
fn status_of(id: u32, name: &str) -> Option<String> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().to_owned())
}

fn send(signal: &str, ids: &[u32]) {
    let sent = Command::new("kill").arg(signal).args(ids.iter().map(u32::to_string)).status().unwrap();
    assert!(sent.success(), "not all of {ids:?} were there");
}

fn is_running(id: u32) -> bool {
    status_of(id, "State").is_some_and(|state| !state.starts_with('Z'))
}
