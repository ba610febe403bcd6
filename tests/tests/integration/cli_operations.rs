//! One command per operation: the real binary against a server and on a data folder.

use portreeve::command::catalogue::{CATALOGUE, Kind};
use serde_json::{Value, json};

use crate::harness::cli::cli;
use crate::harness::state::scalar;
use crate::harness::{Client, Server, Setup};

/// A server whose time is the machine's, so that a command on its folder sees the same time.
async fn server() -> (Server, Client, Client) {
    let server = Server::start_with(Setup::default()).await;
    let [a, b] = [server.agent("a", "claude_code_local").await, server.agent("b", "claude_code_remote").await];
    (server, a, b)
}

/// A body without what differs from one request to the next.
fn shape(mut body: Value) -> Value {
    body.as_object_mut().unwrap().remove("decision_id");
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_reads_the_very_body_that_http_answers_and_an_exit_code() {
    let (_server, a, b) = server().await;
    let acquire = || cli(["lock", "acquire", "src/a.rs", "--reason", "@home", "--ttl-minutes", "45"]);
    let got = acquire().to(&a).json(0);
    assert_eq!((&got["action"], &got["reason"]), (&json!("acquired"), &Value::Null), "{got}");
    let lock = a.get("/locks/status/src/a.rs").await.ok()["lock"].clone();
    assert_eq!((&lock["reason"], &lock["expires_at"]), (&json!("@home"), &got["expires_at"]));

    let blocked = cli(["lock", "acquire", "src/a.rs"]).to(&b).json(4);
    assert_eq!(blocked, b.acquire("src/a.rs").await.refused("locked_by_other"));

    let denied = cli(["lock", "force-release", "src/a.rs"]).to(&b).json(3);
    assert_eq!(shape(denied), shape(b.delete("/locks/src/a.rs").await.denied("trust_below_admin")));

    let invalid = cli(["lock", "acquire", "../up", "--ttl-minutes", "-3"]).to(&a).json(1);
    let body = json!({"file_path": "../up", "ttl_minutes": "-3"});
    assert_eq!(invalid, a.post("/locks/acquire", body).await.invalid("invalid_file_path"));
    assert_eq!(invalid["detail"][1]["type"], "ttl_out_of_range");

    let listed = cli(["lock", "list", "--file-paths", "src/a.rs", "--file-paths", "src/b.rs"]).to(&b).json(0);
    assert_eq!(listed, b.get("/locks?file_paths=src/a.rs&file_paths=src/b.rs").await.ok());
    assert_eq!(listed["locks"][0]["locked_by"], "a");

    assert_eq!(cli(["lock", "force-release", "src/a.rs"]).to(&a).json(0)["released"], true);
    assert_eq!(cli(["lock", "force-release", "src/a.rs"]).to(&a).json(4)["released"], false);
    let missing = cli(["task", "get", "0190163d-8694-739b-aea5-966c26f8ad90"]).to(&a).json(4);
    assert_eq!(missing["reason"], "task_not_found");
    let nobody = Client::new(a.address, "no such key");
    assert_eq!(cli(["lock", "list"]).to(&nobody).json(1)["error"], "unauthenticated");
}

#[tokio::test(flavor = "multi_thread")]
async fn people_read_tables_lines_and_remedies() {
    let (_server, a, b) = server().await;
    assert!(cli(["lock", "list"]).to(&a).told(0).contains("no locks"));
    let got = cli(["lock", "acquire", "src/a.rs"]).to(&a).told(0);
    assert!(got.starts_with("success        true\naction         acquired\n"), "{got}");
    assert!(!got.contains("lock_reason"), "what is null is not shown: {got}");
    let table = cli(["lock", "list"]).to(&b).told(0);
    let mut lines = table.lines().map(str::trim_start);
    assert!(lines.next().unwrap().starts_with("FILE PATH"), "{table}");
    assert!(lines.next().unwrap().starts_with("src/a.rs"), "{table}");
    let blocked = cli(["lock", "acquire", "src/a.rs"]).to(&b).told(4);
    assert!(blocked.lines().any(|line| line.starts_with("locked_by ") && line.ends_with(" a")), "{blocked}");
    let denied = cli(["lock", "force-release", "src/a.rs"]).to(&b).run();
    assert_eq!((denied.code, denied.stdout.as_str()), (3, ""));
    assert!(denied.stderr.starts_with("error: denied by policy: trust_below_admin: "), "{denied:?}");
    assert!(denied.stderr.contains("\nnext: "), "{denied:?}");
    let found = cli(["guardrails", "check", "git push --force"]).to(&b).told(0);
    assert!(found.contains("safe") && found.contains("git_force_push"), "{found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn long_values_come_from_files_and_stdin() {
    let (_server, a, _) = server().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("data.json");
    std::fs::write(&file, "{\"files\": [\"a\", \"b\"]}\n").unwrap();
    let submitted = cli(["task", "submit", "build", "-", "--priority", "2", "--input-data"])
        .arg(format!("@{}", file.display()))
        .stdin("all of it\nas it stands\n")
        .to(&a)
        .json(0);
    let task = a.task(submitted["task_id"].as_str().unwrap()).await;
    assert_eq!(task["description"], "all of it\nas it stands\n");
    assert_eq!((&task["input_data"], &task["priority"]), (&json!({"files": ["a", "b"]}), &json!(2)));
    let submitted = cli(["task", "submit", "build", "@@here", "--input-data", "@-"]).stdin("{\"x\": 1}").to(&a).json(0);
    let task = a.task(submitted["task_id"].as_str().unwrap()).await;
    assert_eq!((&task["description"], &task["input_data"]), (&json!("@here"), &json!({"x": 1})));
    for (data, why) in [("@/no/such/file", "cannot read"), ("{", "not JSON"), ("@-", "not UTF-8")] {
        let told = cli(["task", "submit", "t", "d", "--input-data", data]).stdin(*b"\xff").to(&a).told(2);
        assert!(told.contains(why) && told.contains("next: "), "{told}");
    }
    // JSON that is no object is the service's to refuse.
    let refused = cli(["task", "submit", "t", "d", "--input-data", "[]"]).to(&a).json(1);
    assert_eq!(refused["detail"][0]["type"], "dict_type");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_under_a_key_answers_the_first_answer_and_changes_nothing() {
    let (server, a, _) = server().await;
    let submit = || cli(["task", "submit", "t", "once", "--idempotency-key", "k-1"]);
    let first = submit().to(&a).json(0);
    assert_eq!(submit().to(&a).json(0), first);
    // Over either way it is the same request of the same agent.
    assert_eq!(submit().on(server.data()).arg("--agent").arg("a").json(0), first);
    assert_eq!(scalar(&mut server.db().await, "SELECT count(*) FROM work_queue").await, 1);
    let other = cli(["task", "submit", "t", "twice", "--idempotency-key", "k-1"]).to(&a).json(1);
    assert_eq!(other["error"], "invalid_request");
    let query = cli(["lock", "list", "--idempotency-key", "k"]).to(&a).told(2);
    assert!(query.contains("unexpected argument"), "{query}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_of_a_folder_acts_with_its_own_standing() {
    let (server, a, b) = server().await;
    let on = |words: &[&str], agent: &str| cli(words).on(server.data()).arg("--agent").arg(agent);
    let got = on(&["lock", "acquire", "src/a.rs"], "a").json(0);
    assert_eq!(got["action"], "acquired", "{got}");
    // Over either way it is one service.
    assert_eq!(b.acquire("src/a.rs").await.refused("locked_by_other")["locked_by"], "a");
    let blocked = on(&["lock", "acquire", "src/a.rs"], "b").json(4);
    assert_eq!(blocked, b.acquire("src/a.rs").await.ok());
    let denied = on(&["lock", "force-release", "src/a.rs"], "b").json(3);
    assert_eq!(shape(denied), shape(b.delete("/locks/src/a.rs").await.denied("trust_below_admin")));
    assert_eq!(on(&["profile", "me"], "b").json(0)["profile"]["name"], "claude_code_remote");
    // Nobody named: whoever may read the folder's key.
    assert_eq!(cli(["profile", "me"]).on(server.data()).json(0)["profile"]["name"], "admin");
    let unknown = on(&["lock", "list"], "nobody").told(1);
    assert!(unknown.contains("there is no agent `nobody`"), "{unknown}");
    assert_eq!(on(&["lock", "list"], "system").run().code, 1);
    let both = cli(["lock", "list", "--agent", "a"]).to(&a).told(2);
    assert!(both.contains("PORTREEVE_API_KEY"), "{both}");
    let stranger = cli(["lock", "list"]).on(&server.data().join("none")).told(1);
    assert!(stranger.contains("there is no Portreeve store"), "{stranger}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_understood_or_not_reached_is_told_apart() {
    let (_server, a, _) = server().await;
    assert!(cli(["lock", "acquire"]).to(&a).told(2).contains("FILE_PATH"));
    assert!(cli(["lock", "acquire", "a", "--agent-id", "b"]).to(&a).told(2).contains("unexpected argument"));
    assert!(cli(["lock", "list", "--url", "ftp://h"]).env("PORTREEVE_API_KEY", "k").told(1).contains("ftp"));
    let gone = cli(["lock", "acquire", "a", "--url", "http://127.0.0.1:9"]).env("PORTREEVE_API_KEY", "k").told(1);
    assert!(gone.contains("cannot reach") && gone.contains("next: "), "{gone}");
    // Hand-made commands keep to the same codes.
    let denied = cli(["agent", "add", "c", "--type", "codex", "--profile", "codex_local"]).to(&a).json(3);
    assert_eq!(denied["error"], "denied");
    assert_eq!(cli(["check", "git push --force", "--profile", "codex_remote"]).run().code, 2);
}

#[test]
fn the_help_names_every_operation_and_the_exit_codes() {
    let help = cli(["--help"]).told(0);
    assert!(help.contains("Exit codes:"), "{help}");
    for entry in CATALOGUE.iter().filter(|entry| entry.kind == Kind::Mutation) {
        let (noun, _) = entry.name.split_once('_').unwrap();
        // What is done with components stands with what their authors do.
        let noun = if noun == "component" { "policy" } else { noun };
        assert!(help.lines().any(|line| line.trim_start().starts_with(&format!("{noun} "))), "{noun}: {help}");
    }
    let help = cli(["task", "submit", "--help"]).told(0);
    assert!(help.starts_with("Put a task into the queue. The whole text"), "{help}");
    for part in ["--priority <N>", "[1 to 10; default 5]", "@FILE", "--idempotency-key", "Example:", "/work/submit"] {
        assert!(help.contains(part), "{part}: {help}");
    }
}
