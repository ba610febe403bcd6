//! `portreeve setup` and its undoing, on files as people have them.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::cli::{Cli, Ended, cli};
use crate::harness::state::scalar;
use crate::harness::{Server, Setup, copy_template};

/// A tool, its file, its folder.
const TOOLS: [(&str, &str, Option<&str>); 3] = [
    ("claude-code", ".mcp.json", None),
    ("codex", ".codex/config.toml", Some(".codex")),
    ("cursor", ".cursor/mcp.json", Some(".cursor")),
];

const URL: &str = "http://127.0.0.1:8081";

/// Files that a tool that reads JSON may have: all of them are to be found again, to the last byte.
const JSON_FILES: [&str; 16] = [
    "",
    "\n",
    "// nothing yet\n",
    "{}",
    "{}\n",
    "{ }",
    "{\n}\n",
    "{\n  // none\n}",
    "{\"mcpServers\":{}}",
    "{\"mcpServers\": {\"a\": {\"command\": \"x\"}}, \"z\": [1, 2.50, 1e3]}\n\n\n",
    "{\n    \"mcpServers\": {\n        \"a\": {\"command\": \"x\"}, // of a\n        /* b */ \"b\": {}\n    }\n}\n",
    "{\n\t\"a\": \"\\u00e4\",\n\t\"mcpServers\": {\n\t\t\"a\": {},\n\t},\n}",
    "{\r\n  \"mcpServers\": {\r\n    \"a\": {}\r\n  }\r\n}\r\n",
    "\u{feff}{\"mcpServers\": {}}",
    "{ \"mcpServers\":\n\n{\n\n\"a\": 1\n\n}\n\n}",
    "{\n  \"mcpServers\": { \"ä\": { \"args\": [\"mcp\"] }\n  } }",
];

const TOML_FILES: [&str; 12] = [
    "",
    "\n\n",
    "# nothing yet",
    "model = \"x\"",
    "model = 'x'\n\n\n",
    "[mcp_servers.a]\ncommand = \"x\" # of a\nargs = [\n  \"1\", # one\n]\n\n# the end\n",
    "[mcp_servers]\na = { command = \"x\" }\n",
    "mcp_servers = { a = { command = \"x\" } } # all\n[z]\n",
    "mcp_servers = {}\n",
    "mcp_servers.a.command = 'x'\n[z]\ny = 1_000\n",
    "a = 1\r\n[mcp_servers.a]\r\ncommand = \"x\"\r\n",
    "a = 1\r\n\n[mcp_servers.a.env]\nB = \"\"\"\n[mcp_servers.portreeve]\n\"\"\"\n[[z]]\n[[z]]\n",
];

fn originals(tool: &str) -> &'static [&'static str] {
    if tool == "codex" { &TOML_FILES } else { &JSON_FILES }
}

/// A folder that git would take for a repository.
struct Repo(TempDir);

impl Repo {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(".git")).unwrap();
        Self(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// `portreeve setup` in this repository.
    fn setup(&self, words: &[&str]) -> Cli {
        cli(["setup"]).args(words).dir(self.0.path())
    }

    fn to_url(&self, tool: &str, url: &str) -> Value {
        self.setup(&[tool, "--url", url, "--yes"]).json(0)
    }

    fn undo(&self, tool: &str) -> Value {
        self.setup(&[tool, "--undo", "--yes"]).json(0)
    }

    /// Names of all files but git's own.
    fn files(&self) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(self.0.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name != ".git");
        names.sort();
        names
    }
}

#[test]
fn a_set_up_file_is_found_again_to_the_last_byte() {
    for (tool, file, _) in TOOLS {
        for original in originals(tool) {
            let repo = Repo::new();
            repo.write(file, original);
            let done = repo.to_url(tool, URL);
            assert_eq!((&done["action"], &done["changed"]), (&json!("changed"), &json!(true)), "{original:?}");
            let first = repo.read(file);
            assert!(first.contains(URL) && first.contains("portreeve"), "{first}");
            // The same again changes nothing, and says so.
            assert_eq!(repo.to_url(tool, URL)["action"], "unchanged");
            assert_eq!(repo.read(file), first);
            // Other arguments change only our entry.
            repo.to_url(tool, "https://elsewhere.example");
            assert_eq!(repo.read(file), first.replace(URL, "https://elsewhere.example"), "{original:?}");
            assert_eq!(repo.undo(tool)["action"], "restored");
            assert_eq!(repo.read(file), *original);
            assert_eq!(repo.undo(tool)["action"], "unchanged");
            assert!(fs::read_dir(repo.path(".git")).unwrap().next().is_none(), "nothing is left with git");
        }
    }
}

