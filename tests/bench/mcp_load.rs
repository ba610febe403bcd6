//! Many MCP clients at one server for a while: how fast it answers, and whether its memory stays where it is.
//!
//! Starts a server of its own on a fresh folder, registers an agent for each client, and lets every client call tools,
//! wait, cancel and read resources over streamable HTTP, half of them in each era of the protocol. Fails on an answer
//! that is an error and neither a denial nor a business refusal, and on memory that grows between the second and the
//! last quarter of the time.
//!
//! `cargo build --release && cargo run --release -p tests --bin load-mcp -- --clients 64 --seconds 60`
#![expect(
    clippy::print_stdout,
    clippy::expect_used,
    reason = "a program that prints a table, and has nothing to print when it cannot start"
)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

const NEW: &str = "2026-07-28";
const OLD: &str = "2025-11-25";

/// Most growth of the memory from the second quarter's mean to the last one's.
const GROWTH_MAX: f64 = 1.10;

/// Files that all clients fight over.
const SHARED_FILES: u32 = 16;

/// What the program was asked for.
struct Options {
    server: PathBuf,
    clients: usize,
    seconds: u64,
}

impl Options {
    fn read() -> Self {
        let own = std::env::current_exe().expect("a program knows where it is");
        let server = own.with_file_name("portreeve");
        let mut options = Self { server, clients: 64, seconds: 60 };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let value = words.next().expect("every option has a value: --clients N, --seconds S, --server PATH");
            match word.as_str() {
                "--clients" => options.clients = value.parse().expect("--clients takes a number"),
                "--seconds" => options.seconds = value.parse().expect("--seconds takes a number"),
                "--server" => options.server = value.into(),
                other => panic_usage(other),
            }
        }
        options
    }
}

fn panic_usage(word: &str) {
    println!("unknown option {word}; there are --clients N, --seconds S and --server PATH");
    std::process::exit(2);
}

/// The server, killed when it is dropped.
struct Server {
    child: Child,
    url: String,
    admin: String,
    _data: tempfile::TempDir,
}

impl Server {
    fn start(options: &Options) -> Self {
        let data = tempfile::tempdir().expect("a folder for the data");
        let ready = data.path().join("ready.json");
        let child = Command::new(&options.server)
            .args(["serve", "--listen", "127.0.0.1:0", "--data"])
            .arg(data.path())
            .arg("--ready-file")
            .arg(&ready)
            // One line per request is not what is measured.
            .env("PORTREEVE_LOG", "warn,rmcp=off")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("the server starts; build it with cargo build --release");
        let start = Instant::now();
        let told: Value = loop {
            let text = std::fs::read_to_string(&ready).unwrap_or_default();
            if let Ok(told) = serde_json::from_str(&text) {
                break told;
            }
            assert!(start.elapsed() < Duration::from_secs(180), "the server was not ready in time");
            std::thread::sleep(Duration::from_millis(50));
        };
        let admin = std::fs::read_to_string(data.path().join("admin.key")).expect("the admin's key");
        let url = told["url"].as_str().expect("its URL").trim_end_matches('/').to_owned();
        Self { child, url, admin: admin.trim().to_owned(), _data: data }
    }

