//! Every operation over every surface: the same answer, and the same row in the audit log.
//!
//! Each case runs on a store of its own that is made the same way, so whatever differs, differs by the surface. What
//! cannot be the same (identifiers, times, keys) is masked, and nothing else.
//!
//! GATE, AUDIT, TRUST: whichever way a request comes, the same is decided, for the same reason, and recorded.

use std::process::Stdio;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use portreeve::command::catalogue::{CATALOGUE, Entry};
use portreeve::command::input::{Field, Kind};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

use crate::harness::masks::Masks;
use crate::harness::process::binary;
use crate::harness::state::{audit_json, connect};
use crate::harness::{Request, Server, Setup, cache_dir};
use crate::samples::{Scene, sample_of};

/// A way to the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Surface {
    Http,
    McpHttp,
    /// `portreeve mcp` before a server.
    McpUrl,
    /// `portreeve mcp` on the data folder, beside the server.
    McpData,
    CliUrl,
    CliData,
}

/// All but HTTP, which the others are held against.
const OTHERS: [Surface; 5] = [Surface::McpHttp, Surface::McpUrl, Surface::McpData, Surface::CliUrl, Surface::CliData];

/// What one call came to: whether it was refused, what was answered, and what was recorded.
#[derive(Debug, PartialEq)]
struct Seen {
    is_refusal: bool,
    body: Value,
    rows: Vec<Value>,
}

impl Surface {
    /// Whether the operation is offered here. Agents and their keys are no tools: a key that a tool answers would stand
    /// in a model's context. On a data folder those who manage agents act as the admin, and so as another agent than here.
    fn offers(self, entry: &Entry) -> bool {
        match self {
            Self::McpHttp => entry.tool.is_some(),
            // Whoever asks for the log sees in it how the session began.
            Self::McpUrl | Self::McpData => entry.tool.is_some() && entry.name != "audit_query",
            Self::Http | Self::CliUrl => true,
            Self::CliData => hand_made(entry.name).is_none(),
        }
    }

    async fn call(self, scene: &Scene, entry: &'static Entry, input: &Value) -> Seen {
        let seq = scene.server.last_seq().await;
        let (is_refusal, body) = match self {
            Self::Http => {
                let reply = scene.actor.send(scene.request(entry, input)).await;
                (reply.status >= 400, reply.body)
            }
            Self::McpHttp => mcp_http(scene, entry, input).await,
            Self::McpUrl | Self::McpData => mcp_stdio(self, scene, entry, input).await,
            Self::CliUrl | Self::CliData => command_line(self, scene, entry, input).await,
        };
        let mut masks = Masks::default();
        let body = masks.value(&body);
        let mut rows = rows(scene, seq, &mut masks).await;
        if matches!(self, Self::McpUrl | Self::McpData) {
            // Whether the agent is known is asked before the session begins.
            assert_eq!(rows.remove(0)["command"], "profile_me");
        }
        Seen { is_refusal, body, rows }
    }
}

// ---------------------------------------------------------------- the ways

fn url(scene: &Scene) -> String {
    format!("http://{}", scene.actor.address)
}

fn tool_call(entry: &Entry, input: Value) -> Value {
    let name = entry.tool.unwrap().name;
    json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": name, "arguments": input}})
}

fn result_of(message: &Value) -> (bool, Value) {
    let result = &message["result"];
    assert!(result.is_object(), "{message}");
    let text: Value = serde_json::from_str(result["content"][0]["text"].as_str().unwrap()).unwrap();
    assert_eq!(text, result["structuredContent"], "text and structure say the same");
    (result["isError"] == json!(true), result["structuredContent"].clone())
}

async fn mcp_http(scene: &Scene, entry: &Entry, input: &Value) -> (bool, Value) {
    let request = Request::new("POST", "/mcp")
        .header("accept", "application/json, text/event-stream")
        .header("mcp-protocol-version", "2025-11-25")
        .json(&tool_call(entry, scene.filled(input)));
    result_of(&scene.actor.send(request).await.ok())
}

/// The arguments that lead a command to the scene's service as its actor.
fn place(surface: Surface, scene: &Scene) -> Vec<String> {
    match surface {
        Surface::McpUrl | Surface::CliUrl => vec!["--url".to_owned(), url(scene)],
        _ => {
            let data = scene.server.data().to_string_lossy().into_owned();
            ["--data", &data, "--agent", &scene.actor.agent_id].map(str::to_owned).into()
        }
    }
}

