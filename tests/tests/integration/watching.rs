//! `--watch`: a policy that is tested, or put in force, again whenever a file of it changes.

use std::fs;
use std::io::{BufRead as _, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use portreeve::engine::default_bundle;
use portreeve::engine::types::BundleFile;
use serde_json::json;

use crate::harness::process::{Process, binary};
use crate::harness::state::{audit_json, connect};
use crate::harness::{cache_dir, copy_template};

/// Long enough for a build of the component on a machine that does other things as well.
const PATIENCE: Duration = Duration::from_secs(120);
/// One more thing that remote agents may not do, and no table that promises it.
const NO_HANDOFFS: (&str, &str, &str) =
    ("profiles/claude_code_remote.toml", "trust = 2\n", "trust = 2\nblocked_operations = [\"write_handoff\"]\n");

fn lay_out(folder: &Path, files: &[BundleFile]) {
    for file in files {
        let path = folder.join(&file.path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, &file.text).unwrap();
    }
}

fn edit(folder: &Path, file: &str, from: &str, to: &str) {
    let path = folder.join(file);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{file} does not hold `{from}`");
    fs::write(path, text.replace(from, to)).unwrap();
}

/// Waits until something holds.
async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < PATIENCE, "{what} did not come");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watched_folder_decides_as_it_is_edited() {
    let (data, policies) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    copy_template(data.path()).await;
    let without_cases: Vec<BundleFile> =
        default_bundle().into_iter().filter(|file| !file.path.starts_with("decisions/")).collect();
    lay_out(policies.path(), &without_cases);
    let process = Process::start_with(data.path(), &["--watch", policies.path().to_str().unwrap()]).await;
    let first = process.admin.get("/components").await.ok()["epoch"].as_i64().unwrap();
    let agent = process.agent("worker", "claude_code_remote").await;
    let writes = || async { agent.post("/handoffs/write", json!({"summary": "a"})).await };
    writes().await.done();

    let (file, from, to) = NO_HANDOFFS;
    edit(policies.path(), file, from, to);
    until("the denial", || async {
        writes().await.body["reason"].as_str().is_some_and(|reason| reason.starts_with("operation_blocked"))
    })
    .await;
    // What has problems is told with its place, and the last good one goes on to decide.
    fs::write(policies.path().join("profiles/broken.toml"), "trust = \"high\"\n").unwrap();
    let log = || fs::read_to_string(data.path().join("stderr.log")).unwrap();
    until("the problem", || async { log().contains("profiles/broken.toml") }).await;
    writes().await.denied("operation_blocked");
    fs::remove_file(policies.path().join("profiles/broken.toml")).unwrap();
    fs::write(policies.path().join("profiles/binary.toml"), [0xff, 0xfe]).unwrap();
    until("the unreadable file", || async { log().contains("profiles/binary.toml") }).await;
    fs::remove_file(policies.path().join("profiles/binary.toml")).unwrap();
    edit(policies.path(), file, to, from);
    until("the way back", || async { writes().await.status == 200 }).await;

    // Each was an activation, and the log says that a folder was watched.
    let listed = process.admin.get("/components").await.ok();
    assert_eq!(listed["epoch"], json!(first + 2), "{listed}");
    process.terminate();
    assert!(process.ended().await.0);
    let mut db = connect(data.path()).await;
    let rows = audit_json(&mut db, 0).await;
    let activations = rows.iter().filter(|row| row["operation"] == "activate_component");
    assert_eq!(activations.filter(|row| row.to_string().contains("watched")).count(), 2, "{rows:#?}");
}

/// `policy test --watch`, and what it says.
struct Watching {
    child: Child,
    said: Receiver<String>,
}

impl Watching {
    fn start(folder: &Path) -> Self {
        let mut child = Command::new(binary())
            .args(["policy", "test", "--watch"])
            .arg(folder)
            .env("PORTREEVE_CACHE", cache_dir())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (tell, said) = channel();
        let pass_on = |stream: Box<dyn Read + Send>| {
            let tell = tell.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    drop(tell.send(line));
                }
            });
        };
        pass_on(Box::new(child.stdout.take().unwrap()));
        pass_on(Box::new(child.stderr.take().unwrap()));
        Self { child, said }
    }

    /// Reads up to a line that holds `part`.
    fn says(&self, part: &str) {
        let mut seen = Vec::new();
        let began = Instant::now();
        while let Ok(line) = self.said.recv_timeout(PATIENCE.saturating_sub(began.elapsed())) {
            if line.contains(part) {
                return;
            }
            seen.push(line);
        }
        panic!("it did not say `{part}`:\n{}", seen.join("\n"));
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn tables_are_run_again_whenever_a_file_changes() {
    let folder = tempfile::tempdir().unwrap();
    lay_out(folder.path(), &default_bundle());
    let mut watching = Watching::start(folder.path());
    watching.says("cases as promised");
    edit(folder.path(), "profiles/evaluator.toml", "trust = 2", "trust = 1");
    watching.says("FAIL");
    // A folder that does not load, and one that is not there, are waited out.
    fs::write(folder.path().join("cedar/broken.cedar"), "permit (").unwrap();
    watching.says("cedar/broken.cedar");
    fs::rename(folder.path().join("bundle.toml"), folder.path().join("bundle.away")).unwrap();
    watching.says("bundle.toml");
    fs::rename(folder.path().join("bundle.away"), folder.path().join("bundle.toml")).unwrap();
    fs::remove_file(folder.path().join("cedar/broken.cedar")).unwrap();
    edit(folder.path(), "profiles/evaluator.toml", "trust = 1", "trust = 2");
    watching.says("cases as promised");
    let sent = Command::new("kill").args(["-INT", &watching.child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    assert_eq!(watching.child.wait().unwrap().code(), Some(0));
}
