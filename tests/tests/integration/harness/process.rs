//! The real binary as a process of its own, to be killed and started again on the same folder.
//!
//! Cargo tells only a package's own tests where its binary is, so it is built here,
//! once, and found beside this test's executable. That costs nothing when it is up
//! to date, and keeps a stale binary from being tested.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Client, cache_dir, postgres, type_of};

const START_TIMEOUT: Duration = Duration::from_secs(60);
const DEATH_TIMEOUT: Duration = Duration::from_secs(30);

/// Where a server says that it is ready, in its folder.
const READY: &str = "ready.json";

/// The binary `portreeve`, of the same profile as this test.
pub(crate) fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| build("portreeve", &[]))
}

/// The same program with the steps in it at which tests have it die. The feature is one of this binary alone.
pub(crate) fn crash_binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| build("portreeve-crash", &["--features", "portreeve/crash-points"]))
}

fn build(name: &str, words: &[&str]) -> PathBuf {
    let deps = std::env::current_exe().unwrap();
    let dir = deps.ancestors().nth(2).expect("a test's executable lies in PROFILE/deps");
    let built = run_cargo(dir, name, words);
    let path = dir.join(name);
    assert!(path.is_file(), "{} is not there, and building it did not help: {built}", path.display());
    path
}

fn run_cargo(dir: &Path, name: &str, words: &[&str]) -> String {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(workspace).args(["build", "--bin", name, "--target-dir"]).arg(dir.parent().unwrap()).args(words);
    // What cargo told this test about its own package would make it build others anew.
    let about_tests = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for (name, _) in std::env::vars().filter(|(name, _)| about_tests(name)) {
        cargo.env_remove(name);
    }
    if dir.ends_with("release") {
        cargo.arg("--release");
    }
    match cargo.output() {
        Ok(output) if output.status.success() => "cargo built it".to_owned(),
        Ok(output) => panic!("cargo build failed:\n{}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => format!("cargo did not start: {error}"),
    }
}

/// The database of a folder, where its service has one.
async fn database_of(data: &Path) -> Option<String> {
    if postgres::is_for(data) { Some(postgres::service_url(&postgres::of(data).await)) } else { None }
}

/// A variable of a process's environment.
pub(crate) type Variable = (&'static str, PathBuf);

/// Where the program that can die reads at which step.
fn dying_by(control: &Path) -> [Variable; 1] {
    [("PORTREEVE_CRASH_POINT", control.to_owned())]
}

/// A running server. Killed when it is dropped.
pub(crate) struct Process {
    child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) admin: Client,
}

impl Process {
    /// Starts the server on a folder, and returns when it accepts connections.
    pub(crate) async fn start(data: &Path) -> Self {
        Self::start_with(data, &[]).await
    }

    /// The same with more words on its command line.
    pub(crate) async fn start_with(data: &Path, words: &[&str]) -> Self {
        Self::spawn(binary(), data, database_of(data).await, words, &[])
    }

    /// The program that can die at a step, told by a file at which one.
    pub(crate) async fn start_crashing(data: &Path, control: &Path) -> Self {
        Self::spawn(crash_binary(), data, database_of(data).await, &[], &dying_by(control))
    }

    /// The same, where it is to die before it is ready. How it ended.
    pub(crate) async fn crash_at_start(data: &Path, control: &Path) -> ExitStatus {
        let process = Self::launch(crash_binary(), data, database_of(data).await, &[], &dying_by(control));
        process.dies().await
    }

    /// The same on a database that a URL names.
    pub(crate) fn start_on(data: &Path, database: Option<String>) -> Self {
        Self::spawn(binary(), data, database, &[], &[])
    }

    /// The same with more variables in its environment.
    pub(crate) fn start_in(data: &Path, database: Option<String>, variables: &[Variable]) -> Self {
        Self::spawn(binary(), data, database, &[], variables)
    }

    fn spawn(program: &Path, data: &Path, database: Option<String>, words: &[&str], variables: &[Variable]) -> Self {
        let mut process = Self::launch(program, data, database, words, variables);
        process.wait_until_ready(&data.join(READY), data);
        process
    }

    fn launch(program: &Path, data: &Path, database: Option<String>, words: &[&str], variables: &[Variable]) -> Self {
        let ready = data.join(READY);
        drop(std::fs::remove_file(&ready));
        let log = std::fs::OpenOptions::new().create(true).append(true).open(data.join("stderr.log")).unwrap();
        let child = Command::new(program)
            .args(["serve", "--listen", "127.0.0.1:0", "--data"])
            .arg(data)
            .arg("--ready-file")
            .arg(&ready)
            .arg("--cache")
            .arg(cache_dir())
            .args(words)
            .env_remove("PORTREEVE_API_KEY")
            .env_remove("PORTREEVE_DATABASE_URL")
            .env_remove("PORTREEVE_CRASH_POINT")
            .envs(database.map(|url| ("PORTREEVE_DATABASE_URL", url)))
            .envs(variables.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { child, address: ([127, 0, 0, 1], 0).into(), admin: Client::keyless(([127, 0, 0, 1], 0).into()) }
    }

    fn wait_until_ready(&mut self, ready: &Path, data: &Path) {
        let start = Instant::now();
        let told: Value = loop {
            let text = std::fs::read_to_string(ready).unwrap_or_default();
            if let Ok(told) = serde_json::from_str(&text) {
                break told;
            }
            let log = || std::fs::read_to_string(data.join("stderr.log")).unwrap_or_default();
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("`portreeve serve` ended with {status} before it was ready:\n{}", log());
            }
            assert!(start.elapsed() < START_TIMEOUT, "`portreeve serve` was not ready in time:\n{}", log());
            std::thread::sleep(Duration::from_millis(10));
        };
        assert_eq!(told["pid"], json!(self.child.id()), "{told}");
        self.address =
            told["url"].as_str().unwrap().trim_start_matches("http://").trim_end_matches('/').parse().unwrap();
        let key = std::fs::read_to_string(data.join("admin.key")).unwrap();
        self.admin = Client::new(self.address, key.trim()).named("admin", "operator");
    }

    pub(crate) async fn agent(&self, name: &str, profile: &str) -> Client {
        let body = json!({"agent_id": name, "agent_type": type_of(profile), "profile": profile});
        let created = self.admin.post("/agents", body).await.done();
        Client::new(self.address, created["key"].as_str().unwrap()).named(name, type_of(profile))
    }

    pub(crate) fn again(&self, client: &Client) -> Client {
        Client { address: self.address, ..client.clone() }
    }

    /// Kills it at once, as a power cut of the process: no handler runs.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for an end that nobody asked for, and says how it ended.
    pub(crate) async fn dies(mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < DEATH_TIMEOUT, "it did not die");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Asks it to stop.
    pub(crate) fn terminate(&self) {
        self.signal("-TERM");
    }

    /// Sends it a signal, named as for `kill`.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits for its end. Whether it ended well, and how long that took.
    pub(crate) async fn ended(mut self) -> (bool, Duration) {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (status.success(), start.elapsed());
            }
            assert!(start.elapsed() < START_TIMEOUT, "it did not stop");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
