//! MCP as it goes over the wire: JSON-RPC that a test writes itself, over HTTP and over the pipes of the real binary.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::process::binary;
use super::{Client, Reply, Request, cache_dir};

/// Longer than anything here takes.
const TIMEOUT: Duration = Duration::from_secs(60);

pub(crate) const OLD: [&str; 2] = ["2025-06-18", "2025-11-25"];
pub(crate) const NEW: &str = "2026-07-28";

/// What every client accepts.
const ACCEPT: &str = "application/json, text/event-stream";

/// A request as JSON-RPC.
pub(crate) fn message(id: impl Into<Value>, method: &str, params: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id.into(), "method": method, "params": params})
}

/// A notification as JSON-RPC.
pub(crate) fn notification(method: &str, params: Value) -> Value {
    json!({"jsonrpc": "2.0", "method": method, "params": params})
}

/// What a client of an older revision begins with.
pub(crate) fn hello(revision: &str) -> Value {
    let params = json!({
        "protocolVersion": revision, "capabilities": {}, "clientInfo": {"name": "integration", "version": "0"},
    });
    message(0, "initialize", params)
}

/// What a client of the newest revision puts into each request.
pub(crate) fn own_meta(revision: &str) -> Value {
    json!({
        "io.modelcontextprotocol/protocolVersion": revision,
        "io.modelcontextprotocol/clientInfo": {"name": "integration", "version": "0"},
        "io.modelcontextprotocol/clientCapabilities": {},
    })
}

/// A POST to the endpoint, with the headers that a client of an older revision sends.
pub(crate) fn old(message: &Value) -> Request {
    bare(message).header("mcp-protocol-version", OLD[1])
}

/// A POST without anything about a revision.
pub(crate) fn bare(message: &Value) -> Request {
    Request::new("POST", "/mcp").header("accept", ACCEPT).json(message)
}

/// A POST of the newest revision: the metadata in the message, and headers that say the same.
pub(crate) fn new(message: &Value) -> Request {
    let mut message = message.clone();
    let method = message["method"].as_str().unwrap().to_owned();
    let meta = message["params"]["_meta"].as_object().cloned().unwrap_or_default();
    let mut all = own_meta(NEW);
    all.as_object_mut().unwrap().extend(meta);
    message["params"]["_meta"] = all;
    let mut request = bare(&message).header("mcp-protocol-version", NEW).header("mcp-method", &method);
    for field in ["name", "uri"] {
        if let Some(name) = message["params"][field].as_str() {
            request = request.header("mcp-name", name);
        }
    }
    request
}

impl Reply {
    /// The result of a JSON-RPC answer.
    #[track_caller]
    pub(crate) fn result(self) -> Value {
        let body = self.ok();
        assert!(body["result"].is_object(), "{body}");
        body["result"].clone()
    }

    /// The error of a JSON-RPC answer, which must have this status and code.
    #[track_caller]
    pub(crate) fn rpc_error(self, status: u16, code: i64) -> Value {
        assert_eq!((self.status, &self.body["error"]["code"]), (status, &json!(code)), "{}", self.body);
        assert_eq!(self.header("content-type"), Some("application/json"));
        self.body["error"].clone()
    }
}

impl Client {
    /// Calls a tool as a client of an older revision; the result.
    pub(crate) async fn tool(&self, name: &str, arguments: Value) -> Value {
        self.tool_with(name, arguments, json!({})).await
    }

    /// As [`Self::tool`], with metadata.
    pub(crate) async fn tool_with(&self, name: &str, arguments: Value, meta: Value) -> Value {
        let params = json!({"name": name, "arguments": arguments, "_meta": meta});
        self.send(old(&message(1, "tools/call", params))).await.result()
    }

    /// A request whose answer is read as it comes.
    pub(crate) async fn stream(&self, request: Request) -> Stream {
        // Another test may have been first, which is as well.
        drop(rustls::crypto::ring::default_provider().install_default());
        let http = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
        let mut post = http.post(format!("http://{}{}", self.address, request.target)).body(request.body);
        post = post.header("content-type", "application/json").bearer_auth(self.key.as_deref().unwrap());
        for (name, value) in request.headers {
            post = post.header(name, value);
        }
        let answer = tokio::spawn(post.send());
        Stream { answer: Answer::Coming(answer), unread: Vec::new() }
    }
}

/// An answer that is under way. Dropped, it closes its connection.
pub(crate) struct Stream {
    answer: Answer,
    unread: Vec<u8>,
}

enum Answer {
    Coming(tokio::task::JoinHandle<reqwest::Result<reqwest::Response>>),
    Open(reqwest::Response),
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Self::Coming(task) = self {
            task.abort();
        }
    }
}