    fn rss_kib(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        line.trim().trim_end_matches(" kB").parse().unwrap_or(0.0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// What one client saw.
#[derive(Default)]
struct Seen {
    /// Milliseconds of each call that does not wait.
    took: Vec<f64>,
    /// Answers by what they were.
    kinds: BTreeMap<String, u64>,
    /// What should not have been, with an example.
    wrong: BTreeMap<String, (u64, String)>,
}

impl Seen {
    fn wrong(&mut self, kind: impl Into<String>, example: impl ToString) {
        let example: String = example.to_string().chars().take(300).collect();
        self.wrong.entry(kind.into()).or_insert((0, example)).0 += 1;
    }

    fn add(&mut self, other: Self) {
        self.took.extend(other.took);
        for (kind, count) in other.kinds {
            *self.kinds.entry(kind).or_default() += count;
        }
        for (kind, (count, example)) in other.wrong {
            self.wrong.entry(kind).or_insert((0, example)).0 += count;
        }
    }
}

/// One client: an agent with its key, in one era.
struct Client {
    http: reqwest::Client,
    url: String,
    key: String,
    is_new: bool,
    number: u32,
    next: u64,
    label: Option<String>,
    random: u64,
    seen: Seen,
}

/// What came back.
enum Came {
    Message(Value),
    /// The answer ended without one, as it does for a call that was cancelled.
    Nothing,
}

impl Client {
    async fn run(mut self, until: Instant) -> Seen {
        if !self.is_new {
            self.greet().await;
        }
        while Instant::now() < until {
            self.step().await;
        }
        self.seen
    }

    /// A number below a bound; the same ones in every run.
    fn below(&mut self, bound: u32) -> u32 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u32::try_from(self.random >> 33).unwrap_or(0) % bound
    }

    async fn step(&mut self) {
        let (own, shared) = (self.below(50), self.below(SHARED_FILES));
        let (own, shared) = (format!("src/c{}/f{own}.rs", self.number), format!("src/shared/f{shared}.rs"));
        match self.below(100) {
            0..20 => {
                let granted = self.tool("acquire_lock", json!({"file_path": own, "reason": "load"})).await;
                if let Some(token) = granted.and_then(|body| body["fencing_token"].as_i64()) {
                    self.tool("verify_lock", json!({"file_path": own, "fencing_token": token})).await;
                    self.tool("release_lock", json!({"file_path": own, "fencing_token": token})).await;
                }
            }
            20..35 => {
                self.tool("acquire_lock", json!({"file_path": shared, "ttl_minutes": 1})).await;
                self.tool("release_lock", json!({"file_path": shared})).await;
            }
            35..45 => drop(self.tool("check_locks", json!({"file_paths": [own, shared]})).await),
            45..60 => self.task().await,
            60..68 => {
                drop(self.tool("check_guardrails", json!({"operation_text": "git push --force && rm -rf /"})).await)
            }
            68..74 => drop(self.tool("get_my_profile", json!({})).await),
            74..78 => drop(self.tool("query_audit", json!({"limit": 5})).await),
            // Denied, and not understood.
            78..81 => {
                drop(self.tool("submit_work", json!({"task_type": "t", "task_description": "rm -rf / now"})).await)
            }
            81..83 => drop(self.tool("acquire_lock", json!({"file_path": "../up"})).await),
            83..86 => drop(self.send("tools/list", json!({})).await),
            86..91 => drop(self.send("resources/read", json!({"uri": "locks://current"})).await),
            91..93 => drop(self.send("prompts/get", json!({"name": "start_work_session"})).await),
            93..97 => self.wait(&shared).await,
            _ => self.wait_and_cancel().await,
        }
    }

    async fn task(&mut self) {
        let kind = format!("load-{}", self.number);
        self.tool("submit_work", json!({"task_type": kind, "task_description": "count the words"})).await;
        let Some(claimed) = self.tool("get_work", json!({"task_types": [kind]})).await else { return };
        if let (Some(task), Some(claim)) = (claimed["task_id"].as_str(), claimed["claim_token"].as_str()) {
            let done = json!({"task_id": task, "claim_token": claim, "success": true, "result": {"words": 7}});
            self.tool("complete_work", done).await;
        }
    }

    /// A call that waits a second for a lock that may be held.
    async fn wait(&mut self, file_path: &str) {
        let arguments = json!({"file_path": file_path, "wait_seconds": 1, "ttl_minutes": 1});
        let params = json!({"name": "acquire_lock", "arguments": arguments, "_meta": {"progressToken": self.next}});
        if let Some(Came::Message(message)) = self.post("tools/call", params).await {
            self.count("tools/call, waiting", &message);
        }
        self.tool("release_lock", json!({"file_path": file_path})).await;
    }

    /// A call that waits for a task that never comes, and is cancelled in the way of its era.
    async fn wait_and_cancel(&mut self) {
        let arguments = json!({"task_types": ["never"], "wait_seconds": 30});
        let params = json!({"name": "get_work", "arguments": arguments, "_meta": {"progressToken": self.next}});
        let (id, patience) = (self.next, Duration::from_millis(200));
        let cancelled = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id}});
        let canceller = self.request(&cancelled, "notifications/cancelled");
        let is_new = self.is_new;
        let call = self.post("tools/call", params);
        let came = if is_new {
            tokio::time::timeout(patience, call).await.unwrap_or(Some(Came::Nothing))
        } else {
            let cancel = async {
                tokio::time::sleep(patience).await;
                drop(canceller.send().await);
                tokio::time::sleep(Duration::from_secs(10)).await;
            };
            tokio::select! {
                came = call => came,
                () = cancel => Some(Came::Message(json!({"error": {"code": "the cancelled call went on"}}))),
            }
        };
        match came {
            Some(Came::Nothing) => *self.seen.kinds.entry("cancelled".to_owned()).or_default() += 1,
            Some(Came::Message(message)) => self.seen.wrong("a cancelled call was answered", message),
            None => {}
        }
    }

    async fn greet(&mut self) {
        let params =
            json!({"protocolVersion": OLD, "capabilities": {}, "clientInfo": {"name": "load", "version": "0"}});
        let message = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params});
        match self.request(&message, "initialize").send().await {
            Ok(response) => {
                let label = response.headers().get("mcp-session-id").and_then(|label| label.to_str().ok());
                self.label = label.map(str::to_owned);
                drop(response.bytes().await);
            }
            Err(error) => self.seen.wrong("not greeted", error),
        }
    }

    /// Calls a tool; the body of its answer, unless that is a refusal.
    async fn tool(&mut self, name: &str, arguments: Value) -> Option<Value> {
        let message = self.send("tools/call", json!({"name": name, "arguments": arguments})).await?;
        let body = message["result"]["structuredContent"].clone();
        (message["result"]["isError"] == json!(false)).then_some(body)
    }

    /// Sends a request that does not wait, and counts what comes back.
    async fn send(&mut self, method: &str, params: Value) -> Option<Value> {
        let start = Instant::now();
        let came = self.post(method, params).await;
        self.seen.took.push(start.elapsed().as_secs_f64() * 1000.0);
        match came? {
            Came::Message(message) => {
                self.count(method, &message);
                Some(message)
            }
            Came::Nothing => {
                self.seen.wrong("no answer", method);
                None
            }
        }
    }

    fn count(&mut self, method: &str, message: &Value) {
        let result = &message["result"];
        let body = &result["structuredContent"];
        let error = body["error"].as_str().unwrap_or_default();
        let kind = match (result.is_object(), result["isError"] == json!(true), error) {
            (false, _, _) => return self.seen.wrong(format!("{method}: error {}", message["error"]["code"]), message),
            (true, true, "denied" | "invalid_request") => error.to_owned(),
            (true, true, _) => return self.seen.wrong(format!("{method}: {error}"), body),
            (true, false, _) if body["success"] == json!(false) => "refused".to_owned(),
            (true, false, _) => "answered".to_owned(),
        };
        *self.seen.kinds.entry(kind).or_default() += 1;
    }

    fn request(&self, message: &Value, method: &str) -> reqwest::RequestBuilder {
        let post = self.http.post(format!("{}/mcp", self.url)).bearer_auth(&self.key);
        let mut post = post.header("accept", "application/json, text/event-stream");
        if self.is_new {
            post = post.header("mcp-protocol-version", NEW).header("mcp-method", method);
            for field in ["name", "uri"] {
                if let Some(name) = message["params"][field].as_str() {
                    post = post.header("mcp-name", name);
                }
            }
        } else if method != "initialize" {
            post = post.header("mcp-protocol-version", OLD);
        }
        if let Some(label) = &self.label {
            post = post.header("mcp-session-id", label);
        }
        post.json(message)
    }

    async fn post(&mut self, method: &str, mut params: Value) -> Option<Came> {
        let id = self.next;
        self.next += 1;
        if self.is_new {
            params["_meta"]["io.modelcontextprotocol/protocolVersion"] = json!(NEW);
            params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({});
        }
        let message = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        let answered = async {
            let response = self.request(&message, method).send().await?;
            let status = response.status();
            response.text().await.map(|text| (status, text))
        };
        let (status, text) = match answered.await {
            Ok(answered) => answered,
            Err(error) => {
                self.seen.wrong("the connection broke", error);
                return None;
            }
        };
        if !status.is_success() {
            self.seen.wrong(format!("status {status}"), text);
            return None;
        }
        let frames = text.lines().filter_map(|line| line.strip_prefix("data:")).chain([text.as_str()]);
        let answer =
            frames.filter_map(|frame| serde_json::from_str::<Value>(frame).ok()).find(|frame| frame["id"] == id);
        Some(answer.map_or(Came::Nothing, Came::Message))
    }
}

