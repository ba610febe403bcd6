//! Requests as they come over the wire, answered by a whole service in this process: the real component, a real store.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use jsonschema::Validator;
use portreeve::app::{App, Options};
use portreeve::clock::{ManualClock, SharedClock, Time};
use portreeve::command::catalogue::{CATALOGUE, Entry, entry_of_tool};
use portreeve::engine::Cage;
use portreeve::gate::Wanted;
use portreeve::http::{Origins, router};
use portreeve::vetting::Gates;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tower::ServiceExt;

use super::Outcome;

/// What a request may take that does not ask to wait.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Between two inputs time passes, so that locks and leases of earlier ones end, and no agent asks too often.
const STEP_SECONDS: i64 = 61;

const META_VERSION: &str = "io.modelcontextprotocol/protocolVersion";

/// What the SDK answers for what went wrong on this side.
const INTERNAL_ERROR: i64 = -32603;

static SERVICE: LazyLock<Service> = LazyLock::new(Service::start);

static OUTPUTS: LazyLock<BTreeMap<&'static str, Validator>> = LazyLock::new(|| {
    let schema = |entry: &Entry| jsonschema::validator_for(&entry.output_schema()).unwrap();
    CATALOGUE.iter().map(|entry| (entry.name, schema(entry))).collect()
});

struct Service {
    runtime: Runtime,
    app: Arc<App>,
    clock: Arc<ManualClock>,
    key: String,
    _folder: TempDir,
}

struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Service {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::at(Time::parse("2031-05-01T12:00:00Z").unwrap()));
        let options = Options {
            data: folder.path().to_owned(),
            database: None,
            new_admin_key: false,
            cache: Some(super::cache()),
            wanted: Wanted::own(),
            gates: Gates::default(),
            cage: Cage::default(),
            clock: Arc::clone(&clock) as SharedClock,
        };
        let app = runtime.block_on(App::open(options, &|_| ())).expect("a service");
        let key = std::fs::read_to_string(folder.path().join("admin.key")).unwrap().trim().to_owned();
        let mut service = Self { runtime, app, clock, key, _folder: folder };
        // An agent as there are many: it may do all but what is an operator's.
        let agent = json!({"agent_id": "agent-1", "agent_type": "claude_code", "profile": "claude_code_local"});
        let request = service.request(Method::POST, "/agents".parse().unwrap(), agent.to_string().into());
        let created: Value = serde_json::from_slice(&service.answer(request).body).unwrap();
        service.key = created["key"].as_str().expect("a key").to_owned();
        service
    }

    fn request(&self, method: Method, target: Uri, body: Bytes) -> Request<Full<Bytes>> {
        let request = Request::builder().method(method).uri(target).header("host", "localhost");
        let request =
            request.header("content-type", "application/json").header("authorization", format!("Bearer {}", self.key));
        request.body(Full::new(body)).unwrap()
    }

    fn answer(&self, request: Request<Full<Bytes>>) -> Reply {
        self.clock.advance_seconds(STEP_SECONDS);
        let router = router(Arc::clone(&self.app), Origins::new(Vec::new(), Ipv4Addr::LOCALHOST.into()));
        let answered = async {
            let (head, body) = router.oneshot(request).await.unwrap().into_parts();
            Reply { status: head.status, headers: head.headers, body: body.collect().await.unwrap().to_bytes() }
        };
        let timed = self.runtime.block_on(async { tokio::time::timeout(TIMEOUT, answered).await });
        timed.expect("an answer in time")
    }
}

impl Reply {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("no JSON: {error}: {:?}", self.body))
    }
}

/// Whether a body asks for what takes real time.
fn waits(value: &Value) -> bool {
    match value {
        Value::Object(map) => {
            map.get("wait_seconds").is_some_and(|seconds| !seconds.is_null()) || map.values().any(waits)
        }
        Value::Array(items) => items.iter().any(waits),
        _ => false,
    }
}

/// Method and target in the first line, the body in the others: whatever is asked is answered, in the shape that the contract
/// has for it, and never with a failure of the service.
pub fn http_request(data: &[u8]) -> Outcome {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (line, body) = (&data[..end], data.get(end + 1..).unwrap_or_default());
    let Some((method, target)) = std::str::from_utf8(line).ok().and_then(|line| line.split_once(' ')) else {
        return Outcome::Refused;
    };
    let (Ok(method), Ok(target)) = (method.parse::<Method>(), target.parse::<Uri>()) else { return Outcome::Refused };
    let is_waiting = serde_json::from_slice::<Value>(body).is_ok_and(|body| waits(&body));
    // MCP has a target of its own.
    if is_waiting || target.path() == "/mcp" {
        return Outcome::Refused;
    }
    let request = SERVICE.request(method.clone(), target.clone(), Bytes::copy_from_slice(body));
    let reply = SERVICE.answer(request);
    let (status, about) = (reply.status.as_u16(), format!("{method} {target}: {:?}", reply.body));
    assert!(!reply.header("x-request-id").is_empty(), "{about}");
    assert!([200, 403, 404, 405, 413, 422].contains(&status), "{status}, {about}");
    if method == Method::HEAD || target.path() == "/metrics" {
        return Outcome::accepted_if(status == 200);
    }
    let said = reply.json();
    if status == 200 {
        let entry =
            CATALOGUE.iter().find(|entry| entry.method.as_str() == method.as_str() && entry.path == target.path());
        if let Some(entry) = entry {
            check_output(entry, &said);
        }
        return Outcome::Accepted;
    }
    check_refusal(status, &said);
    assert_eq!(status == 405, !reply.header("allow").is_empty(), "{about}");
    Outcome::Refused
}

