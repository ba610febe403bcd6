//! `portreeve agent import`: agents and keys of another coordinator, taken over without their secrets being sent.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::cli::{Cli, cli};
use crate::harness::{Client, Request, Server, Setup, type_of};

const AGENTS: &str = "\
# the old coordinator's
agents:
  - {name: claude-1, type: claude_code, profile: claude_code_local, notes: fast}
  - {agent_id: codex-1, agent_type: codex, trust_level: 2}
  - {name: reviewer, type: claude_code, trust: 1}
";

/// A key as that coordinator gave them.
fn key(agent: &str) -> String {
    format!("old-{agent}-{}", "0123456789abcdef".repeat(2))
}

/// Files to import, in a folder of their own.
struct Files(TempDir);

impl Files {
    fn new(agents: &str, keys: &Value) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("agents.yaml"), agents).unwrap();
        fs::write(dir.path().join("keys.json"), keys.to_string()).unwrap();
        Self(dir)
    }

    fn usual() -> Self {
        let identity = |agent: &str, kind: &str| json!({"agent_id": agent, "agent_type": kind});
        Self::new(
            AGENTS,
            &json!({key("claude-1"): identity("claude-1", "claude_code"), key("codex-1"): identity("codex-1", "codex")}),
        )
    }

    fn import(&self) -> Cli {
        let [agents, keys] = ["agents.yaml", "keys.json"].map(|name| self.0.path().join(name));
        cli(["agent", "import"]).arg(agents).arg("--keys").arg(keys)
    }

    fn agents_only(&self) -> Cli {
        cli(["agent", "import"]).arg(self.0.path().join("agents.yaml"))
    }
}

fn outcomes(report: &Value, list: &str) -> Vec<(String, String)> {
    let text = |line: &Value, name: &str| line[name].as_str().unwrap_or_default().to_owned();
    report[list].as_array().unwrap().iter().map(|line| (text(line, "agent_id"), text(line, "outcome"))).collect()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
}

