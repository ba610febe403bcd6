//! What a move tells meanwhile: those who use a store that moves, those who start a second move, and who watches.

use std::path::Path;
use std::time::{Duration, Instant};

use portreeve::clock::{Clock, SystemClock};
use portreeve::store::{Step, move_store};
use serde_json::json;

use super::fill::{filled, long};
use super::{migrate_store, moved, owner, store_of};
use crate::harness::cli::cli;
use crate::harness::process::{Process, binary};
use crate::harness::state::{connect, execute, scalar};
use crate::harness::{Client, Server, Setup, postgres};

/// A change and readiness tell the same of a store that moves.
async fn told(client: &Client, reason: &str) -> String {
    let refused = client.acquire("src/told.rs").await;
    let ready = Client::keyless(client.address).get("/ready").await;
    assert_eq!((refused.status, ready.status), (503, 503), "{} {}", refused.body, ready.body);
    assert_eq!(refused.body["error"], "storage_unavailable");
    assert_eq!((&refused.body["reason"], &ready.body["reason"]), (&json!(reason), &json!(reason)), "{}", ready.body);
    assert_eq!((&ready.body["db"], &ready.body["detail"]), (&json!("unavailable"), &refused.body["detail"]));
    let detail = refused.body["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains(&SystemClock::default().now().to_string()[..10]), "since when: {detail}");
    detail
}

/// Lines of a service's log that say so.
fn said(data: &Path, what: &str) -> usize {
    let log = std::fs::read_to_string(data.join("stderr.log")).unwrap();
    log.lines().filter(|line| line.contains(what)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn service_on_the_file_says_that_its_store_moves_and_moved() {
    let (server, fleet) = filled().await;
    let dir = server.stop().await;
    let process = Process::start_on(dir.path(), None);
    let a = process.again(&fleet.a);
    assert_eq!(a.get("/ready").await.ok()["db"], "ok");
    let database = postgres::bare().await;
    let broken = std::panic::AssertUnwindSafe(async {
        let mut stop = |step| assert_eq!(step, Step::Log(0, 0), "enough");
        move_store(&store_of(dir.path()), &owner(&database), SystemClock::default().now(), &mut stop).await
    });
    assert!(futures::FutureExt::catch_unwind(broken).await.is_err());
    for _ in 0..3 {
        assert!(told(&a, "store_moving").await.contains("moving to another database"));
    }
    // What an agent asks is recorded, and so not answered either; nor is a refusal.
    assert_eq!(a.get("/locks").await.body["reason"], "store_moving");
    assert_eq!(process.again(&fleet.suspended).acquire("src/x.rs").await.body["reason"], "store_moving");
    let cli = cli(["lock", "acquire", "src/cli.rs"]).to(&a).told(1);
    assert!(cli.contains("moving to another database"), "{cli}");
    assert_eq!((said(dir.path(), "nothing is changed any more"), said(dir.path(), "\"level\":\"ERROR\"")), (1, 1));
    moved(dir.path(), &database).await.unwrap();
    assert!(told(&a, "store_moved").await.contains("moved to another database"));
    assert_eq!(said(dir.path(), "\"level\":\"ERROR\""), 1);
}

/// Whoever opened the database before a store began to move there.
#[tokio::test(flavor = "multi_thread")]
async fn service_on_the_database_says_that_a_store_moves_there() {
    let dir = tempfile::tempdir().unwrap();
    let database = postgres::clone(dir.path(), postgres::Kind::Served).await;
    let process = Process::start_on(dir.path(), Some(postgres::service_url(&database)));
    let mut conn = postgres::superuser(&database).await;
    sqlx::raw_sql("INSERT INTO store_moves (move_id, rows) VALUES ('m', 1)").execute(&mut conn).await.unwrap();
    for _ in 0..3 {
        assert!(told(&process.admin, "store_moving").await.contains("moving to this database"));
    }
    assert_eq!(process.admin.get("/locks").await.body["reason"], "store_moving");
    assert_eq!((said(dir.path(), "nothing is changed any more"), said(dir.path(), "\"level\":\"ERROR\"")), (1, 1));
    // Once all of it is there the service goes on, and the log is told if that happens again.
    sqlx::raw_sql("UPDATE store_moves SET finished_at = now()").execute(&mut conn).await.unwrap();
    process.admin.acquire("src/told.rs").await.done();
    sqlx::raw_sql("UPDATE store_moves SET finished_at = NULL").execute(&mut conn).await.unwrap();
    told(&process.admin, "store_moving").await;
    assert_eq!(said(dir.path(), "nothing is changed any more"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn second_move_is_refused_and_a_second_migration_says_that_it_waits() {
    let dir = long(600).await;
    let database = postgres::bare().await;
    let (file, to) = (store_of(dir.path()), owner(&database));
    let (begun, has_begun) = std::sync::mpsc::channel();
    let (go_on, goes_on) = std::sync::mpsc::channel::<()>();
    let first = tokio::spawn(async move {
        let mut hold = move |step| {
            if step == Step::State {
                begun.send(()).unwrap();
                goes_on.recv().unwrap();
            }
        };
        move_store(&file, &to, SystemClock::default().now(), &mut hold).await
    });
    has_begun.recv().unwrap();
    let start = Instant::now();
    let refused = migrate_store(dir.path(), &database).told(4);
    assert!(refused.contains("another") && refused.contains("at work"), "{refused}");
    assert!(migrate_store(dir.path(), &database).arg("--abandon").told(4).contains("at work"));
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    let mut waiting = std::process::Command::new(binary())
        .arg("migrate")
        .env("PORTREEVE_DATABASE_URL", postgres::url(&database, "postgres"))
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let stderr = waiting.stderr.take().unwrap();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stderr), &mut line).unwrap();
    assert!(line.contains("waiting"), "{line}");
    assert!(waiting.try_wait().unwrap().is_none());
    go_on.send(()).unwrap();
    first.await.unwrap().unwrap();
    assert!(waiting.wait().unwrap().success());
}

/// A store moves to any workspace, and the others of the database do not notice.
#[tokio::test(flavor = "multi_thread")]
async fn move_to_another_workspace_leaves_the_others_alone() {
    let folders = [long(600).await, filled().await.0.stop().await];
    let database = postgres::bare().await;
    let to = |workspace: &str, role: &str| {
        format!("{}?options[portreeve.workspace]={workspace}", postgres::url(&database, role))
    };
    let mut rows = Vec::new();
    for (dir, workspace) in folders.iter().zip(["east", "west"]) {
        let told = cli(["migrate-store", "--from"]).arg(dir.path()).arg("--to").arg(to(workspace, "postgres")).json(0);
        rows.push(told["log_rows"].as_i64().unwrap());
    }
    let mut conn = postgres::superuser(&database).await;
    let kept = "SELECT string_agg(workspace || ' ' || n, ', ' ORDER BY workspace) FROM (
        SELECT workspace, count(*) AS n FROM audit_seq GROUP BY workspace) s";
    let kept: String = sqlx::query_scalar(kept).fetch_one(&mut conn).await.unwrap();
    assert_eq!(kept, format!("east {}, west {}", rows[0], rows[1]));
    let system = "SELECT string_agg(workspace, ' ' ORDER BY workspace) FROM agents WHERE agent_id = 'system'";
    let system: String = sqlx::query_scalar(system).fetch_one(&mut conn).await.unwrap();
    assert_eq!(system, "default east west", "each workspace has its own, also the one that nothing moved to");
    for (dir, workspace) in folders.iter().zip(["east", "west"]) {
        let process = Process::start_on(dir.path(), Some(to(workspace, "portreeve_app")));
        process.admin.acquire("src/new.rs").await.done();
        let verified =
            cli(["audit", "verify"]).on(dir.path()).env("PORTREEVE_DATABASE_URL", to(workspace, "portreeve_app"));
        verified.told(0);
    }
}

/// A folder that an older program wrote is brought up to date, as by serving it, and then moves.
#[tokio::test(flavor = "multi_thread")]
async fn folder_of_an_older_program_is_brought_up_to_date_first() {
    let (server, _) = filled().await;
    let dir = server.stop().await;
    let mut file = connect(dir.path()).await;
    // Without what the last migration made, and its record, the file is that of the program before.
    for undo in [
        "DROP TABLE component_shadows",
        "ALTER TABLE components DROP COLUMN signed_version",
        "ALTER TABLE components DROP COLUMN signed_by",
    ] {
        execute(&mut file, undo).await.unwrap();
    }
    let versions = "SELECT max(version) FROM schema_migrations";
    let newest = scalar(&mut file, versions).await;
    let older = format!("DELETE FROM schema_migrations WHERE version = {newest}");
    execute(&mut file, &older).await.unwrap();
    let database = postgres::bare().await;
    migrate_store(dir.path(), &database).json(0);
    assert_eq!(scalar(&mut file, versions).await, newest);
    postgres::share(dir.path(), &database);
    let server = Server::start_on(dir, Setup::default()).await;
    server.admin.acquire("src/new.rs").await.done();
    let dir = server.stop().await;
    // One of a newer program does not move.
    let newer = "INSERT INTO schema_migrations (version, name, checksum, applied_at) VALUES (99, 'later', x'00', 0)";
    execute(&mut file, newer).await.unwrap();
    assert!(migrate_store(dir.path(), &postgres::bare().await).told(1).contains("schema version 99"));
}

/// The program on a terminal of its own (stderr, stdout), and what it writes there.
const TERMINAL: &str = "
import fcntl, os, pty, struct, sys, termios
pid, fd = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], sys.argv[1:])
fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack('HHHH', 40, 120, 0, 0))
while True:
    try:
        told = os.read(fd, 65536)
    except OSError:
        break
    if not told:
        break
    sys.stdout.buffer.write(told)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
