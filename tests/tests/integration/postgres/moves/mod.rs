//! `portreeve migrate-store`: what was in a data folder is in a database, to the last hash, and the service goes on
//! there.

mod fill;
mod same;
mod told;

use std::path::{Path, PathBuf};
use std::time::Duration;

use fill::{Fleet, ODD, details, filled, grow, long};
use portreeve::clock::{Clock, SystemClock};
use portreeve::store::audit::AuditRow;
use portreeve::store::postgres::Options;
use portreeve::store::{Moved, Step, StoreError, abandon, move_store};
use same::all_is_there;
use serde_json::json;

use crate::harness::cli::{Cli, cli};
use crate::harness::process::binary;
use crate::harness::state::{Db, connect, drop_guards, execute, scalar};
use crate::harness::{Server, Setup, open_app, postgres};

fn store_of(data: &Path) -> PathBuf {
    data.join("portreeve.db")
}

fn owner(database: &str) -> Options {
    Options::parse(&postgres::url(database, "postgres")).unwrap()
}

async fn moved(data: &Path, database: &str) -> Result<Moved, StoreError> {
    move_store(&store_of(data), &owner(database), SystemClock::default().now(), &mut |_| ()).await
}

fn migrate_store(data: &Path, database: &str) -> Cli {
    cli(["migrate-store", "--from"]).arg(data).env("PORTREEVE_DATABASE_URL", postgres::url(database, "postgres"))
}

