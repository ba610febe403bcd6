//! `portreeve mcp`: the real binary at a client's pipes, on a data folder and before a server.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::process::Command;

use crate::harness::mcp::{NEW, OLD, Pipes, command, message, notification, own_meta};
use crate::harness::{Client, Server, Setup};

/// A server on the machine's time, since another process works on the same store.
async fn server() -> (Server, Client) {
    let server = Server::start_with(Setup::default()).await;
    let agent = server.agent("agent", "claude_code_local").await;
    (server, agent)
}

fn on_folder(server: &Server, agent: &str) -> Command {
    command(&["--data", &server.data().to_string_lossy(), "--agent", agent], server.data())
}

fn before_server(agent: &Client, home: &Path) -> Command {
    let mut command = command(&["--url", &format!("http://{}", agent.address)], home);
    command.env("PORTREEVE_API_KEY", agent.key.as_deref().unwrap());
    command
}

fn by_key(server: &Server, agent: &Client) -> Command {
    let mut command = command(&["--data", &server.data().to_string_lossy()], server.data());
    command.env("PORTREEVE_API_KEY", agent.key.as_deref().unwrap());
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_tools_over_every_pipe() {
    let (server, agent) = server().await;
    let listed = agent.send(crate::harness::mcp::old(&message(1, "tools/list", json!({})))).await.result();
    for make in [on_folder(&server, "agent"), by_key(&server, &agent), before_server(&agent, server.data())] {
        let mut pipes = Pipes::begun(make).await;
        assert_eq!(pipes.ask("tools/list", json!({})).await["result"]["tools"], listed["tools"]);
        let seq = server.last_seq().await;
        let granted = pipes.tool("acquire_lock", json!({"file_path": "src/a.rs", "session_id": null})).await;
        assert_eq!(granted["structuredContent"]["locked_by"], "agent", "{granted}");
        let line = server.only_line_after(seq).await;
        assert_eq!(json!(line.request_id), granted["_meta"]["portreeve/requestId"]);
        let denied = pipes.tool("force_release_lock", json!({"path": "../x"})).await;
        assert_eq!(denied["isError"], true);
        let locks = pipes.tool("check_locks", json!({"file_paths": ["src/a.rs", "src/b.rs"], "prefix": null})).await;
        assert_eq!(locks["structuredContent"]["count"], 1, "{locks}");
        let read = pipes.ask("resources/read", json!({"uri": "locks://current"})).await;
        assert!(read["result"]["contents"][0]["text"].as_str().unwrap().contains("`src/a.rs`"), "{read}");
        assert_eq!(pipes.ask("no/such", json!({})).await["error"]["code"], -32601);
        assert_eq!(pipes.ask("tools/call", json!({"name": "nothing"})).await["error"]["code"], -32602);
        pipes.close();
        let (code, frames, told) = pipes.ended().await;
        assert_eq!((code, frames, told.as_str()), (0, vec![], ""));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_revision_needs_no_greeting() {
    let (server, _agent) = server().await;
    let mut pipes = Pipes::open(on_folder(&server, "agent"));
    let found = pipes.ask("server/discover", json!({"_meta": own_meta(NEW)})).await;
    assert_eq!(found["result"]["supportedVersions"], json!([OLD[0], OLD[1], NEW]));
    let unsupported = pipes.ask("tools/list", json!({"_meta": own_meta("2031-01-01")})).await;
    assert_eq!(unsupported["error"]["code"], -32022, "{unsupported}");
    let call = json!({"name": "check_locks", "arguments": {}, "_meta": own_meta(NEW)});
    let answer = pipes.ask("tools/call", call).await;
    assert_eq!((&answer["result"]["resultType"], &answer["result"]["isError"]), (&json!("complete"), &json!(false)));
    pipes.close();
    assert_eq!(pipes.ended().await.0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_message_is_passed_over() {
    let (server, _agent) = server().await;
    let mut pipes = Pipes::open(on_folder(&server, "agent"));
    // Before anything was agreed on, and after.
    for greeted in [false, true] {
        if greeted {
            pipes.say(&crate::harness::mcp::hello(OLD[0])).await;
        }
        pipes.write(b"\n\r\n{\"jsonrpc\": \n\xff\xfe\x00\n\"text\"\n").await;
        pipes.write(&[b"[".repeat(100_000), b"\n".to_vec()].concat()).await;
        // Many times what is read, in one line.
        for _ in 0..64 {
            pipes.write(&b"x".repeat(1 << 20)).await;
        }
        pipes.write(b"\n").await;
        pipes.say(&notification("notifications/cancelled", json!({"requestId": 9}))).await;
        pipes.say(&notification("no/such/notification", json!({}))).await;
        pipes.say(&json!({"jsonrpc": "2.0", "id": 77, "result": {}})).await;
        assert_eq!(pipes.ask("ping", json!({})).await["result"], json!({}));
    }
    assert_eq!(pipes.tool("check_locks", json!({})).await["isError"], false);
    let kib = pipes.peak_kib();
    assert!(kib < 400 << 10, "{kib} KiB for lines that are not read");
    pipes.close();
    assert_eq!(pipes.ended().await.0, 0);
}

/// Starts a call that waits for a lock that another holds.
async fn wait_for(pipes: &mut Pipes, server: &Server, file_path: &str, seconds: i64) {
    let seq = server.last_seq().await;
    let arguments = json!({"file_path": file_path, "wait_seconds": seconds});
    let meta = json!({"progressToken": "t"});
    pipes
        .say(&message("wait", "tools/call", json!({"name": "acquire_lock", "arguments": arguments, "_meta": meta})))
        .await;
    let start = Instant::now();
    while server.audit_after(seq).await.is_empty() {
        assert!(start.elapsed() < Duration::from_secs(30), "nobody waits");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(pipes.hear().await.unwrap()["params"]["message"], format!("waited 1 of {seconds} seconds"));
}

async fn is_left_alone(holder: &Client, file_path: &str) -> bool {
    holder.release(file_path).await.done();
    // On a folder, another process looks once a second.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    holder.get(&format!("/locks/status/{file_path}")).await.ok()["locked"] == json!(false)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_taken_back_over_every_pipe() {
    let (server, agent) = server().await;
    let other = server.agent("other", "claude_code_local").await;
    for make in [on_folder(&server, "agent"), before_server(&agent, server.data())] {
        other.acquire("src/a.rs").await.done();
        let mut pipes = Pipes::begun(make).await;
        wait_for(&mut pipes, &server, "src/a.rs", 50).await;
        pipes.say(&notification("notifications/cancelled", json!({"requestId": "wait"}))).await;
        assert_eq!(pipes.ask("ping", json!({})).await["result"], json!({}));
        assert!(is_left_alone(&other, "src/a.rs").await, "a call that was taken back took the lock");
        pipes.close();
        let (code, frames, _) = pipes.ended().await;
        assert!(frames.iter().all(|frame| frame["id"] != "wait"), "{frames:?}");
        assert_eq!(code, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_and_a_signal_end_it_at_once() {
    let (server, agent) = server().await;
    let other = server.agent("other", "claude_code_local").await;
    for end in ["close", "-TERM", "-INT"] {
        for make in [on_folder(&server, "agent"), before_server(&agent, server.data())] {
            other.acquire("src/a.rs").await.done();
            let mut pipes = Pipes::begun(make).await;
            wait_for(&mut pipes, &server, "src/a.rs", 50).await;
            let start = Instant::now();
            match end {
                "close" => pipes.close(),
                signal => pipes.signal(signal),
            }
            let (code, _, told) = pipes.ended().await;
            assert_eq!(code, 0, "{end}: {told}");
            assert!(start.elapsed() < Duration::from_secs(4), "{end} took {:?}", start.elapsed());
            assert!(is_left_alone(&other, "src/a.rs").await, "{end}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_goes_is_told_to_the_model() {
    let (server, agent) = server().await;
    let home = tempfile::tempdir().unwrap();
    let mut pipes = Pipes::begun(before_server(&agent, home.path())).await;
    assert_eq!(pipes.tool("check_locks", json!({})).await["isError"], false);
    let _folder = server.stop().await;
    for (tool, arguments) in [("check_locks", json!({})), ("acquire_lock", json!({"file_path": "a"}))] {
        let lost = pipes.tool(tool, arguments).await;
        assert_eq!((&lost["isError"], &lost["structuredContent"]["error"]), (&json!(true), &json!("unreachable")));
        assert!(lost["structuredContent"]["remedy"].as_str().is_some_and(|text| !text.is_empty()), "{lost}");
    }
    let read = pipes.ask("resources/read", json!({"uri": "locks://current"})).await;
    assert!(read["error"]["message"].as_str().is_some_and(|text| text.contains("unreachable")), "{read}");
    assert_eq!(pipes.ask("ping", json!({})).await["result"], json!({}));
    pipes.close();
    assert_eq!(pipes.ended().await.0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_work_is_told_before_anything_is_served() {
    let (server, agent) = server().await;
    let empty = tempfile::tempdir().unwrap();
    let data = server.data().to_string_lossy().into_owned();
    let words = |words: &[&str]| command(words, empty.path());
    let mut unknown_key = words(&["--data", &data]);
    unknown_key.env("PORTREEVE_API_KEY", "prv_unknown");
    let mut unknown_there = words(&["--url", &format!("http://{}", agent.address)]);
    unknown_there.env("PORTREEVE_API_KEY", "prv_unknown");
    let mut nobody_there = words(&["--url", "http://127.0.0.1:9"]);
    nobody_there.env("PORTREEVE_API_KEY", "prv_unknown");
    for (what, command, expected) in [
        ("no store", words(&["--data", &empty.path().to_string_lossy(), "--agent", "agent"]), "portreeve serve"),
        ("no agent named", words(&["--data", &data]), "--agent NAME"),
        ("agent unknown", words(&["--data", &data, "--agent", "nobody"]), "portreeve agent"),
        ("key unknown", unknown_key, "PORTREEVE_API_KEY"),
        ("key unknown to the server", unknown_there, "PORTREEVE_API_KEY"),
        ("no server", nobody_there, "portreeve serve"),
        ("no key for the server", words(&["--url", &format!("http://{}", agent.address)]), "PORTREEVE_API_KEY"),
        ("agent and server", words(&["--url", &format!("http://{}", agent.address), "--agent", "agent"]), "--agent"),
    ] {
        let (code, frames, told) = Pipes::open(command).ended().await;
        assert_ne!(code, 0, "{what}");
        assert_eq!(frames, Vec::<Value>::new(), "{what}");
        assert!(told.contains(expected), "{what}: {told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_is_no_argument_and_the_agent_is_one() {
    let (server, agent) = server().await;
    let other = server.agent("other", "claude_code_local").await;
    let mut pipes = Pipes::begun(on_folder(&server, "agent")).await;
    let stolen = json!({"file_path": "src/a.rs", "api_key": other.key.unwrap(), "agent_id": "agent"});
    assert_eq!(pipes.tool("acquire_lock", stolen).await["structuredContent"]["locked_by"], "agent");
    let posing = pipes.tool("acquire_lock", json!({"file_path": "src/b.rs", "agent_id": "other"})).await;
    assert_eq!(posing["structuredContent"]["error"], "identity_mismatch");
    // What the agent may is looked up with each call.
    server.suspend("agent", true).await;
    let suspended = pipes.tool("acquire_lock", json!({"file_path": "src/c.rs"})).await;
    assert_eq!(suspended["structuredContent"]["error"], "denied", "{suspended}");
    server.suspend("agent", false).await;
    let mut by_key = Pipes::begun(by_key(&server, &agent)).await;
    server.admin.delete(&format!("/agents/agent/keys/{}", agent.key_id)).await.done();
    let revoked = by_key.tool("check_locks", json!({})).await;
    assert_eq!(
        (&revoked["isError"], &revoked["structuredContent"]["error"]),
        (&json!(true), &json!("unauthenticated"))
    );
    // The named agent stands by the admin's key, which is still there.
    assert_eq!(pipes.tool("check_locks", json!({})).await["isError"], false);
}
