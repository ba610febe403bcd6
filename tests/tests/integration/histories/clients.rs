//! Clients that work on a few locks and tasks at once, over HTTP and MCP, and note what they asked and were told.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use portreeve::clock::{Clock, SystemClock, Time};
use serde_json::{Value, json};
use tests::history::{Answer, Call, Op};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::script::{Intent, Kind, Script};
use crate::harness::mcp::{message, old};
use crate::harness::{Client, Reply, Request};

/// After so long without an answer a client goes on with something else.
const PATIENCE: Duration = Duration::from_secs(2);

/// What all clients of a run share.
pub(crate) struct Desk {
    /// Where time is counted from.
    start: Instant,
    /// Where each host is at the moment.
    pub(crate) doors: Mutex<Vec<SocketAddr>>,
    pub(crate) calls: Mutex<Vec<Call>>,
    /// Names of tasks that somebody was told of.
    tasks: Mutex<Vec<String>>,
    pub(crate) failure: Failure,
    /// The clients have worked enough.
    pub(crate) is_over: AtomicBool,
    /// How often somebody was told that there is no storage.
    pub(crate) unavailable: AtomicUsize,
}

/// What a call came to that was told that there is no storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It did nothing.
    Nothing,
    /// It did its work before this was told, or never will.
    Settled,
    /// It may be at work: the database goes on with what it was asked when the connection broke.
    Open,
}

impl Desk {
    pub(crate) fn new(doors: Vec<SocketAddr>, failure: Failure) -> Arc<Self> {
        Arc::new(Self {
            start: Instant::now(),
            doors: Mutex::new(doors),
            calls: Mutex::default(),
            tasks: Mutex::default(),
            failure,
            is_over: AtomicBool::new(false),
            unavailable: AtomicUsize::new(0),
        })
    }

    /// Microseconds of the run.
    pub(crate) fn now_us(&self) -> i64 {
        i64::try_from(self.start.elapsed().as_micros()).unwrap()
    }

    pub(crate) fn tasks(&self) -> Vec<String> {
        self.tasks.lock().unwrap().clone()
    }
}

/// The machine's clock, which the test's process has without faults.
fn wall_us() -> i64 {
    SystemClock::default().now().as_micros()
}

/// One client: an agent's key, and a way to call.
pub(crate) struct Worker {
    pub(crate) name: String,
    pub(crate) client: Client,
    pub(crate) is_mcp: bool,
    pub(crate) desk: Arc<Desk>,
    known: Known,
    count: usize,
}

/// What a client was told and may use.
#[derive(Default)]
struct Known {
    tokens: Vec<(String, i64)>,
    claims: Vec<(String, String)>,
}

/// So many of the newest are remembered: some of them are in force, others are not any more.
const REMEMBERED: usize = 4;

fn remember<T>(all: &mut Vec<T>, one: T) {
    all.push(one);
    if all.len() > REMEMBERED {
        all.remove(0);
    }
}

fn pick<T: Clone>(all: &[T], pick: usize) -> Option<T> {
    // The newest more often than not.
    let back = [0, 0, 0, 1, 0, 2, 0, 1, 3, 0].get(pick % 10).copied().unwrap_or(0);
    all.len().checked_sub(1 + back.min(all.len().saturating_sub(1))).and_then(|at| all.get(at)).cloned()
}

impl Worker {
    pub(crate) fn new(name: String, client: Client, is_mcp: bool, desk: Arc<Desk>) -> Self {
        Self { name, client, is_mcp, desk, known: Known::default(), count: 0 }
    }

    /// Does what its script says, until it is over.
    pub(crate) async fn work(mut self, mut script: Script) -> Self {
        while !self.desk.is_over.load(Ordering::Relaxed) {
            let intent = script.next();
            if let Some(op) = self.choose(&intent) {
                self.call(op, intent.host, intent.cut).await;
            }
            tokio::time::sleep(intent.pause).await;
        }
        self
    }