#[test]
fn a_file_that_setup_made_goes_and_so_does_its_folder() {
    for (tool, file, folder) in TOOLS {
        let repo = Repo::new();
        assert_eq!(repo.to_url(tool, URL)["action"], "created");
        let mode = fs::metadata(repo.path(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o600, 0o600, "{mode:o}");
        repo.to_url(tool, "http://h");
        assert_eq!(repo.undo(tool)["action"], "removed");
        assert_eq!(repo.files(), Vec::<String>::new());
        // A folder that was there, or holds something, stays.
        let Some(folder) = folder else { continue };
        fs::create_dir(repo.path(folder)).unwrap();
        repo.to_url(tool, URL);
        repo.undo(tool);
        assert_eq!(repo.files(), [folder]);
        fs::remove_dir(repo.path(folder)).unwrap();
        repo.to_url(tool, URL);
        repo.write(&format!("{folder}/mine"), "x");
        repo.undo(tool);
        assert_eq!((repo.files(), repo.path(file).exists()), (vec![folder.to_owned()], false));
    }
}

#[test]
fn of_a_file_that_was_edited_meanwhile_only_the_entry_goes() {
    for (tool, file, _) in TOOLS {
        for original in originals(tool) {
            let repo = Repo::new();
            repo.write(file, original);
            repo.to_url(tool, URL);
            let remark = if tool == "codex" { "# mine\n" } else { "// mine\n" };
            let edited = if repo.read(file).starts_with('\u{feff}') {
                repo.read(file) + remark
            } else {
                format!("{remark}{}", repo.read(file))
            };
            repo.write(file, &edited);
            assert_eq!(repo.undo(tool)["action"], "entry_removed");
            let left = repo.read(file);
            assert!(left.contains(remark) && !left.contains(URL), "{original:?}: {left}");
            for word in
                ["command = \"x\"", "\"a\"", "// of a", "# of a"].iter().filter(|word| original.contains(**word))
            {
                assert!(left.contains(word), "{original:?}: {left}");
            }
            // It still is what the tool reads, and setup finds its place again.
            assert_eq!(repo.to_url(tool, URL)["action"], "changed", "{left}");
        }
    }
}

#[test]
fn no_key_is_ever_written() {
    let secret = "prv_0123456789abcdef0123456789abcdef";
    for (tool, file, _) in TOOLS {
        let repo = Repo::new();
        let ended = repo.setup(&[tool, "--url", URL, "--yes"]).env("PORTREEVE_API_KEY", secret).run();
        assert_eq!(ended.code, 0, "{ended:?}");
        let text = repo.read(file);
        assert!(text.contains("PORTREEVE_API_KEY") && !text.contains(secret), "{text}");
        assert!(!format!("{ended:?}").contains(secret));
    }
    let entry = |tool: &str| Repo::new().to_url(tool, URL)["entry"].clone();
    assert_eq!(entry("claude-code")["env"]["PORTREEVE_API_KEY"], "${PORTREEVE_API_KEY}");
    assert_eq!(entry("cursor")["env"]["PORTREEVE_API_KEY"], "${env:PORTREEVE_API_KEY}");
    assert_eq!(entry("codex")["env_vars"], json!(["PORTREEVE_API_KEY"]));
}

#[track_caller]
fn refused(ended: &Ended, why: &str) {
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.stderr.contains(why) && ended.stderr.contains("next: "), "{why}: {ended:?}");
}

