//! How much of what the database can do a host makes use of: mutations a second through the whole service, beside `pgbench`
//! that calls the same function of a database like it with as many connections, in turns in one run. The host also numbers its
//! rows of the audit log, which counts against it.
//!
//! ```sh
//! cargo run --release -p tests --bin bench-postgres [CONNECTIONS] [SECONDS]
//! ```
//! It starts a private cluster that syncs every commit to disk (`tests/postgres/cluster --durable`). Read the ratios: both sides
//! share the machine with the server, and with whatever else runs on it. Beside each rate stands the processor time that one
//! mutation took, of the caller and the server together, which other programs disturb less.

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
use portreeve::engine::Cage;
use portreeve::gate::Wanted;
use portreeve::http::serve;
use portreeve::store::postgres::{Options as Database, migrate};
use portreeve::vetting::Gates;
use serde_json::{Value, json};
use sqlx::Connection;

/// The same as the program's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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

/// The process whose children serve the connections.
async fn postmaster(url: &str) -> u32 {
    let mut conn = sqlx::PgConnection::connect(url).await.unwrap();
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut conn).await.unwrap();
    ticks_of(u32::try_from(pid).unwrap()).unwrap().1
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
    /// On a database that no host serves: what it writes, nobody numbers.
    Pgbench,
    /// On the host's: what it writes is numbered by the host, and it is done when that is.
    PgbenchServed,
    InProcess,
    Http,
}

/// What a way came to.
#[derive(Debug, Clone, Copy)]
struct Figures {
    per_second: f64,
    /// Processor time of a mutation, in microseconds.
    cpu_us: f64,
    /// Of which the server's.
    server_us: f64,
}

/// Ticks of the processor that `/proc` counts in a second.
const TICKS: f64 = 100.0;

/// A process's own ticks with those of its ended children, and its parent.
fn ticks_of(pid: u32) -> Option<(u64, u32)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let ticks = fields.get(11..15)?.iter().filter_map(|field| field.parse::<u64>().ok()).sum();
    Some((ticks, fields.get(1)?.parse().ok()?))
}

/// Ticks of the server: of `postmaster` and its children.
fn ticks_of_server(postmaster: u32) -> u64 {
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let ours = |pid: u32| {
        let (ticks, parent) = ticks_of(pid)?;
        (pid == postmaster || parent == postmaster).then_some(ticks)
    };
    pids.filter_map(ours).sum()
}

struct Bench {
    postmaster: u32,
    app: Arc<App>,
    url: String,
    http: reqwest::Client,
    keys: Vec<String>,
    script: PathBuf,
    twin: String,
    database: String,
    connections: usize,
    seconds: u64,
}

impl Bench {
    /// Waits until the log is numbered so far, so that no way works off what another left.
    async fn settle(&self) {
        drop(self.app.gate().store().view().audit_rows(0, 1).await.unwrap());
    }

    /// What the host does is done when its rows are numbered, which pgbench does not do.
    async fn run(&self, way: Way) -> Figures {
        self.settle().await;
        let ticks = || [ticks_of_server(self.postmaster), ticks_of(std::process::id()).unwrap().0];
        let (before, started) = (ticks(), Instant::now());
        let done = self.count(way).await;
        self.settle().await;
        let per_second = done / started.elapsed().as_secs_f64();
        let after = ticks();
        let micros = |n: usize| f64::from(u32::try_from(after[n] - before[n]).unwrap()) / TICKS * 1e6 / done;
        Figures { per_second, cpu_us: micros(0) + micros(1), server_us: micros(0) }
    }

    async fn count(&self, way: Way) -> f64 {
        match way {
            Way::Pgbench => return self.pgbench(&self.twin),
            Way::PgbenchServed => return self.pgbench(&self.database),
            Way::InProcess | Way::Http => {}
        }
        let (count, until) = (Arc::new(AtomicU64::new(0)), Instant::now() + Duration::from_secs(self.seconds));
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
        f64::from(u32::try_from(count.load(Ordering::Relaxed)).unwrap())
    }

    fn pgbench(&self, database: &str) -> f64 {
        self.pgbench_on(database, self.connections)
    }