fn http() -> reqwest::Client {
    let plain = reqwest::Client::builder().no_proxy().tls_certs_only([]);
    plain.timeout(Duration::from_secs(60)).build().expect("an HTTP client")
}

async fn clients(server: &Server, count: usize) -> Vec<Client> {
    let http = http();
    let mut clients = Vec::new();
    for number in 0..u32::try_from(count).expect("not that many clients") {
        let body =
            json!({"agent_id": format!("load-{number}"), "agent_type": "claude_code", "profile": "claude_code_local"});
        let made = http.post(format!("{}/agents", server.url)).bearer_auth(&server.admin).json(&body).send().await;
        let made: Value = made.expect("an answer").json().await.expect("JSON");
        let key = made["key"].as_str().expect("a key").to_owned();
        // A pool of its own: a client is a process, and has its own connections.
        clients.push(Client {
            http: self::http(),
            url: server.url.clone(),
            key,
            is_new: number % 2 == 1,
            number,
            next: 1,
            label: None,
            random: u64::from(number) + 1,
            seen: Seen::default(),
        });
    }
    clients
}

/// The resident memory, once a second until the time is over.
async fn sample(server: &Server, until: Instant) -> Vec<f64> {
    let mut samples = Vec::new();
    while Instant::now() < until {
        tokio::time::sleep(Duration::from_secs(1)).await;
        samples.push(server.rss_kib());
    }
    samples
}