fn command(surface: Surface, scene: &Scene) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(binary());
    command.env_clear().env("PORTREEVE_CACHE", cache_dir()).env("HOME", scene.server.data());
    if matches!(surface, Surface::McpUrl | Surface::CliUrl) {
        command.env("PORTREEVE_API_KEY", scene.actor.key.as_deref().unwrap());
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true);
    command
}

async fn mcp_stdio(surface: Surface, scene: &Scene, entry: &Entry, input: &Value) -> (bool, Value) {
    let mut child = command(surface, scene).arg("mcp").args(place(surface, scene)).spawn().unwrap();
    let (mut stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let hello = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "surfaces", "version": "0"},
    }});
    let ready = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    for message in [hello, ready, tool_call(entry, scene.filled(input))] {
        stdin.write_all(format!("{message}\n").as_bytes()).await.unwrap();
    }
    let mut lines = BufReader::new(stdout).lines();
    let answer = loop {
        let line = lines.next_line().await.unwrap().expect("an answer before the end");
        let message: Value = serde_json::from_str(&line).expect("stdout holds frames only");
        if message["id"] == 7 {
            break message;
        }
    };
    drop(stdin);
    assert!(child.wait().await.unwrap().success(), "it ends well when its input ends");
    result_of(&answer)
}

/// An input as the command line takes it: what is required by its place, the rest by its name.
fn words(entry: &Entry, input: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    if let Some(line) = hand_made(entry.name) {
        let filled = line.iter().filter_map(|word| match word.strip_prefix('=') {
            Some("component") => input.get("component").map(file_of),
            Some(field) => input.get(field).map(text),
            None => Some((*word).to_owned()),
        });
        return filled.collect();
    }
    // `policy check` is about a policy's text; the policy in force is asked.
    let name = if entry.name == "policy_check" { "policy_ask" } else { entry.name };
    let (noun, verb) = name.split_once('_').unwrap();
    let mut words = vec![noun.to_owned(), verb.replace('_', "-")];
    for field in entry.input {
        let Some(value) = input.get(field.name) else { continue };
        let values = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        // What is required has its place, but for a truth: nobody knows what a lone `true` is about.
        let by_place = field.required && field.kind != Kind::Bool;
        let option = format!("--{}=", field.name.replace('_', "-"));
        words.extend(values.iter().map(text).map(|word| if by_place { word } else { format!("{option}{word}") }));
    }
    words
}

/// The command line names a file, where the other surfaces have its bytes.
fn file_of(component: &Value) -> String {
    let bytes = STANDARD.decode(component.as_str().unwrap()).unwrap();
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("pushed-{}.wasm", std::process::id()));
    std::fs::write(&path, bytes).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Operations whose commands are made by hand; `=field` stands for the input's.
fn hand_made(name: &str) -> Option<&'static [&'static str]> {
    match name {
        "agent_create" => Some(&["agent", "add", "=agent_id", "--type", "=agent_type", "--profile", "=profile"]),
        "agent_list" => Some(&["agent", "list"]),
        "agent_key_create" => Some(&["agent", "key", "=id", "new", "--label", "=label"]),
        "agent_key_revoke" => Some(&["agent", "key", "=id", "revoke", "=key_id"]),
        "agent_profile" => Some(&["agent", "profile", "=id", "=profile"]),
        "agent_suspend" => Some(&["agent", "suspend", "=id"]),
        "audit_query" => Some(&["audit", "query", "--limit", "=limit"]),
        "component_upload" => Some(&["policy", "push", "=component"]),
        "component_list" => Some(&["policy", "list", "--limit", "=limit"]),
        "component_get" => Some(&["policy", "show", "=digest"]),
        "component_activate" => Some(&["policy", "activate", "=digest", "--expected-epoch", "=expected_epoch"]),
        "component_shadow" => Some(&["policy", "shadow", "=digest"]),
        "component_report" => Some(&["policy", "report", "=digest"]),
        _ => None,
    }
}

async fn command_line(surface: Surface, scene: &Scene, entry: &Entry, input: &Value) -> (bool, Value) {
    let mut command = command(surface, scene);
    command.arg("--json").args(words(entry, &scene.filled(input))).args(place(surface, scene));
    let output = command.output().await.unwrap();
    let code = output.status.code().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let body: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{command:?} printed {text:?}"));
    let is_refusal = body.get("error").is_some_and(Value::is_string) && body["success"] == json!(false);
    assert_eq!(is_refusal, code == 1 || code == 3, "{command:?} ended with {code}: {body}");
    (is_refusal, body)
}