/// `serve` on a folder, and on a database if one is named; it has to be refused.
fn refused_service(data: &Path, database: Option<&str>) -> String {
    let serve = cli(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(data);
    let Some(database) = database else { return serve.told(1) };
    serve.env("PORTREEVE_DATABASE_URL", postgres::service_url(database)).told(1)
}

/// All of the log, as the service's own reader has it.
async fn log(server: &Server) -> Vec<(AuditRow, Vec<u8>)> {
    server.app().gate().store().view().audit_rows(0, 1_000_000).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn move_brings_everything_and_the_service_goes_on() {
    let (server, fleet) = filled().await;
    let before = log(&server).await;
    let (dir, database) = (server.stop().await, postgres::bare().await);
    let told = migrate_store(dir.path(), &database).json(0);
    assert_eq!((&told["log_rows"], &told["was_finished"]), (&json!(before.len()), &json!(false)), "{told}");
    let mut source = connect(dir.path()).await;
    let mut target = Db::Postgres(postgres::superuser(&database).await);
    all_is_there(&mut source, &mut target).await;
    source.close().await;
    assert_eq!(scalar(&mut target, "SELECT max(xact) FROM audit_log").await, 0);
    let guards = "SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal AND tgenabled <> 'O'";
    assert_eq!(scalar(&mut target, guards).await, 0);
    // Once more changes nothing, and says so.
    let again = migrate_store(dir.path(), &database).json(0);
    assert_eq!((&again["was_finished"], &again["tables"]), (&json!(true), &told["tables"]), "{again}");
    assert!(migrate_store(dir.path(), &database).told(0).contains("nothing was changed"));
    postgres::share(dir.path(), &database);
    let server = Server::start_on(dir, Setup::default()).await;
    goes_on(&server, &fleet).await;
    let after = log(&server).await;
    assert_eq!(after[..before.len()], before[..], "the log is another one");
    assert!(after.len() > before.len() + 15);
    assert!(after.iter().zip(1..).all(|((row, hash), seq)| row.seq == seq && row.leaf_hash() == *hash));
    let shown = server.admin.get("/audit?limit=100").await.ok();
    let seqs: Vec<i64> = shown["entries"].as_array().unwrap().iter().map(|e| e["seq"].as_i64().unwrap()).collect();
    assert!(seqs.len() > before.len() && seqs.windows(2).all(|pair| pair[0] == pair[1] + 1), "{seqs:?}");
    let verified = cli(["audit", "verify"]).on(server.data());
    let verified = verified.env("PORTREEVE_DATABASE_URL", postgres::service_url(&database)).told(0);
    assert!(verified.contains("row"), "{verified}");
}

/// The same clients go on against the database, with what they held.
async fn goes_on(server: &Server, fleet: &Fleet) {
    let [a, b] = [&fleet.a, &fleet.b].map(|client| server.again(client));
    assert_eq!(server.again(&fleet.revoked).acquire("src/x.rs").await.status, 401);
    server.again(&fleet.suspended).acquire("src/x.rs").await.denied("suspended");
    // The lock is held, and its token grows from where it was.
    b.acquire("src/a.rs").await.refused("locked_by_other");
    let held = json!({"file_path": "src/a.rs", "fencing_token": fleet.token});
    assert_eq!(a.post("/locks/verify", held).await.ok()["valid"], true);
    a.release("src/a.rs").await.done();
    assert_eq!(b.acquire("src/a.rs").await.done()["fencing_token"], json!(fleet.token + 1));
    assert_eq!(b.acquire("src/free.rs").await.done()["fencing_token"], json!(2));
    // The first answer is given again.
    let once = json!({"task_type": "once", "task_description": ODD});
    let repeat = a.post_once("/work/submit", "key-1", once).await;
    assert_eq!(repeat.header("idempotency-replayed"), Some("true"));
    assert_eq!(repeat.done(), fleet.first);
    // The claim goes on, and what waited for it is free.
    let own = json!({"task_id": fleet.claim["task_id"], "claim_token": fleet.claim["claim_token"]});
    a.post("/work/heartbeat", own.clone()).await.done();
    assert_eq!(b.claim("later").await["success"], false);
    let mut done = own;
    done["success"] = json!(true);
    a.post("/work/complete", done).await.done();
    assert_eq!(b.claim("later").await["task_id"], json!(fleet.waiting));
    // New tasks and handoffs are younger than those that moved.
    let newest = a.submit("new", json!({})).await;
    let listed = a.get("/work?limit=2").await.ok();
    assert_eq!(listed["tasks"][0]["id"], json!(newest), "{listed}");
    a.post("/handoffs/write", json!({"summary": "the newest"})).await.done();
    let read = a.post("/handoffs/read", json!({"limit": 4})).await.ok();
    let summary = |n: usize| read["handoffs"][n]["summary"].as_str().unwrap().to_owned();
    assert_eq!(summary(0), "the newest");
    assert!((1..4).all(|n| summary(n).starts_with(&(3 - n).to_string())), "{read}");
    for words in ["deadlock pool", "naive", "größe", "time out", "zebra"] {
        let found = a.post("/memory/query", json!({"text": words})).await.ok();
        assert!(found["count"].as_i64().unwrap() >= 1, "{words}: {found}");
    }
    // A memory is the same, also to the one that says it again: that adds nothing.
    let found = a.post("/memory/query", json!({"text": "zebra"})).await.ok();
    assert_eq!(found["memories"][0]["details"], details(), "{found}");
    let again =
        json!({"event_type": "error", "summary": "deadlock in the pool", "tags": ["pool"], "details": details()});
    let last = server.last_seq().await;
    assert_eq!(a.post("/memory/store", again).await.done()["action"], "deduplicated");
    assert_eq!(server.only_line_after(last).await.changes, "[]");
    a.post("/status/report", json!({"message": "on it"})).await.done();
    a.post("/discovery/heartbeat", json!({"session_id": "s-1"})).await.done();
}

#[tokio::test(flavor = "multi_thread")]
async fn move_goes_on_where_it_broke_off() {
    let dir = long(1600).await;
    let database = postgres::bare().await;
    let (file, to) = (store_of(dir.path()), owner(&database));
    let broken = tokio::spawn(async move {
        let mut power_cut = |step| assert!(!matches!(step, Step::Log(1000.., _)), "the power is gone");
        move_store(&file, &to, SystemClock::default().now(), &mut power_cut).await
    });
    assert!(broken.await.unwrap_err().is_panic());
    let half = refused_service(dir.path(), Some(&database));
    assert!(half.contains("not finished") && half.contains("migrate-store"), "{half}");
    let frozen = refused_service(dir.path(), None);
    assert!(frozen.contains("migrate-store") && frozen.contains("not finished"), "{frozen}");
    let done = moved(dir.path(), &database).await.unwrap();
    assert_eq!(done.log_rows_before, 1000);
    let mut target = Db::Postgres(postgres::superuser(&database).await);
    all_is_there(&mut connect(dir.path()).await, &mut target).await;
    let gone = refused_service(dir.path(), None);
    assert!(gone.contains("moved") && gone.contains("--database"), "{gone}");
    let another = postgres::bare().await;
    let error = moved(dir.path(), &another).await.unwrap_err();
    assert!(matches!(error, StoreError::Moved { is_finished: true, .. }), "{error}");
}

/// The real program, killed at moments that nobody chose.
#[tokio::test(flavor = "multi_thread")]
async fn move_survives_being_killed() {
    let rows = 4000;
    let dir = long(rows).await;
    let database = postgres::bare().await;
    let mut target = Db::Postgres(postgres::superuser(&database).await);
    // In the middle of the log, again, and once all of it is there.
    for moved in [500, 2000, rows] {
        let mut child = std::process::Command::new(binary())
            .args(["migrate-store", "--from"])
            .arg(dir.path())
            .env("PORTREEVE_DATABASE_URL", postgres::url(&database, "postgres"))
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        while scalar(&mut target, "SELECT count(*) FROM audit_seq").await < moved && child.try_wait().unwrap().is_none()
        {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let told = migrate_store(dir.path(), &database).json(0);
    assert!(told["log_rows_before"].as_i64().unwrap() >= 2000, "{told}");
    all_is_there(&mut connect(dir.path()).await, &mut target).await;
    postgres::share(dir.path(), &database);
    let server = Server::start_on(dir, Setup::default()).await;
    let after = log(&server).await;
    assert!(after.iter().zip(1..).all(|((row, hash), seq)| row.seq == seq && row.leaf_hash() == *hash));
}

#[tokio::test(flavor = "multi_thread")]
async fn move_refuses_a_row_that_is_not_what_was_written() {
    let dir = long(600).await;
    let mut file = connect(dir.path()).await;
    drop_guards(&mut file, "audit_log").await;
    execute(&mut file, "UPDATE audit_log SET detail = 'nothing' WHERE seq = 555").await.unwrap();
    let database = postgres::bare().await;
    let error = moved(dir.path(), &database).await.unwrap_err();
    assert!(matches!(error, StoreError::Unverified { seq: 555 }), "{error}");
    let mut target = Db::Postgres(postgres::superuser(&database).await);
    assert_eq!(scalar(&mut target, "SELECT max(seq) FROM audit_seq").await, 500, "nothing of that batch stays");
    assert_eq!(scalar(&mut target, "SELECT count(*) FROM audit_log").await, 500);
    let said = migrate_store(dir.path(), &database).told(1);
    assert!(said.contains("row 555"), "{said}");
    // A row that is missing is found as well.
    execute(&mut file, "DELETE FROM audit_log WHERE seq = 520").await.unwrap();
    let error = moved(dir.path(), &database).await.unwrap_err();
    assert!(matches!(error, StoreError::Unverified { seq: 520 }), "{error}");
    // What is there is compared with what is here, also when an earlier attempt brought it.
    let dir = long(600).await;
    let database = postgres::bare().await;
    let broken = std::panic::AssertUnwindSafe(async {
        let mut stop = |step| assert!(!matches!(step, Step::Log(500.., _)), "enough");
        move_store(&store_of(dir.path()), &owner(&database), SystemClock::default().now(), &mut stop).await
    });
    assert!(futures::FutureExt::catch_unwind(broken).await.is_err());
    let mut target = Db::Postgres(postgres::superuser(&database).await);
    drop_guards(&mut target, "audit_log").await;
    execute(&mut target, "UPDATE audit_log SET detail = 'x' WHERE id = (SELECT id FROM audit_seq WHERE seq = 7)")
        .await
        .unwrap();
    let error = moved(dir.path(), &database).await.unwrap_err();
    assert!(matches!(error, StoreError::Unequal { seq: 7 }), "{error}");
    assert!(refused_service(dir.path(), Some(&database)).contains("not finished"));
}

#[tokio::test(flavor = "multi_thread")]
async fn move_refuses_a_database_with_something_in_it() {
    let (server, _) = filled().await;
    let dir = server.stop().await;
    let served = tempfile::tempdir().unwrap();
    let database = postgres::clone(served.path(), postgres::Kind::Served).await;
    let error = moved(dir.path(), &database).await.unwrap_err();
    assert!(matches!(error, StoreError::NotEmpty), "{error}");
    assert!(migrate_store(dir.path(), &database).told(1).contains("not empty"));
    // Nothing happened to the file: it is served as before.
    let server = Server::start_on(dir, Setup::default()).await;
    let dir = server.stop().await;
    // Nor does it mix with another store.
    let (other, _) = filled().await;
    let (other, database) = (other.stop().await, postgres::bare().await);
    moved(other.path(), &database).await.unwrap();
    let error = moved(dir.path(), &database).await.unwrap_err();
    assert!(matches!(error, StoreError::NotEmpty), "{error}");
    let app = open_app(dir.path(), &Setup::default()).await.unwrap();
    app.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn move_closes_the_file_and_abandoning_opens_it() {
    let (server, fleet) = filled().await;
    let database = postgres::bare().await;
    let to = owner(&database);
    // The service runs on, and is stopped by the file itself once the move has begun.
    let (file, last) = (store_of(server.data()), server.last_seq().await);
    let broken = std::panic::AssertUnwindSafe(async {
        let mut stop = |step| assert_eq!(step, Step::Log(0, 0), "enough");
        move_store(&file, &to, SystemClock::default().now(), &mut stop).await
    });
    assert!(futures::FutureExt::catch_unwind(broken).await.is_err());
    let refused = fleet.a.acquire("src/new.rs").await;
    assert_eq!((refused.status, &refused.body["error"]), (503, &json!("storage_unavailable")));
    assert_eq!(server.last_seq().await, last);
    let dir = server.stop().await;
    assert!(refused_service(dir.path(), None).contains("--abandon"));
    let given_up = migrate_store(dir.path(), &database).arg("--abandon").json(0);
    assert_eq!(given_up["abandoned"], true, "{given_up}");
    let server = Server::start_on(dir, Setup::default()).await;
    server.again(&fleet.a).acquire("src/new.rs").await.done();
    let dir = server.stop().await;
    // Rows of the log that were there stay there, and no store moves to that database any more.
    grow(dir.path(), 600).await;
    let broken = std::panic::AssertUnwindSafe(async {
        let mut stop = |step| assert!(!matches!(step, Step::Log(500.., _)), "enough");
        move_store(&store_of(dir.path()), &to, SystemClock::default().now(), &mut stop).await
    });
    assert!(futures::FutureExt::catch_unwind(broken).await.is_err());
    let told = migrate_store(dir.path(), &database).arg("--abandon").told(0);
    assert!(told.contains("500 rows") && told.contains("drop it"), "{told}");
    let again = migrate_store(dir.path(), &database).arg("--abandon").told(0);
    assert!(again.contains("no move"), "{again}");
    assert!(matches!(moved(dir.path(), &database).await.unwrap_err(), StoreError::NotEmpty));
    // Another one takes it; and then it is too late.
    let another = postgres::bare().await;
    moved(dir.path(), &another).await.unwrap();
    for database in [&another, &database] {
        let (file, now) = (store_of(dir.path()), SystemClock::default().now());
        let error = abandon(&file, Some(&owner(database)), now).await.unwrap_err();
        assert!(matches!(error, StoreError::Moved { is_finished: true, .. }), "{error}");
    }
    assert!(refused_service(dir.path(), None).contains("--database"));
}

#[tokio::test(flavor = "multi_thread")]
async fn move_says_what_stands_in_its_way() {
    let dir = tempfile::tempdir().unwrap();
    let database = postgres::bare().await;
    let missing = migrate_store(&dir.path().join("missing"), &database).told(1);
    assert!(missing.contains("there is no folder"), "{missing}");
    let empty = migrate_store(dir.path(), &database).told(1);
    assert!(empty.contains("holds no store"), "{empty}");
    std::fs::write(store_of(dir.path()), b"").unwrap();
    let nothing = migrate_store(dir.path(), &database).told(1);
    assert!(nothing.contains("nothing to move"), "{nothing}");
    let dir = filled().await.0.stop().await;
    let from = || cli(["migrate-store", "--from"]).arg(dir.path());
    assert!(from().told(2).contains("--to"));
    assert!(from().args(&["--to", "mysql://x"]).told(2).contains("postgres://"));
    let unprepared = migrate_store(dir.path(), &postgres::empty().await).told(1);
    assert!(unprepared.contains("portreeve migrate"), "{unprepared}");
    let service = from().arg("--to").arg(postgres::service_url(&database)).told(1);
    assert!(service.contains("may not act as portreeve_owner"), "{service}");
    let app = open_app(dir.path(), &Setup::default()).await.unwrap();
    app.close().await;
}

/// One file moves to one database, and half of it is served by nobody.
#[tokio::test(flavor = "multi_thread")]
async fn move_goes_on_only_where_it_began() {
    let (server, _fleet) = filled().await;
    let dir = server.stop().await;
    grow(dir.path(), 1200).await;
    let (first, other) = (postgres::bare().await, postgres::bare().await);
    let (file, to) = (store_of(dir.path()), owner(&first));
    let broken = std::panic::AssertUnwindSafe(async {
        let mut stop = |step| assert!(!matches!(step, Step::Log(500.., _)), "enough");
        move_store(&file, &to, SystemClock::default().now(), &mut stop).await
    });
    assert!(futures::FutureExt::catch_unwind(broken).await.is_err());
    assert!(matches!(moved(dir.path(), &other).await.unwrap_err(), StoreError::OtherMove));
    let told = migrate_store(dir.path(), &other).arg("--abandon").told(1);
    assert!(told.contains("another database") && told.contains("--target-lost"), "{told}");
    assert!(refused_service(dir.path(), None).contains("--abandon"));
    // Whoever opened the database before the move began changes nothing in it either.
    let mut conn = postgres::superuser(&first).await;
    let refused = "SELECT portreeve.decision_fail(NULL::portreeve.decision)";
    let error = sqlx::raw_sql(refused).execute(&mut conn).await.unwrap_err().to_string();
    assert!(error.contains("a store is moving here"), "{error}");
    // Given up, it is still half of a store.
    migrate_store(dir.path(), &first).arg("--abandon").told(0);
    assert!(refused_service(dir.path(), Some(&first)).contains("not finished"));
    // To another one, after that; and one whose database is gone is given up without it.
    let broken = std::panic::AssertUnwindSafe(async {
        let mut stop = |step| assert!(!matches!(step, Step::Log(500.., _)), "enough");
        move_store(&file, &owner(&other), SystemClock::default().now(), &mut stop).await
    });
    assert!(futures::FutureExt::catch_unwind(broken).await.is_err());
    assert!(matches!(moved(dir.path(), &first).await.unwrap_err(), StoreError::OtherMove));
    cli(["migrate-store", "--abandon", "--target-lost", "--from"]).arg(dir.path()).told(0);
    drop(open_app(dir.path(), &Setup::default()).await.unwrap());
}