    /// The call that an intent comes to; none when nothing is known that it needs.
    fn choose(&self, intent: &Intent) -> Option<Op> {
        let key = intent.key.to_owned();
        let (ttl_minutes, lease_seconds) = (intent.ttl_minutes, intent.lease_seconds);
        let token = || pick(&self.known.tokens, intent.pick);
        let claim = || pick(&self.known.claims, intent.pick);
        let task = || {
            let all = self.desk.tasks.lock().unwrap();
            // One of the newest, which others work on as well.
            let newest = all.get(all.len().saturating_sub(6)..)?;
            newest.get(intent.pick % newest.len().max(1)).cloned()
        };
        Some(match intent.kind {
            Kind::Acquire => Op::Acquire { key, ttl_minutes },
            Kind::Renew => token().map(|(key, token)| Op::Renew { key, token, ttl_minutes })?,
            Kind::Release => {
                token().map(|(key, token)| Op::Release { key, token: Some(token).filter(|_| intent.names_token) })?
            }
            Kind::Verify => token().map(|(key, token)| Op::Verify { key, token })?,
            Kind::Status => Op::Status { key },
            Kind::ForceRelease => Op::ForceRelease { key },
            Kind::Submit => Op::Submit {
                task: format!("{}-{}", self.name, self.count),
                task_type: intent.task_type.to_owned(),
                max_attempts: intent.max_attempts,
            },
            Kind::Claim => Op::Claim { task_type: intent.task_type.to_owned(), lease_seconds },
            Kind::Heartbeat => {
                claim().map(|(task_id, claim_token)| Op::Heartbeat { task_id, claim_token, lease_seconds })?
            }
            Kind::Complete => {
                let success = intent.is_success;
                claim().map(|(task_id, claim_token)| Op::Complete { task_id, claim_token, success })?
            }
            Kind::Cancel => Op::Cancel { task_id: task()? },
            Kind::Get => Op::Get { task_id: task()? },
        })
    }

    /// Calls, and notes it.
    pub(crate) async fn call(&mut self, op: Op, host: usize, cut: Option<Duration>) -> Option<Answer> {
        let id = format!("{}-{}", self.name, self.count);
        self.count += 1;
        let address = self.desk.doors.lock().unwrap()[host];
        let client = Client { address, ..self.client.clone() };
        let request = if self.is_mcp { as_tool(&op) } else { as_request(&op) }.header("x-request-id", &id);
        let (invoked_us, wall_invoked_us) = (self.desk.now_us(), wall_us());
        // Whoever gives up closes the connection.
        let sent = tokio::time::timeout(cut.unwrap_or(PATIENCE), send(&client, request)).await;
        let (answer, is_settled) = match sent.unwrap_or(Sent::Unanswered) {
            Sent::Answered(reply) => (self.read(&op, reply), self.desk.failure != Failure::Open),
            Sent::Unanswered => (None, false),
            Sent::Nowhere => (Some(Answer::Failed), false),
        };
        let (returned_us, wall_returned_us) = (self.desk.now_us(), wall_us());
        if let Some(answer) = &answer {
            self.learn(&op, answer);
        }
        let call = Call {
            id,
            client: self.name.clone(),
            agent: self.client.agent_id.clone(),
            host,
            surface: if self.is_mcp { "mcp" } else { "http" }.to_owned(),
            invoked_us,
            returned_us,
            wall_invoked_us,
            wall_returned_us,
            op,
            answer: answer.clone(),
            settled_us: (answer.is_none() && is_settled).then_some(returned_us),
            logged: None,
        };
        self.desk.calls.lock().unwrap().push(call);
        answer
    }

    /// What a reply tells; none when it does not tell what was done.
    fn read(&self, op: &Op, reply: Reply) -> Option<Answer> {
        let (status, body) = if self.is_mcp && reply.status == 200 {
            let result = &reply.body["result"];
            let body = result["structuredContent"].clone();
            assert!(body.is_object(), "no result: {}", reply.body);
            let failed = result["isError"] == true;
            (
                if failed && body["error"] == "storage_unavailable" {
                    503
                } else if failed {
                    500
                } else {
                    200
                },
                body,
            )
        } else {
            (reply.status, reply.body)
        };
        match status {
            200 => Some(read(op, &body)),
            503 => {
                assert_eq!(body["error"], "storage_unavailable", "{op:?}: {body}");
                self.desk.unavailable.fetch_add(1, Ordering::Relaxed);
                (self.desk.failure == Failure::Nothing).then_some(Answer::Failed)
            }
            status => panic!("{op:?} was answered {status}: {body}"),
        }
    }