    fn pgbench_on(&self, database: &str, connections: usize) -> f64 {
        let ran = Command::new(pgbench())
            .args(["-n", "-M", "prepared", "-j", "2", "-f"])
            .arg(&self.script)
            // As the host's connections have it.
            .env("PGOPTIONS", "-c enable_seqscan=off -c jit=off -c statement_timeout=15s -c lock_timeout=8s")
            .args(["-c", &connections.to_string(), "-T", &self.seconds.to_string(), database])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&ran.stdout).into_owned();
        assert!(ran.status.success(), "{said}{}", String::from_utf8_lossy(&ran.stderr));
        let line = said.lines().find(|line| line.contains("actually processed")).unwrap_or_else(|| panic!("{said}"));
        line.rsplit_once(' ').unwrap().1.parse().unwrap()
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

async fn open(data: &Path, database: &str, connections: usize) -> Arc<App> {
    let database = Database::parse(database).unwrap().with_connections(u32::try_from(connections).unwrap());
    let options = Options {
        data: data.to_owned(),
        database: Some(database),
        new_admin_key: false,
        cache: None,
        wanted: Wanted::own(),
        gates: Gates::default(),
        cage: Cage::default(),
        clock: Arc::new(SystemClock::default()),
    };
    App::open(options, &|_| ()).await.unwrap()
}

/// Makes so many agents, and one lock to learn what a decision about one looks like.
async fn prepare(app: Arc<App>, agents: usize) -> (Vec<String>, Value) {
    let admin = std::fs::read_to_string(app.admin_key_path()).unwrap();
    let (create, acquire) = (catalogue::entry("agent_create").unwrap(), catalogue::entry("lock_acquire").unwrap());
    let mut keys = Vec::new();
    for n in 0..agents {
        let body =
            json!({"agent_id": format!("bench-{n}"), "agent_type": "claude_code", "profile": "claude_code_local"});
        let made = app.call(Some(admin.trim()), create, body.as_object().unwrap().clone()).await.unwrap().body;
        keys.push(made["key"].as_str().unwrap().to_owned());
    }
    let body = json!({"file_path": "src/0/0.rs", "reason": "bench"});
    app.call(keys.first().map(String::as_str), acquire, body.as_object().unwrap().clone()).await.unwrap();
    let rows = app.gate().store().view().audit_rows(0, 10_000).await.unwrap();
    let sample = rows.iter().rev().find(|(row, _)| row.command == "lock_acquire").map(|(row, _)| json!(row)).unwrap();
    app.close().await;
    (keys, sample)
}

/// A copy of a database to which nobody is connected.
async fn copy_of(url: &str, original: &str, name: &str) -> String {
    let (server, _) = url.rsplit_once('/').unwrap();
    let mut conn = sqlx::PgConnection::connect(&format!("{server}/template1")).await.unwrap();
    let sql = format!("CREATE DATABASE {name} TEMPLATE {original}");
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut conn).await.unwrap();
    format!("{server}/{name}")
}