// --------------------------------------------------------------- comparing

/// What the log says of a call, without what differs from run to run.
async fn rows(scene: &Scene, seq: i64, masks: &mut Masks) -> Vec<Value> {
    let mut conn = connect(scene.server.data()).await;
    audit_json(&mut conn, seq).await.iter().map(|row| masks.row(row)).collect()
}

async fn scene(profile: &str) -> Scene {
    Scene::set(Server::start_with(Setup::default()).await, profile).await
}

/// One call on a store of its own. The service is stopped at once: each holds address space for its component's
/// instances, and all of them together would need more than there is.
async fn call_on(surface: Surface, entry: &'static Entry, profile: &str, input: &Value) -> Seen {
    let scene = scene(profile).await;
    let seen = surface.call(&scene, entry, input).await;
    drop(scene.server.stop().await);
    seen
}

/// Runs one case over HTTP and over all other surfaces, each on a store of its own.
async fn compare(entry: &'static Entry, profile: &str, input: &Value) {
    compare_on(&OTHERS, entry, profile, input).await;
}

async fn compare_on(surfaces: &[Surface], entry: &'static Entry, profile: &str, input: &Value) {
    let expected = call_on(Surface::Http, entry, profile, input).await;
    assert_eq!(expected.rows.len(), usize::from(!is_unread(&expected)), "{entry:?}: {expected:#?}");
    for surface in surfaces.iter().copied().filter(|surface| surface.offers(entry)) {
        let seen = call_on(surface, entry, profile, input).await;
        pretty_assertions(entry, surface, &expected, &seen);
    }
}

/// What is not understood was never decided about, and leaves no row.
fn is_unread(seen: &Seen) -> bool {
    seen.body["error"] == json!("invalid_request") && seen.rows.is_empty()
}

#[track_caller]
fn pretty_assertions(entry: &Entry, surface: Surface, expected: &Seen, seen: &Seen) {
    let shown = |seen: &Seen| {
        let rows = serde_json::to_string_pretty(&seen.rows).unwrap();
        format!("refused: {}\n{}\n{rows}", seen.is_refusal, serde_json::to_string_pretty(&seen.body).unwrap())
    };
    let (left, right) = (shown(expected), shown(seen));
    let differing: Vec<(&str, &str)> = left.lines().zip(right.lines()).filter(|(a, b)| a != b).collect();
    assert!(left == right, "{entry:?} over {surface:?} differs from HTTP in {differing:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_answers_and_records_the_same_on_every_surface() {
    for entry in CATALOGUE {
        let sample = sample_of(entry);
        // The command that lists agents always asks for as many as there may be.
        let input = if entry.name == "agent_list" { json!({"limit": "1000"}) } else { sample.input };
        compare(entry, sample.fit, &input).await;
    }
    let tools = CATALOGUE.iter().filter(|entry| entry.tool.is_some()).count();
    assert!(tools >= 27, "{tools}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_is_the_same_on_every_surface() {
    for entry in CATALOGUE {
        let sample = sample_of(entry);
        let Some((unfit, _)) = sample.unfit else { continue };
        let input = if entry.name == "agent_list" { json!({"limit": "1000"}) } else { sample.input };
        compare(entry, unfit, &input).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_told_the_same_on_every_surface() {
    for entry in CATALOGUE {
        let sample = sample_of(entry);
        if sample.bad.is_null() {
            continue;
        }
        // What is missing, or no word of its command, is found by the command line already.
        let is_missing = entry.input.iter().any(|field| field.required && sample.bad.get(field.name).is_none());
        // And a command line knows no types: a number is a name there.
        let is_typed =
            |field: &Field| !field.kind.is_list() && !matches!(field.kind, Kind::Int(..) | Kind::Bool | Kind::Ratio);
        let mistyped =
            entry.input.iter().filter(|field| is_typed(field)).filter_map(|field| sample.bad.get(field.name));
        let is_missing = is_missing || mistyped.into_iter().any(|value| !value.is_string());
        let (mcp, all) = (&OTHERS[..3], &OTHERS[..]);
        let surfaces = if is_missing || hand_made(entry.name).is_some() { mcp } else { all };
        compare_on(surfaces, entry, sample.fit, &sample.bad).await;
    }
}