    fn learn(&mut self, op: &Op, answer: &Answer) {
        match (op.key(), answer) {
            (Some(key), Answer::Granted { token, .. }) => remember(&mut self.known.tokens, (key.to_owned(), *token)),
            (_, Answer::Submitted { task_id }) => self.desk.tasks.lock().unwrap().push(task_id.clone()),
            (_, Answer::Claimed { task_id, claim_token, .. }) => {
                remember(&mut self.known.claims, (task_id.clone(), claim_token.clone()));
                let mut tasks = self.desk.tasks.lock().unwrap();
                if !tasks.contains(task_id) {
                    tasks.push(task_id.clone());
                }
            }
            _ => {}
        }
    }
}

/// What became of a request.
enum Sent {
    Answered(Reply),
    /// It may have arrived.
    Unanswered,
    /// Nobody listens there: it was not sent.
    Nowhere,
}

async fn send(client: &Client, request: Request) -> Sent {
    let Ok(mut stream) = TcpStream::connect(client.address).await else { return Sent::Nowhere };
    let key = format!("Bearer {}", client.key.as_deref().unwrap());
    let bytes = request.header("authorization", &key).bytes();
    let mut answer = Vec::new();
    if stream.write_all(&bytes).await.is_ok() {
        // What came until the connection broke may be a whole answer.
        drop(stream.read_to_end(&mut answer).await);
    }
    Reply::parse(&answer).map_or(Sent::Unanswered, Sent::Answered)
}

/// The tool, the path, and the fields of a call.
fn parts(op: &Op) -> (&'static str, &'static str, Value) {
    match op {
        Op::Acquire { key, ttl_minutes } => {
            ("acquire_lock", "/locks/acquire", json!({"file_path": key, "ttl_minutes": ttl_minutes}))
        }
        Op::Renew { key, token, ttl_minutes } => {
            let fields = json!({"file_path": key, "fencing_token": token, "ttl_minutes": ttl_minutes});
            ("renew_lock", "/locks/renew", fields)
        }
        Op::Release { key, token } => {
            ("release_lock", "/locks/release", json!({"file_path": key, "fencing_token": token}))
        }
        Op::Verify { key, token } => {
            ("verify_lock", "/locks/verify", json!({"file_path": key, "fencing_token": token}))
        }
        Op::Status { key } => ("check_locks", "/locks/status/", json!({"file_paths": [key]})),
        Op::ForceRelease { key } => ("force_release_lock", "/locks/", json!({"file_path": key})),
        Op::Submit { task, task_type, max_attempts } => {
            let fields = json!({"task_type": task_type, "task_description": task, "max_attempts": max_attempts});
            ("submit_work", "/work/submit", fields)
        }
        Op::Claim { task_type, lease_seconds } => {
            ("get_work", "/work/claim", json!({"task_types": [task_type], "lease_seconds": lease_seconds}))
        }
        Op::Heartbeat { task_id, claim_token, lease_seconds } => {
            let fields = json!({"task_id": task_id, "claim_token": claim_token, "lease_seconds": lease_seconds});
            ("heartbeat_work", "/work/heartbeat", fields)
        }
        Op::Complete { task_id, claim_token, success } => {
            let fields = json!({"task_id": task_id, "claim_token": claim_token, "success": success});
            ("complete_work", "/work/complete", fields)
        }
        Op::Cancel { task_id } => ("cancel_work", "/work/cancel", json!({"task_id": task_id})),
        Op::Get { task_id } => ("get_task", "/work/get", json!({"task_id": task_id})),
    }
}

fn as_tool(op: &Op) -> Request {
    let (tool, _, arguments) = parts(op);
    old(&message(1, "tools/call", json!({"name": tool, "arguments": arguments})))
}

fn as_request(op: &Op) -> Request {
    let (_, path, fields) = parts(op);
    match op {
        Op::Status { key } => Request::new("GET", &format!("{path}{}", key.replace(' ', "%20"))),
        Op::ForceRelease { key } => Request::new("DELETE", &format!("{path}{}", key.replace(' ', "%20"))),
        _ => Request::new("POST", path).json(&fields),
    }
}