fn check_output(entry: &Entry, said: &Value) {
    let error = OUTPUTS[entry.name].iter_errors(said).next().map(|error| error.to_string());
    assert_eq!(error, None, "{entry:?} answers {said}");
}

fn check_refusal(status: u16, said: &Value) {
    let text = |field: &str| said[field].as_str().unwrap_or_default();
    assert!(said["success"] == false && !text("error").is_empty(), "{said}");
    match status {
        403 => {
            assert!(["denied", "identity_mismatch"].contains(&text("error")), "{said}");
            assert!(
                ["reason", "detail", "remedy", "decision_id"].into_iter().all(|field| !text(field).is_empty()),
                "{said}"
            );
            assert!(said["policy"]["epoch"].is_i64() && said["policy"]["component"].is_string(), "{said}");
        }
        422 => {
            assert_eq!(text("error"), "invalid_request", "{said}");
            let problems = said["detail"].as_array().expect("a list of problems");
            assert!(!problems.is_empty(), "{said}");
            for problem in problems {
                assert!(problem["loc"].is_array() && problem["type"].is_string(), "{said}");
                assert!(problem["msg"].as_str().is_some_and(|msg| !msg.is_empty()), "{said}");
            }
        }
        _ => assert!(!text("detail").is_empty(), "{said}"),
    }
}

/// A message to the MCP endpoint: answered by JSON-RPC, under its own identifier, and never with a failure of the service.
pub fn mcp_frame(data: &[u8]) -> Outcome {
    let message = serde_json::from_slice::<Value>(data).unwrap_or_default();
    if waits(&message) {
        return Outcome::Refused;
    }
    let mut request = SERVICE.request(Method::POST, Uri::from_static("/mcp"), Bytes::copy_from_slice(data));
    let headers = request.headers_mut();
    headers.insert("accept", "application/json, text/event-stream".parse().unwrap());
    let text = |pointer: &str| message.pointer(pointer).and_then(Value::as_str);
    let revision = message.pointer("/params/_meta").and_then(|meta| meta.get(META_VERSION)).and_then(Value::as_str);
    let method = revision.and(text("/method"));
    let name = revision.and(text("/params/name").or(text("/params/uri")));
    for (header, value) in [("mcp-protocol-version", revision), ("mcp-method", method), ("mcp-name", name)] {
        if let Some(value) = value.and_then(|value| value.parse().ok()) {
            headers.insert(header, value);
        }
    }
    let reply = SERVICE.answer(request);
    let (status, about) = (reply.status.as_u16(), format!("{message} is answered {:?}", reply.body));
    assert!([200, 202, 400, 404, 405, 406, 415, 422].contains(&status), "{status}, {about}");
    let answers = messages(&reply);
    assert!(status == 202 || !answers.is_empty() || message["method"] == "notifications/cancelled", "{about}");
    let mut has_result = false;
    for answer in answers {
        assert_eq!(answer["jsonrpc"], "2.0", "{about}");
        let has_error = answer.get("error").is_some();
        if answer.get("method").is_some() {
            continue;
        }
        assert!(has_error != answer.get("result").is_some(), "{about}");
        match answer.get("id") {
            None | Some(Value::Null) => assert!(has_error, "an answer to nobody: {about}"),
            Some(id) => assert_eq!(Some(id), message.get("id"), "{about}"),
        }
        if has_error {
            let (code, text) = (answer["error"]["code"].as_i64(), answer["error"]["message"].as_str());
            assert!(code.is_some_and(|code| code != INTERNAL_ERROR), "{about}");
            assert!(text.is_some_and(|text| !text.is_empty()), "{about}");
        } else {
            has_result |= answer["result"]["isError"] != true;
            check_result(&message, &answer["result"]);
        }
    }
    Outcome::accepted_if(has_result)
}

/// The messages of an answer: one as JSON, or each event of a stream.
fn messages(reply: &Reply) -> Vec<Value> {
    if reply.body.is_empty() {
        return Vec::new();
    }
    if !reply.header("content-type").starts_with("text/event-stream") {
        return vec![reply.json()];
    }
    let text = std::str::from_utf8(&reply.body).expect("a stream of text");
    let data = text.lines().filter_map(|line| line.strip_prefix("data:")).map(str::trim);
    data.filter(|data| !data.is_empty()).map(|data| serde_json::from_str(data).expect("an event is JSON")).collect()
}

/// What a tool answers is what it is said to answer.
fn check_result(message: &Value, result: &Value) {
    if message["method"] != "tools/call" {
        return;
    }
    let Some(entry) = message.pointer("/params/name").and_then(Value::as_str).and_then(entry_of_tool) else { return };
    let said = &result["structuredContent"];
    if result["isError"] == true {
        assert!(said["success"] == false && said["error"].is_string(), "{result}");
    } else {
        check_output(entry, said);
    }
}
