//! How much of what the database can do a host makes use of: mutations a second through the whole service, beside `pgbench`
//! that calls the same function of the same database with as many connections, in turns in one run.
//!
//! ```sh
//! cargo run --release -p tests --bin bench-postgres [CONNECTIONS] [SECONDS]
//! ```
//! It starts a private cluster that syncs every commit to disk (`tests/postgres/cluster --durable`). Read the ratios: both sides
//! share the machine with the server, and with whatever else runs on it.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a benchmark that finds something amiss has nothing to say but that"
)]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use portreeve::app::{App, Options};
use portreeve::clock::SystemClock;
use portreeve::command::catalogue;
use portreeve::engine::{Cage, default_bundle};
use portreeve::http::serve;
use portreeve::store::postgres::{Options as Database, migrate};
use serde_json::{Value, json};

const ROUNDS: usize = 3;
/// Callers for each connection, so that none is idle while another caller decides.
const CALLERS: usize = 3;

struct Cluster {
    url: String,
    _child: Child,
}

fn cluster() -> Cluster {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("postgres/cluster");
    let mut child = Command::new("bash")
        .arg(script)
        .arg("--durable")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("bash starts the private cluster");
    let mut url = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut url).unwrap();
    assert!(url.starts_with("postgres://"), "no private PostgreSQL was started");
    Cluster { url: url.trim().to_owned(), _child: child }
}

fn pgbench() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> =
        folders.map(|dir| dir.path().join("bin/pgbench")).filter(|path| path.is_file()).collect();
    found.sort();
    found.pop().expect("pgbench comes with Debian's package postgresql")
}

/// One way to make a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Pgbench,
    InProcess,
    Http,
}

struct Bench {
    app: Arc<App>,
    url: String,
    http: reqwest::Client,
    keys: Vec<String>,
    script: PathBuf,
    database: String,
    connections: usize,
    seconds: u64,
}