// ------------------------------------------------------------ what is answered

fn text(body: &Value, field: &str) -> String {
    body[field].as_str().unwrap_or_else(|| panic!("no text `{field}`: {body}")).to_owned()
}

fn number(body: &Value, field: &str) -> i64 {
    body[field].as_i64().unwrap_or_else(|| panic!("no number `{field}`: {body}"))
}

fn instant(body: &Value, field: &str) -> i64 {
    Time::parse(&text(body, field)).unwrap_or_else(|error| panic!("{error}: {body}")).as_micros()
}

/// The answer of a 200, which the log has as well. What is none fails the test.
pub(crate) fn read(op: &Op, body: &Value) -> Answer {
    let succeeded = body["success"] == true;
    match (op, body["reason"].as_str()) {
        (Op::Acquire { .. } | Op::Renew { .. }, _) if succeeded => grant(body),
        (Op::Acquire { .. }, Some("locked_by_other")) => {
            Answer::Blocked { by: text(body, "locked_by"), expires_at: instant(body, "expires_at") }
        }
        (Op::Renew { .. } | Op::Release { .. }, Some("lock_not_found_or_not_owner")) => Answer::NotOwner,
        (Op::Release { .. }, _) if succeeded => Answer::Released,
        (Op::Verify { .. }, _) => Answer::Verified { valid: body["valid"].as_bool().unwrap() },
        (Op::Status { .. }, _) => status(body),
        (Op::ForceRelease { .. }, _) => {
            let by = body["prior_holder_agent_id"].as_str().map(str::to_owned);
            assert_eq!(body["released"], by.is_some(), "{body}");
            Answer::Forced { by }
        }
        (Op::Submit { .. }, _) if succeeded => Answer::Submitted { task_id: text(body, "task_id") },
        (Op::Claim { .. }, _) if succeeded => Answer::Claimed {
            task_id: text(body, "task_id"),
            task: text(body, "description"),
            claim_token: text(body, "claim_token"),
            expires_at: instant(body, "lease_expires_at"),
            attempt: number(body, "attempt"),
        },
        (Op::Claim { .. }, Some("no_tasks_available")) => Answer::NothingToClaim,
        (Op::Heartbeat { .. }, _) if succeeded => Answer::Beat { expires_at: instant(body, "lease_expires_at") },
        (Op::Heartbeat { .. } | Op::Complete { .. }, Some("task_not_found_or_not_claimed_by_agent")) => Answer::NotHeld,
        (Op::Complete { .. } | Op::Cancel { .. }, _) if succeeded => Answer::Ended { status: text(body, "status") },
        (Op::Cancel { .. }, Some("task_already_final")) => Answer::AlreadyFinal,
        (Op::Get { .. } | Op::Cancel { .. }, Some("task_not_found")) => Answer::Missing,
        (Op::Get { .. }, _) if succeeded => task(&body["task"]),
        _ => panic!("{op:?} was answered {body}"),
    }
}

fn grant(body: &Value) -> Answer {
    let (token, expires_at) = (number(body, "fencing_token"), instant(body, "expires_at"));
    match body["action"].as_str() {
        Some("acquired") => Answer::Granted { token, expires_at },
        Some("refreshed") => Answer::Refreshed { token, expires_at },
        _ => panic!("neither acquired nor refreshed: {body}"),
    }
}

/// Of one lock, or of a list of at most one.
fn status(body: &Value) -> Answer {
    let lock = body["locks"].as_array().map_or(&body["lock"], |locks| locks.first().unwrap_or(&Value::Null));
    if lock.is_null() {
        return Answer::Free;
    }
    Answer::Held {
        by: text(lock, "locked_by"),
        token: number(lock, "fencing_token"),
        expires_at: instant(lock, "expires_at"),
    }
}

fn task(task: &Value) -> Answer {
    let is_claimed = task["status"] == "claimed";
    Answer::Task {
        status: text(task, "status"),
        attempts: number(task, "attempt_count"),
        by: is_claimed.then(|| text(task, "claimed_by")),
        expires_at: is_claimed.then(|| instant(task, "lease_expires_at")),
    }
}