impl Stream {
    /// The next message, or none at the end of the answer.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        tokio::time::timeout(TIMEOUT, self.read()).await.expect("a message, or the end, in time")
    }

    /// All messages that are left.
    pub(crate) async fn rest(mut self) -> Vec<Value> {
        let mut all = Vec::new();
        while let Some(message) = self.next().await {
            all.push(message);
        }
        all
    }

    async fn read(&mut self) -> Option<Value> {
        if let Answer::Coming(task) = &mut self.answer {
            let response = task.await.unwrap().unwrap();
            assert_eq!(response.status(), 200);
            self.answer = Answer::Open(response);
        }
        let Answer::Open(response) = &mut self.answer else { unreachable!() };
        let is_stream = response.headers()["content-type"].to_str().unwrap().starts_with("text/event-stream");
        loop {
            if is_stream && let Some(end) = self.unread.windows(2).position(|two| two == b"\n\n") {
                let event: Vec<u8> = self.unread.drain(..end + 2).collect();
                let text = String::from_utf8(event).unwrap();
                let data: String = text.lines().filter_map(|line| line.strip_prefix("data:")).collect();
                // Comments keep the connection alive and say nothing.
                if data.trim().is_empty() {
                    continue;
                }
                return Some(serde_json::from_str(&data).unwrap());
            }
            match response.chunk().await.unwrap() {
                Some(bytes) => self.unread.extend_from_slice(&bytes),
                None if !is_stream && !self.unread.is_empty() => {
                    return Some(serde_json::from_slice(&std::mem::take(&mut self.unread)).unwrap());
                }
                None => return None,
            }
        }
    }
}

/// `portreeve mcp` as a process, with a client's end of its pipes.
pub(crate) struct Pipes {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Lines<BufReader<ChildStdout>>,
    next: i64,
}

/// `portreeve mcp` with some words, in a clean environment.
pub(crate) fn command(words: &[&str], home: &Path) -> Command {
    let mut command = Command::new(binary());
    command.arg("mcp").args(words).env_clear().env("HOME", home).env("PORTREEVE_CACHE", cache_dir());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

impl Pipes {
    pub(crate) fn open(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { stdin: child.stdin.take(), stdout, child, next: 1 }
    }

    /// Opens a session of an older revision.
    pub(crate) async fn begun(command: Command) -> Self {
        let mut pipes = Self::open(command);
        pipes.say(&hello(OLD[1])).await;
        let answer = pipes.hear().await.expect("an answer to initialize");
        assert_eq!(answer["result"]["protocolVersion"], OLD[1], "{answer}");
        pipes.say(&notification("notifications/initialized", json!({}))).await;
        pipes
    }

    pub(crate) async fn say(&mut self, message: &Value) {
        self.write(format!("{message}\n").as_bytes()).await;
    }

    /// Writes bytes as they are.
    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        self.stdin.as_mut().unwrap().write_all(bytes).await.unwrap();
    }

    /// The next frame, or none at the end. Whatever is no frame fails the test.
    pub(crate) async fn hear(&mut self) -> Option<Value> {
        let line = tokio::time::timeout(TIMEOUT, self.stdout.next_line()).await.expect("a frame, or the end, in time");
        line.unwrap().map(|line| serde_json::from_str(&line).unwrap_or_else(|_| panic!("no frame: {line}")))
    }

    /// Sends a request and hears its answer.
    pub(crate) async fn ask(&mut self, method: &str, params: Value) -> Value {
        let id = self.next;
        self.next += 1;
        self.say(&message(id, method, params)).await;
        loop {
            let heard = self.hear().await.expect("an answer");
            if heard["id"] == id {
                return heard;
            }
        }
    }

    /// Calls a tool; the result.
    pub(crate) async fn tool(&mut self, name: &str, arguments: Value) -> Value {
        let answer = self.ask("tools/call", json!({"name": name, "arguments": arguments})).await;
        assert!(answer["result"].is_object(), "{answer}");
        answer["result"].clone()
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().unwrap().to_string();
        assert!(std::process::Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    /// The most memory that the process has had resident.
    pub(crate) fn peak_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id().unwrap())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Closes stdin.
    pub(crate) fn close(&mut self) {
        self.stdin = None;
    }

    /// Waits for the end: the exit code, the frames that came until then, and stderr.
    pub(crate) async fn ended(mut self) -> (i32, Vec<Value>, String) {
        let mut frames = Vec::new();
        while let Some(frame) = self.hear().await {
            frames.push(frame);
        }
        let mut told = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut told).await.unwrap();
        let status = tokio::time::timeout(TIMEOUT, self.child.wait()).await.expect("an end in time").unwrap();
        (status.code().unwrap(), frames, told)
    }
}