fn mean_mib(samples: &[f64]) -> f64 {
    let count = u32::try_from(samples.len()).map_or(1.0, f64::from).max(1.0);
    samples.iter().sum::<f64>() / count / 1024.0
}

fn percentile(sorted: &[f64], percent: usize) -> f64 {
    sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))).copied().unwrap_or(0.0)
}

#[tokio::main]
async fn main() -> ExitCode {
    // Nothing here is encrypted, but the library wants to know how it would be.
    drop(rustls::crypto::ring::default_provider().install_default());
    let options = Options::read();
    let server = Server::start(&options);
    let clients = clients(&server, options.clients).await;
    let until = Instant::now() + Duration::from_secs(options.seconds);
    let tasks: Vec<_> = clients.into_iter().map(|client| tokio::spawn(client.run(until))).collect();
    let samples = sample(&server, until).await;
    let mut seen = Seen::default();
    for task in tasks {
        seen.add(task.await.expect("no client breaks"));
    }
    report(&options, &samples, seen)
}

fn report(options: &Options, samples: &[f64], mut seen: Seen) -> ExitCode {
    seen.took.sort_by(f64::total_cmp);
    let calls = u32::try_from(seen.took.len()).map_or(0.0, f64::from);
    let seconds = u32::try_from(options.seconds).map_or(1.0, f64::from).max(1.0);
    println!(
        "clients {}, seconds {}, calls {calls} ({:.0} a second)",
        options.clients,
        options.seconds,
        calls / seconds
    );
    println!("latency ms: p50 {:.1}, p99 {:.1}", percentile(&seen.took, 50), percentile(&seen.took, 99));
    for (kind, count) in &seen.kinds {
        println!("{kind}: {count}");
    }
    let quarter = samples.len() / 4;
    let part = |n: usize| samples.get(n * quarter..((n + 1) * quarter).max(n * quarter + 1)).map_or(0.0, mean_mib);
    let (first, second, last) = (part(0), part(1), part(3));
    println!("server's memory MiB: first quarter {first:.1}, second {second:.1}, last {last:.1}");
    let mut fine = true;
    for (kind, (count, example)) in &seen.wrong {
        fine = false;
        println!("WRONG {kind}: {count}, for instance {example}");
    }
    if last > second * GROWTH_MAX {
        fine = false;
        println!("WRONG the memory grew by {:.0} %", (last / second - 1.0) * 100.0);
    }
    if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
