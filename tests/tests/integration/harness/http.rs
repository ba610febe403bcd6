//! A client that says exactly what a test tells it to, and reads what comes back.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longer than anything here takes, so that a hanging service fails a test and does not stop the suite.
const TIMEOUT: Duration = Duration::from_secs(90);

/// One request, before it is written.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Path and query, written as they are.
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn new(method: &str, target: &str) -> Self {
        Self { method: method.to_owned(), target: target.to_owned(), headers: Vec::new(), body: Vec::new() }
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn raw(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub(crate) fn json(self, body: &Value) -> Self {
        self.raw(body.to_string())
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\nconnection: close\r\n", self.method, self.target);
        if !self.headers.iter().any(|(name, _)| name == "host") {
            head.push_str("host: 127.0.0.1\r\n");
        }
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let names = |wanted: &str| self.headers.iter().any(|(name, _)| name == wanted);
        if !self.body.is_empty() || self.method == "POST" {
            if !names("content-type") {
                head.push_str("content-type: application/json\r\n");
            }
            if !names("content-length") {
                head.push_str(&format!("content-length: {}\r\n", self.body.len()));
            }
        }
        let mut bytes = (head + "\r\n").into_bytes();
        bytes.extend(&self.body);
        bytes
    }
}

/// What came back.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    /// The body; a text where it is not JSON.
    pub(crate) body: Value,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The body of a 200.
    #[track_caller]
    pub(crate) fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{}", self.body);
        self.body
    }

    /// The body of a 200 whose `success` is true.
    #[track_caller]
    pub(crate) fn done(self) -> Value {
        let body = self.ok();
        assert_eq!(body["success"], true, "{body}");
        body
    }

    /// The body of a business refusal with this reason.
    #[track_caller]
    pub(crate) fn refused(self, reason: &str) -> Value {
        let body = self.ok();
        assert_eq!((&body["success"], &body["reason"]), (&json!(false), &json!(reason)), "{body}");
        body
    }

    /// The body of a denial with this reason code.
    #[track_caller]
    pub(crate) fn denied(self, reason: &str) -> Value {
        assert_eq!(self.status, 403, "{}", self.body);
        let said = self.body["reason"].as_str().unwrap_or_default();
        assert!(said.starts_with(&format!("{reason}: ")), "{}", self.body);
        self.body
    }

    /// The body of a 422 whose first problem is of this kind.
    #[track_caller]
    pub(crate) fn invalid(self, kind: &str) -> Value {
        assert_eq!(self.status, 422, "{}", self.body);
        assert_eq!(self.body["error"], "invalid_request", "{}", self.body);
        assert_eq!(self.body["detail"][0]["type"], kind, "{}", self.body);
        self.body
    }

    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let at = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(bytes.get(..at)?).into_owned();
        let mut lines = head.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let body = bytes.get(at + 4..)?;
        let length = headers.iter().find(|(name, _)| name == "content-length").and_then(|(_, n)| n.parse().ok());
        if length.is_some_and(|length: usize| body.len() < length) {
            return None;
        }
        let text = String::from_utf8_lossy(body).into_owned();
        let body = serde_json::from_str(&text).unwrap_or(Value::from(text));
        Some(Self { status, headers, body })
    }
}

/// A caller with a key, or without one.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub(crate) address: SocketAddr,
    pub(crate) key: Option<String>,
    pub(crate) key_id: String,
    pub(crate) agent_id: String,
    pub(crate) agent_type: String,
}

impl Client {
    pub(crate) fn keyless(address: SocketAddr) -> Self {
        let [key_id, agent_id, agent_type] = [const { String::new() }; 3];
        Self { address, key: None, key_id, agent_id, agent_type }
    }

    pub(crate) fn new(address: SocketAddr, key: &str) -> Self {
        Self { key: Some(key.to_owned()), ..Self::keyless(address) }
    }

    pub(crate) fn named(self, agent_id: &str, agent_type: &str) -> Self {
        Self { agent_id: agent_id.to_owned(), agent_type: agent_type.to_owned(), ..self }
    }

    pub(crate) async fn get(&self, target: &str) -> Reply {
        self.send(Request::new("GET", target)).await
    }

    pub(crate) async fn delete(&self, target: &str) -> Reply {
        self.send(Request::new("DELETE", target)).await
    }

    pub(crate) async fn post(&self, target: &str, body: Value) -> Reply {
        self.send(Request::new("POST", target).json(&body)).await
    }

    /// A mutation that may be repeated.
    pub(crate) async fn post_once(&self, target: &str, idempotency_key: &str, body: Value) -> Reply {
        self.send(Request::new("POST", target).header("idempotency-key", idempotency_key).json(&body)).await
    }

    /// Sends a request with this client's key, if it has one.
    pub(crate) async fn send(&self, request: Request) -> Reply {
        let shown = format!("{} {}", request.method, request.target);
        self.try_send(request).await.unwrap_or_else(|| panic!("no answer to {shown}"))
    }

    /// As [`Self::send`]; none when the connection broke before a whole answer came.
    pub(crate) async fn try_send(&self, mut request: Request) -> Option<Reply> {
        if let Some(key) = &self.key {
            request = request.header("authorization", &format!("Bearer {key}"));
        }
        let exchange = exchange(self.address, request.bytes());
        tokio::time::timeout(TIMEOUT, exchange).await.expect("an answer in time")
    }

    // ------------------------------------------------- what tests do most

    pub(crate) async fn acquire(&self, file_path: &str) -> Reply {
        self.post("/locks/acquire", json!({"file_path": file_path})).await
    }

    pub(crate) async fn release(&self, file_path: &str) -> Reply {
        self.post("/locks/release", json!({"file_path": file_path})).await
    }

    /// Submits a task; the fields of `more` beside its type and description.
    pub(crate) async fn submit(&self, task_type: &str, more: Value) -> String {
        let mut body = json!({"task_type": task_type, "task_description": "look at the parser"});
        body.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
        let done = self.post("/work/submit", body).await.done();
        done["task_id"].as_str().unwrap().to_owned()
    }

    /// Claims a task of a type.
    pub(crate) async fn claim(&self, task_type: &str) -> Value {
        self.post("/work/claim", json!({"task_types": [task_type]})).await.ok()
    }

    /// A task as it stands.
    pub(crate) async fn task(&self, task_id: &str) -> Value {
        self.post("/work/get", json!({"task_id": task_id})).await.done()["task"].clone()
    }
}

async fn exchange(address: SocketAddr, request: Vec<u8>) -> Option<Reply> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let (mut reader, mut writer) = stream.split();
    let mut answer = Vec::new();
    // A service may answer before it has read a body that is too large.
    let (_, read) = tokio::join!(writer.write_all(&request), reader.read_to_end(&mut answer));
    drop(read);
    Reply::parse(&answer)
}