async fn server() -> Server {
    Server::start_with(Setup::default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_says_what_would_be_and_changes_nothing() {
    let server = server().await;
    let before = server.state().await;
    for report in [Files::usual().import().on(server.data()).json(0), Files::usual().import().to(&server.admin).json(0)]
    {
        assert_eq!((&report["applied"], &report["problems"]), (&json!(false), &json!(0)), "{report}");
        let agents = [("claude-1", "create"), ("codex-1", "create"), ("reviewer", "create")];
        assert_eq!(outcomes(&report, "agents"), pairs(&agents));
        assert_eq!(outcomes(&report, "keys"), pairs(&[("claude-1", "create"), ("codex-1", "create")]));
        let profiles: Vec<&Value> = report["agents"].as_array().unwrap().iter().map(|line| &line["profile"]).collect();
        assert_eq!(profiles, ["claude_code_local", "codex_remote", "claude_code_reviewer"]);
        assert_eq!(report["agents"][0]["detail"], json!(["note: `notes` is not read"]));
    }
    assert_eq!(server.state().await, before);
    let told = Files::usual().import().on(server.data()).told(0);
    assert!(told.contains("nothing was changed: --apply does it"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_keys_that_agents_have_go_on_working_under_each_header() {
    let server = server().await;
    let report = Files::usual().import().arg("--apply").to(&server.admin).json(0);
    let agents = [("claude-1", "created"), ("codex-1", "created"), ("reviewer", "created")];
    assert_eq!(outcomes(&report, "agents"), pairs(&agents), "{report}");
    assert_eq!(outcomes(&report, "keys"), pairs(&[("claude-1", "created"), ("codex-1", "created")]));
    let nobody = server.nobody();
    for (agent, profile) in [("claude-1", "claude_code_local"), ("codex-1", "codex_remote")] {
        let key = key(agent);
        let bearer = format!("Bearer {key}");
        for (name, value) in [("authorization", &bearer), ("x-coordinator-api-key", &key), ("x-api-key", &key)] {
            let me = nobody.send(Request::new("GET", "/profiles/me").header(name, value)).await.ok();
            assert_eq!((&me["profile"]["agent_id"], &me["profile"]["name"]), (&json!(agent), &json!(profile)));
        }
    }
    // Nothing of a key is anywhere but its hash: not in the database, its log, or beside them.
    for agent in ["claude-1", "codex-1"] {
        assert_nowhere(server.data(), key(agent).as_bytes());
        assert!(!report.to_string().contains(&key(agent)));
    }
    // The log shows a mark, not the hash that a guess could be tested by.
    let hash = portreeve::authn::KeyHashes::of(&key("claude-1")).to_hex();
    let log = server.admin.get("/audit?operation=manage_agents&limit=50").await.ok().to_string();
    assert!(
        log.contains("\"import_hash\":\"mark:") && !log.contains(&hash[..12]) && !log.contains(&hash[16..28]),
        "{log}"
    );
}

/// No file below a folder holds these bytes.
fn assert_nowhere(folder: &Path, bytes: &[u8]) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            assert_nowhere(&path, bytes);
        } else {
            let found = fs::read(&path).unwrap().windows(bytes.len()).any(|window| window == bytes);
            assert!(!found, "a key is in {}", path.display());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn importing_again_changes_nothing_and_conflicts_stay_as_they_are() {
    let server = server().await;
    let files = Files::usual();
    files.import().arg("--apply").on(server.data()).json(0);
    let before = server.state().await;
    let again = files.import().arg("--apply").on(server.data()).json(0);
    let agents = [("claude-1", "exists"), ("codex-1", "exists"), ("reviewer", "exists")];
    assert_eq!(outcomes(&again, "agents"), pairs(&agents), "{again}");
    assert_eq!(outcomes(&again, "keys"), pairs(&[("claude-1", "exists"), ("codex-1", "exists")]));
    // A dry run sees the same.
    assert_eq!(outcomes(&files.import().on(server.data()).json(0), "keys"), outcomes(&again, "keys"));
    assert_eq!(server.state().await, before);

    // An operator decides otherwise here: that stays, and is told.
    server.admin.post("/agents/codex-1/profile", json!({"profile": "codex_local"})).await.done();
    let key_id = again["keys"][0]["key_id"].as_str().unwrap();
    server.admin.delete(&format!("/agents/claude-1/keys/{key_id}")).await.done();
    let before = server.state().await;
    let report = files.import().arg("--apply").on(server.data()).json(1);
    let agents = [("claude-1", "exists"), ("codex-1", "conflict"), ("reviewer", "exists")];
    assert_eq!(outcomes(&report, "agents"), pairs(&agents), "{report}");
    assert_eq!(outcomes(&report, "keys"), pairs(&[("claude-1", "conflict"), ("codex-1", "problem")]));
    assert!(report["keys"][0]["detail"].to_string().contains("a revoked key never comes back"), "{report}");
    assert_eq!(server.state().await, before);
    let revoked = Client::new(server.admin.address, &key("claude-1"));
    assert_eq!(revoked.get("/profiles/me").await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_stops_nothing_else() {
    let server = server().await;
    server.agent("taken", "codex_local").await;
    let agents = "\
good: {type: codex, profile: codex_local}
vague: {type: claude_code}
strange: {type: abacus, trust: 3}
greedy: {type: codex, profile: codex_local, trust: 2}
bad name: {type: codex, profile: codex_local}
taken: {type: codex, profile: codex_remote}
";
    let long = |text: &str| text.repeat(40);
    let keys = json!({
        long("a"): {"agent_id": "good", "agent_type": "codex"},
        "short": {"agent_id": "good"},
        long("b"): {"agent_id": "good", "agent_type": "claude_code"},
        long("c"): {"agent_id": "nobody"},
        long("d"): {"agent_id": "bad name"},
        "a key of 20 letters.": {"agent_id": "good"},
    });
    let report = Files::new(agents, &keys).import().arg("--apply").to(&server.admin).json(1);
    let expected = [
        ("good", "created"),
        ("vague", "problem"),
        ("strange", "problem"),
        ("greedy", "problem"),
        ("bad name", "problem"),
        ("taken", "conflict"),
    ];
    assert_eq!(outcomes(&report, "agents"), pairs(&expected), "{report:#}");
    let detail = |list: &str, n: usize| report[list][n]["detail"].to_string();
    assert!(detail("agents", 1).contains("claude_code_local (trust 3)"), "{report:#}");
    assert!(detail("agents", 3).contains("more than the 2 of the file"), "{report:#}");
    let made = report["keys"].as_array().unwrap().iter().filter(|line| line["outcome"] == "created").count();
    assert_eq!((made, &report["problems"]), (2, &json!(9)), "{report:#}");
    assert!(report["keys"].to_string().contains("could be guessed"), "{report:#}");
    assert!(report["keys"].to_string().contains("replace it when you can"), "{report:#}");
    // A key belongs to one agent.
    let other = Files::new("other: {type: codex, trust: 2}", &json!({long("a"): {"agent_id": "other"}}));
    let report = other.import().arg("--apply").to(&server.admin).json(1);
    assert_eq!(outcomes(&report, "keys"), pairs(&[("other", "conflict")]), "{report}");
    assert!(report["keys"][0]["detail"].to_string().contains("`good`"), "{report}");
    let me = Client::new(server.admin.address, &long("a")).get("/profiles/me").await.ok();
    assert_eq!(me["profile"]["agent_id"], "good");
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_files_are_refused_whole() {
    let server = server().await;
    let before = server.state().await;
    let laughs = (1..25).fold("a0: &a0 x\n".to_owned(), |text, n| {
        text + &format!("a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 9].join(", "))
    });
    let large = format!("a: {{type: codex, trust: 2}} # {}", "x".repeat(1 << 20));
    let deep = "[".repeat(50_000);
    for (agents, why) in [
        (laughs.as_str(), "cannot take over"),
        (&large, "more than 1048576 bytes"),
        (&deep, "cannot take over"),
        ("a: {type: codex}\na: {type: codex}", "twice"),
        ("just words", "neither a list"),
        ("a: !os.system {type: codex}", "tag"),
        ("", "neither a list"),
    ] {
        let ended = Files::new(agents, &json!({})).import().arg("--apply").on(server.data()).run();
        assert!(ended.code == 1 && ended.stderr.contains(why), "{why}: {:?}", (ended.code, &ended.stderr));
    }
    // A file whose keys and identities are turned around is told without showing a key.
    let turned = Files::new("a: {type: codex, trust: 2}", &json!({"a": "prv_the_secret_itself_0123456789"}));
    let ended = turned.import().arg("--json").on(server.data()).run();
    assert!(ended.code == 1 && !format!("{ended:?}").contains("the_secret"), "{ended:?}");
    fs::write(turned.0.path().join("keys.json"), "{\"a\": prv_the_secret").unwrap();
    let ended = turned.import().on(server.data()).run();
    assert!(ended.code == 1 && !format!("{ended:?}").contains("the_secret"), "{ended:?}");
    assert!(ended.stderr.contains("line 1 column"), "{ended:?}");
    assert_eq!(server.state().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_an_owner_imports_and_agents_may_come_without_keys() {
    let server = server().await;
    let agent = server.agent("a", "claude_code_local").await;
    let denied = Files::usual().import().arg("--apply").to(&agent).json(3);
    assert_eq!(denied["error"], "denied");
    let told = Files::usual().agents_only().arg("--apply").on(server.data()).told(0);
    assert!(told.contains("without a key: claude-1, codex-1, reviewer"), "{told}");
    let created = server.admin.get("/agents?agent_id=reviewer").await.ok();
    assert_eq!(created["agents"][0]["keys"], json!([]));
    assert_eq!(type_of("cursor_local"), "cursor");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hash_is_verified_by_the_service_itself() {
    let server = server().await;
    let agent = server.agent("a", "codex_local").await;
    let give = |hash: String| server.admin.post("/agents/a/keys", json!({"import_hash": hash}));
    for wrong in ["", "xyz", &"g".repeat(80), &"0".repeat(78)] {
        give(wrong.to_owned()).await.invalid("invalid_hash");
    }
    let hash = portreeve::authn::KeyHashes::of(&key("a")).to_hex();
    let given = give(hash.clone()).await.done();
    assert_eq!((&given["key"], given["key_id"].is_string()), (&Value::Null, true), "{given}");
    assert_eq!(give(hash).await.refused("key_exists")["key_id"], given["key_id"]);
    let own = portreeve::authn::KeyHashes::of(agent.key.as_deref().unwrap()).to_hex();
    assert_eq!(give(own).await.refused("key_exists")["key_id"], json!(agent.key_id));
}