#[test]
fn what_is_not_ours_or_not_understood_is_refused_and_left_alone() {
    let cases = [
        ("claude-code", ".mcp.json", "{\n  \"mcpServers\": {,}\n}", "line 2 column 18"),
        ("claude-code", ".mcp.json", "[]", "not a JSON object"),
        ("cursor", ".cursor/mcp.json", "{\"mcpServers\": []}", "`mcpServers` is not"),
        ("cursor", ".cursor/mcp.json", "{\"mcpServers\": {\"portreeve\": {\"command\": \"x\"}}}", "did not write"),
        ("codex", ".codex/config.toml", "a = 1\nb == 2\n", "line 2"),
        ("codex", ".codex/config.toml", "[mcp_servers.portreeve]\ncommand = \"x\"\n", "did not write"),
        ("codex", ".codex/config.toml", "mcp_servers.portreeve.args = [\"mcp\"]\n", "by hand"),
    ];
    for (tool, file, text, why) in cases {
        let repo = Repo::new();
        repo.write(file, text);
        refused(&repo.setup(&[tool, "--url", URL, "--yes"]).run(), why);
        assert_eq!(repo.read(file), text);
    }
    let repo = Repo::new();
    fs::write(repo.path(".mcp.json"), b"{\"a\": \"\xff\"}").unwrap();
    refused(&repo.setup(&["claude-code", "--url", URL, "--yes"]).run(), "not UTF-8 text (byte 7)");
    let nowhere = tempfile::tempdir().unwrap();
    refused(&cli(["setup", "codex", "--url", URL, "--yes"]).dir(nowhere.path()).run(), "not in a git repository");
    refused(&Repo::new().setup(&["codex", "--url", "not a url", "--yes"]).run(), "not the URL of a server");
    let nobody = Repo::new().setup(&["codex", "--yes"]).run();
    assert!(nobody.code == 2 && nobody.stderr.contains("--agent NAME"), "{nobody:?}");
}

#[test]
fn links_are_followed_inside_of_the_repository_only() {
    let elsewhere = tempfile::tempdir().unwrap();
    fs::write(elsewhere.path().join("mcp.json"), "{}").unwrap();
    let repo = Repo::new();
    symlink(elsewhere.path().join("mcp.json"), repo.path(".mcp.json")).unwrap();
    symlink(elsewhere.path(), repo.path(".cursor")).unwrap();
    symlink("nowhere", repo.path(".codex")).unwrap();
    for (tool, why) in
        [("claude-code", "out of the repository"), ("cursor", "out of the repository"), ("codex", "leads nowhere")]
    {
        refused(&repo.setup(&[tool, "--url", URL, "--yes"]).run(), why);
    }
    assert_eq!(fs::read_to_string(elsewhere.path().join("mcp.json")).unwrap(), "{}");
    let repo = Repo::new();
    repo.write("shared/mcp.json", "{}");
    symlink("shared/mcp.json", repo.path(".mcp.json")).unwrap();
    repo.to_url("claude-code", URL);
    assert!(repo.path(".mcp.json").is_symlink() && repo.read("shared/mcp.json").contains(URL));
    repo.undo("claude-code");
    assert_eq!(repo.read("shared/mcp.json"), "{}");
}

#[test]
fn permissions_stay_and_any_folder_of_the_repository_will_do() {
    let repo = Repo::new();
    repo.write(".mcp.json", "{}");
    repo.write("src/deep/x", "");
    fs::set_permissions(repo.path(".mcp.json"), fs::Permissions::from_mode(0o640)).unwrap();
    cli(["setup", "claude-code", "--url", URL, "--yes"]).dir(&repo.path("src/deep")).json(0);
    let nowhere = tempfile::tempdir().unwrap();
    let again = cli(["setup", "claude-code", "--url", URL, "--yes", "--dir"]).arg(repo.0.path()).dir(nowhere.path());
    assert_eq!(again.json(0)["action"], "unchanged");
    assert_eq!(fs::metadata(repo.path(".mcp.json")).unwrap().permissions().mode() & 0o777, 0o640);
    // A work tree, whose .git is a file that names the folder.
    let tree = tempfile::tempdir().unwrap();
    fs::create_dir(repo.path(".git/tree")).unwrap();
    fs::write(repo.path(".git/tree/HEAD"), "ref: refs/heads/main\n").unwrap();
    fs::write(tree.path().join(".git"), format!("gitdir: {}\n", repo.path(".git/tree").display())).unwrap();
    cli(["setup", "codex", "--url", URL, "--yes"]).dir(tree.path()).json(0);
    assert!(repo.path(".git/tree/portreeve").is_dir());
    cli(["setup", "codex", "--undo", "--yes"]).dir(tree.path()).json(0);
    assert!(!tree.path().join(".codex").exists() && !repo.path(".git/tree/portreeve").exists());
}