impl Bench {
    async fn rate(&self, way: Way) -> f64 {
        if way == Way::Pgbench {
            return self.pgbench();
        }
        let (count, until) = (Arc::new(AtomicU64::new(0)), Instant::now() + Duration::from_secs(self.seconds));
        let started = Instant::now();
        let callers = self.keys.iter().enumerate().map(|(n, key)| {
            let (key, count) = (key.clone(), Arc::clone(&count));
            let (app, http) = (Arc::clone(&self.app), self.http.clone());
            let url = format!("{}/locks/acquire", self.url.trim_end_matches('/'));
            tokio::spawn(async move {
                let entry = catalogue::entry("lock_acquire").unwrap();
                for round in 0_u64.. {
                    if Instant::now() >= until {
                        break;
                    }
                    let body = json!({"file_path": format!("src/{n}/{}.rs", round % 40), "reason": "bench"});
                    let done: Value = if way == Way::Http {
                        let sent = http.post(&url).bearer_auth(&key).body(body.to_string());
                        serde_json::from_slice(&sent.send().await.unwrap().bytes().await.unwrap()).unwrap()
                    } else {
                        app.call(Some(&key), entry, body.as_object().unwrap().clone()).await.unwrap().body
                    };
                    assert_eq!(done["success"], true, "{done}");
                    count.fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        futures::future::join_all(callers).await.into_iter().for_each(|caller| caller.unwrap());
        let done = f64::from(u32::try_from(count.load(Ordering::Relaxed)).unwrap());
        done / started.elapsed().as_secs_f64()
    }

    fn pgbench(&self) -> f64 {
        let ran = Command::new(pgbench())
            .args(["-n", "-M", "prepared", "-j", "2", "-f"])
            .arg(&self.script)
            .args(["-c", &self.connections.to_string(), "-T", &self.seconds.to_string(), &self.database])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&ran.stdout).into_owned();
        assert!(ran.status.success(), "{said}{}", String::from_utf8_lossy(&ran.stderr));
        let line = said.lines().find(|line| line.starts_with("tps")).unwrap_or_else(|| panic!("{said}"));
        line.split_whitespace().nth(2).unwrap().parse().unwrap()
    }
}

/// The same call as the host's, with a decision as large as one of its own, for the agents of the bench.
fn script(dir: &Path, sample: &Value, agents: usize) -> PathBuf {
    // As digits: pgbench takes `:name` for a variable, also within quotes.
    let literal =
        |field: &str| format!("convert_from(decode('{}', 'hex'), 'UTF8')", hex(sample[field].as_str().unwrap()));
    let sql = format!(
        "\\set agent random(0, {last})\n\\set file random(0, 39)\n\
         SELECT verdict, body FROM portreeve.lock_acquire(ROW(gen_random_uuid(), 'bench', 'bench-' || :agent, 'claude_code', \
         'claude_code_local', 3, 'lock_acquire', 'acquire_lock', 'lock_key', {parameters}, {request}, 'allow', 'allowed', \
         {detail}, {engine}, {deciding}, '[]', {obligations}, {component}, 1, 1, {fuel}, 300, NULL, false, NULL, NULL, 480, 100, \
         NULL, NULL)::portreeve.decision, 'src/' || :agent || '/' || :file || '.rs', NULL, 'bench', 30, true);\n",
        last = agents - 1,
        parameters = literal("parameters"),
        request = literal("request"),
        detail = literal("detail"),
        engine = literal("engine"),
        deciding = literal("deciding"),
        obligations = literal("obligations"),
        component = literal("component"),
        fuel = sample["fuel"],
    );
    let path = dir.join("bench.sql");
    std::fs::File::create(&path).unwrap().write_all(sql.as_bytes()).unwrap();
    path
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

fn median(rates: &[f64]) -> f64 {
    let mut sorted = rates.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

#[tokio::main]
async fn main() {
    let mut words = std::env::args().skip(1);
    let connections: usize = words.next().map_or(16, |word| word.parse().expect("a number of connections"));
    let seconds: u64 = words.next().map_or(10, |word| word.parse().expect("a number of seconds"));
    let cluster = cluster();
    migrate(&Database::parse(&cluster.url).unwrap(), &mut |_| ()).await.unwrap();
    let service = cluster.url.replace("postgres@", "portreeve_app@");
    let dir = tempfile::tempdir().unwrap();
    let database = Database::parse(&service).unwrap().with_connections(u32::try_from(connections).unwrap());
    let options = Options {
        data: dir.path().to_owned(),
        database: Some(database),
        new_admin_key: false,
        cache: None,
        bundle: default_bundle(),
        cage: Cage::default(),
        clock: Arc::new(SystemClock::default()),
    };
    let app = App::open(options, &|_| ()).await.unwrap();
    let served = serve(Arc::clone(&app), ([127, 0, 0, 1], 0).into()).await.unwrap();
    let admin = std::fs::read_to_string(dir.path().join("admin.key")).unwrap();
    let (create, agents) = (catalogue::entry("agent_create").unwrap(), connections * CALLERS);
    let mut keys = Vec::new();
    for n in 0..agents {
        let body =
            json!({"agent_id": format!("bench-{n}"), "agent_type": "claude_code", "profile": "claude_code_local"});
        let made = app.call(Some(admin.trim()), create, body.as_object().unwrap().clone()).await.unwrap().body;
        keys.push(made["key"].as_str().unwrap().to_owned());
    }
    let acquire = catalogue::entry("lock_acquire").unwrap();
    let body = json!({"file_path": "src/0/0.rs", "reason": "bench"});
    app.call(keys.first().map(String::as_str), acquire, body.as_object().unwrap().clone()).await.unwrap();
    let rows = app.gate().store().view().audit_rows(0, 10_000).await.unwrap();
    let sample = rows.iter().rev().find(|(row, _)| row.command == "lock_acquire").map(|(row, _)| json!(row)).unwrap();
    drop(rustls::crypto::ring::default_provider().install_default());
    let bench = Bench {
        url: served.url(),
        http: reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap(),
        keys,
        script: script(dir.path(), &sample, agents),
        database: service,
        connections,
        seconds,
        app,
    };
    println!("{connections} connections, {agents} agents, {ROUNDS} rounds of {seconds} s each, mutations a second:");
    let ways = [Way::Pgbench, Way::InProcess, Way::Http];
    let mut rates = [const { Vec::new() }; 3];
    // Once for nothing: caches, plans, connections.
    for way in ways {
        bench.rate(way).await;
    }
    for round in 1..=ROUNDS {
        for (way, rates) in ways.into_iter().zip(&mut rates) {
            rates.push(bench.rate(way).await);
        }
        let said: Vec<String> =
            ways.iter().zip(&rates).map(|(way, r)| format!("{way:?} {:.0}", r[round - 1])).collect();
        println!("round {round}: {}", said.join(", "));
    }
    let [direct, in_process, over_http] = rates.map(|rates| median(&rates));
    println!(
        "medians: pgbench {direct:.0}, host {in_process:.0} ({:.2} of it), host over HTTP {over_http:.0} ({:.2})",
        in_process / direct,
        over_http / direct
    );
    served.stop().await;
}
