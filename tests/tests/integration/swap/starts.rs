//! What a start puts in force: over a component that cannot be used, or that lets nobody.

use std::path::Path;

use portreeve::engine::digest_of;
use portreeve::gate::Wanted;
use serde_json::json;

use super::{activate, built, edited, renamed, stored};
use crate::harness::state::{Db, audit_json, connect, execute};
use crate::harness::{Server, Setup, open_app};

#[tokio::test(flavor = "multi_thread")]
async fn a_start_falls_back_to_the_last_good_component_and_the_log_says_why() {
    let server = Server::start_with(Setup::default()).await;
    let first = server.app().gate().policy().active().component.digest().to_owned();
    let second = stored(&server, built(&renamed("6.0.0"))).await;
    activate(&server.admin, &second, 1).await.done();
    let dir = server.stop().await;
    let mut db = connect(dir.path()).await;
    let Db::Sqlite(conn) = &mut db else {
        // There the database itself refuses to change a component, and a start falls back to nothing.
        return;
    };
    sqlx::query("UPDATE components SET bytes = X'00' WHERE digest = ?1").bind(&second).execute(conn).await.unwrap();
    drop(db);
    let server = Server::start_on(dir, Setup::default()).await;
    let active = server.app().gate().policy().active();
    assert_eq!((active.epoch, active.component.digest()), (3, first.as_str()));
    let rows = audit_json(&mut connect(server.data()).await, 0).await;
    let row = rows.iter().rev().find(|row| row["command"] == "component_activate").unwrap();
    let result = row["result"].as_str().unwrap();
    assert!(result.contains("fell_back_from") && result.contains(&second), "{row}");
    assert_eq!((&row["component"], &row["agent_id"]), (&json!(first), &json!("system")));
    server.admin.acquire("a").await.done();
}

/// A policy that an older program let in, and that lets nobody put another in its place.
async fn locked_out(dir: &Path, bytes: &[u8]) -> Option<String> {
    let (digest, mut db) = (digest_of(bytes), connect(dir).await);
    let Db::Sqlite(conn) = &mut db else {
        // There the database itself refuses what no function of it did.
        return None;
    };
    let sql = "INSERT INTO components (digest, bytes, manifest, stored_at, stored_by) SELECT ?1, ?2, manifest, 0, 'admin' FROM components LIMIT 1";
    sqlx::query(sql).bind(&digest).bind(bytes).execute(&mut *conn).await.unwrap();
    let sql = "INSERT INTO activations (epoch, digest, activated_at, activated_by) VALUES (2, ?1, 0, 'admin')";
    sqlx::query(sql).bind(&digest).execute(&mut *conn).await.unwrap();
    db.close().await;
    Some(digest)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_who_names_a_policy_gets_past_one_that_lets_nobody() {
    let mut files =
        edited("profiles/system.toml", "trust = 4\n", "trust = 4\nblocked_operations = [\"activate_component\"]\n");
    files.iter_mut().find(|file| file.path == "profiles/admin.toml").unwrap().text =
        "name = \"admin\"\ndescription = \"Looks.\"\nagent_types = [\"operator\"]\ntrust = 1\n".to_owned();
    files.retain(|file| !file.path.starts_with("decisions/"));
    let server = Server::start().await;
    let first = server.app().gate().policy().active().component.digest().to_owned();
    let dir = server.stop().await;
    let Some(digest) = locked_out(dir.path(), &built(&files)).await else { return };
    // By itself a start changes nothing.
    let server = Server::start_on(dir, Setup::default()).await;
    activate(&server.admin, &first, 2).await.denied("trust_below_owner");
    let wanted = Wanted::named(renamed("8.0.0"));
    let server = Server::start_on(server.stop().await, Setup { wanted, ..Setup::default() }).await;
    let active = server.app().gate().policy().active();
    assert_eq!((active.epoch, active.component.manifest().version.as_str()), (3, "8.0.0"));
    let rows = audit_json(&mut connect(server.data()).await, 0).await;
    let row = rows.iter().rev().find(|row| row["command"] == "component_activate").unwrap();
    assert!(
        row["result"].as_str().unwrap().contains("named_over") && row["result"].to_string().contains(&digest),
        "{row}"
    );
    assert_eq!((&row["component"], &row["agent_id"]), (&json!(active.component.digest()), &json!("system")));
    activate(&server.admin, &first, 3).await.done();

    // The same where what is in force cannot even be loaded.
    let second = stored(&server, built(&renamed("8.1.0"))).await;
    activate(&server.admin, &second, 4).await.done();
    let dir = server.stop().await;
    let mut db = connect(dir.path()).await;
    execute(&mut db, "UPDATE components SET bytes = X'00'").await.unwrap();
    db.close().await;
    let refused = open_app(dir.path(), &Setup::default()).await.map(drop).unwrap_err().to_string();
    assert!(refused.contains("cannot use the component in force"), "{refused}");
    let wanted = Wanted::named(renamed("8.2.0"));
    let server = Server::start_on(dir, Setup { wanted, ..Setup::default() }).await;
    assert_eq!(server.app().gate().policy().active().component.manifest().version, "8.2.0");
    server.admin.acquire("a").await.done();
}