#[test]
fn without_somebody_to_confirm_nothing_happens() {
    let repo = Repo::new();
    repo.write(".mcp.json", "{}\n");
    let ended = repo.setup(&["claude-code", "--url", URL]).run();
    refused(&ended, "add --yes");
    assert!(ended.stdout.contains("--- a/.mcp.json\n+++ b/.mcp.json\n"), "{ended:?}");
    assert!(ended.stdout.contains("-{}\n") && ended.stdout.contains("+    \"portreeve\": {\n"), "{ended:?}");
    assert_eq!(repo.read(".mcp.json"), "{}\n");
    let ended = repo.setup(&["claude-code", "--url", URL, "--json"]).run();
    assert_eq!((ended.code, ended.stdout.as_str()), (1, ""), "{ended:?}");
    assert_eq!(repo.read(".mcp.json"), "{}\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_s_agent_is_registered_when_it_is_missing_and_left_alone_when_it_is_there() {
    let server = Server::start_with(Setup::default()).await;
    server.agent("veteran", "codex_remote").await;
    let repo = Repo::new();
    let embedded = |tool: &str, agent: &str| repo.setup(&[tool, "--agent", agent]).on(server.data());
    let told = embedded("cursor", "curs-1").run();
    refused(&told, "add --yes");
    assert!(told.stdout.contains("register the agent curs-1 of type cursor with profile cursor_local"), "{told:?}");
    assert_eq!(scalar(&mut server.db().await, "SELECT count(*) FROM agents WHERE agent_id = 'curs-1'").await, 0);

    let done = embedded("cursor", "curs-1").arg("--yes").json(0);
    assert_eq!(done["agent"], json!({"registered": true, "new": true}));
    let args = json!(["mcp", "--agent", "curs-1", "--data", server.data().canonicalize().unwrap()]);
    assert_eq!(done["entry"]["args"], args);
    assert!(done["entry"].get("env").is_none());
    let listed = server.admin.get("/agents?agent_id=curs-1").await.ok()["agents"][0].clone();
    assert_eq!((&listed["profile"], &listed["keys"]), (&json!("cursor_local"), &json!([])), "an agent without a key");
    let again = embedded("cursor", "curs-1").arg("--yes").json(0);
    assert_eq!((&again["action"], &again["agent"]["new"]), (&json!("unchanged"), &json!(false)));

    let veteran = embedded("codex", "veteran").arg("--yes").told(0);
    assert!(veteran.contains("created"), "{veteran}");
    let listed = server.admin.get("/agents?agent_id=veteran").await.ok()["agents"][0].clone();
    assert_eq!((&listed["profile"], &listed["facts_version"]), (&json!("codex_remote"), &json!(1)));
    let warned = embedded("claude-code", "veteran").arg("--yes").told(0);
    assert!(warned.contains("registered as codex"), "{warned}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_missing_is_made_after_it_was_agreed_to() {
    let (repo, dir) = (Repo::new(), tempfile::tempdir().unwrap());
    let data = dir.path().join("new");
    let told = repo.setup(&["codex", "--agent", "codex-1"]).on(&data).run();
    refused(&told, "add --yes");
    assert!(told.stdout.contains("make a data folder") && !data.exists(), "{told:?}");
    let done = repo.setup(&["codex", "--agent", "codex-1", "--yes"]).on(&data).json(0);
    assert_eq!(done["agent"]["new"], true);
    assert_eq!(cli(["profile", "me", "--agent", "codex-1"]).on(&data).json(0)["profile"]["name"], "codex_local");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_default_folder_and_a_program_on_the_path_go_by_their_names() {
    let (repo, home) = (Repo::new(), tempfile::tempdir().unwrap());
    let data = home.path().join(".local/share/portreeve");
    fs::create_dir_all(&data).unwrap();
    copy_template(&data).await;
    let bin = crate::harness::process::binary().parent().unwrap();
    let setup = || repo.setup(&["codex", "--agent", "a", "--yes"]).env("HOME", home.path());
    let done = setup().env("PATH", bin).json(0);
    assert_eq!(done["entry"], json!({"command": "portreeve", "args": ["mcp", "--agent", "a"]}));
    let done = setup().env("PATH", Path::new("/nowhere")).json(0);
    assert_eq!(done["entry"]["command"], json!(bin.join("portreeve").canonicalize().unwrap()));
    let moved = setup().env("PATH", bin).env("PORTREEVE_DATA", &data).json(0);
    assert_eq!(moved["entry"]["args"], json!(["mcp", "--agent", "a"]));
}