";

#[tokio::test(flavor = "multi_thread")]
async fn a_bar_is_drawn_on_a_terminal_and_only_there() {
    let dir = long(3000).await;
    let database = postgres::bare().await;
    let shown = std::process::Command::new("python3")
        .args(["-c", TERMINAL])
        .arg(binary())
        .args(["migrate-store", "--from"])
        .arg(dir.path())
        .env("PORTREEVE_DATABASE_URL", postgres::url(&database, "postgres"))
        .env("TERM", "xterm")
        .output()
        .unwrap();
    let shown = (shown.status.code(), String::from_utf8_lossy(&shown.stdout).into_owned());
    assert_eq!(shown.0, Some(0), "{shown:?}");
    // A step that is over before the bar is drawn again is not seen.
    for part in ["copying the audit log", "█", "/3,0", " rows, ", "/s", " left"] {
        assert!(shown.1.contains(part), "{part}: {}", shown.1);
    }
    let dir = long(600).await;
    let ended = migrate_store(dir.path(), &postgres::bare().await).run();
    assert_eq!(ended.code, 0, "{ended:?}");
    let lines: Vec<&str> = ended.stderr.lines().collect();
    assert_eq!(lines.len(), 3, "a line for each step: {}", ended.stderr);
    assert!(lines[0].starts_with("copying the audit log: ") && !ended.stderr.contains(['\r', '\u{1b}', '█']));
}