#[tokio::main]
async fn main() {
    let mut words = std::env::args().skip(1);
    let connections: usize = words.next().map_or(16, |word| word.parse().expect("a number of connections"));
    let seconds: u64 = words.next().map_or(10, |word| word.parse().expect("a number of seconds"));
    let (cluster, agents) = (cluster(), connections * CALLERS);
    migrate(&Database::parse(&cluster.url).unwrap(), &mut |_| ()).await.unwrap();
    let service = cluster.url.replace("postgres@", "portreeve_app@");
    let dir = tempfile::tempdir().unwrap();
    let (keys, sample) = prepare(open(dir.path(), &service, connections).await, agents).await;
    // With the same agents, for no host.
    let twin = copy_of(&cluster.url, "postgres", "twin").await;
    let app = open(dir.path(), &service, connections).await;
    let served = serve(Arc::clone(&app), ([127, 0, 0, 1], 0).into()).await.unwrap();
    drop(rustls::crypto::ring::default_provider().install_default());
    let bench = Bench {
        postmaster: postmaster(&cluster.url).await,
        url: served.url(),
        http: reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap(),
        keys,
        script: script(dir.path(), &sample, agents),
        twin: twin.replace("postgres@", "portreeve_app@"),
        database: service,
        connections,
        seconds,
        app,
    };
    println!("{connections} connections, {agents} agents, {ROUNDS} rounds of {seconds} s each, mutations a second:");
    let ways = [Way::Pgbench, Way::PgbenchServed, Way::InProcess, Way::Http];
    let mut figures = [const { Vec::new() }; 4];
    // Once for nothing: caches, plans, connections.
    for way in ways {
        bench.run(way).await;
    }
    for round in 1..=ROUNDS {
        for (way, figures) in ways.into_iter().zip(&mut figures) {
            figures.push(bench.run(way).await);
        }
        let said = |(way, all): (Way, &Vec<Figures>)| {
            let Figures { per_second, cpu_us, server_us } = all[round - 1];
            format!("{way:?} {per_second:.0} ({cpu_us:.0} µs, the server's {server_us:.0})")
        };
        let said: Vec<String> = ways.into_iter().zip(&figures).map(said).collect();
        println!("round {round}: {}", said.join(", "));
    }
    let of =
        |pick: fn(&Figures) -> f64| figures.each_ref().map(|all| median(&all.iter().map(pick).collect::<Vec<_>>()));
    let [direct, numbered, in_process, over_http] = of(|figures| figures.per_second);
    println!("medians: pgbench {direct:.0}, where its rows are numbered {numbered:.0}");
    for (what, rate) in [("host", in_process), ("host over HTTP", over_http)] {
        println!("{what} {rate:.0}: {:.2} of pgbench, {:.2} of it numbered", rate / direct, rate / numbered);
    }
    let [direct, numbered, in_process, over_http] = of(|figures| figures.cpu_us);
    println!(
        "processor time of one: pgbench {direct:.0} µs, numbered {numbered:.0} µs, host {in_process:.0} µs, over HTTP {over_http:.0} µs"
    );
    served.stop().await;
    bench.app.close().await;
    println!();
    limits(&bench, &cluster.url, dir.path()).await;
}

/// What one database comes to, and what lies past it.
async fn limits(bench: &Bench, cluster: &str, dir: &Path) {
    let mut conn = sqlx::PgConnection::connect(&bench.twin.replace("portreeve_app@", "postgres@")).await.unwrap();
    let mut number = async |sql: &'static str| -> f64 {
        let value: i64 = sqlx::query_scalar(sql).fetch_one(&mut conn).await.unwrap();
        f64::from(u32::try_from(value % (1 << 31)).unwrap())
    };
    let wal = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint / 1024";
    let before = number(wal).await;
    let alone = bench.pgbench(&bench.twin);
    let wal = (number(wal).await - before) * 1024.0 / alone;
    let rows = number("SELECT count(*) FROM portreeve.audit_log").await;
    let kept = number("SELECT pg_total_relation_size('portreeve.audit_log') / 1024").await * 1024.0 / rows;
    println!("a mutation writes {wal:.0} bytes ahead of time, and keeps {kept:.0} bytes of log with its indexes");
    drop(conn);

    // Two workspaces in databases of their own share nothing but the machine, each with half of the connections.
    let second = copy_of(cluster, "twin", "second").await.replace("postgres@", "portreeve_app@");
    let half = |database: &str| bench.pgbench_on(database, bench.connections / 2);
    let two: f64 = std::thread::scope(|scope| {
        let both = [&bench.twin, &second].map(|database| scope.spawn(move || half(database)));
        both.into_iter().map(|one| one.join().unwrap()).sum()
    });
    println!("two databases at once make {:.2} of what one makes with as many connections", two / alone);

    // A host that finds a log which nobody numbered.
    let service = bench.twin.clone();
    let app = open(dir, &service, bench.connections).await;
    let (started, view) = (Instant::now(), app.gate().store().view());
    let mut left = rows + alone;
    let total = left;
    while left > 0.0 && started.elapsed() < Duration::from_secs(120) {
        drop(view.audit_rows(0, 1).await.unwrap());
        let mut conn = sqlx::PgConnection::connect(&service.replace("portreeve_app@", "postgres@")).await.unwrap();
        let sql = "SELECT count(*) - (SELECT count(*) FROM portreeve.audit_seq) FROM portreeve.audit_log";
        let open: i64 = sqlx::query_scalar(sql).fetch_one(&mut conn).await.unwrap();
        left = f64::from(u32::try_from(open).unwrap());
    }
    println!("one host numbers {:.0} rows a second", (total - left) / started.elapsed().as_secs_f64());
    app.close().await;
}
