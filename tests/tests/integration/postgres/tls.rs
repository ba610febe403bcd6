//! A server that takes connections over TLS only: whom a host trusts, and what it says when it does not.

use std::path::Path;

use portreeve::store::StoreError;
use portreeve::store::postgres::{Options, check, migrate};
use serde_json::json;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, PgConnection};

use crate::harness::cli::cli;
use crate::harness::postgres::Tls;
use crate::harness::process::Process;

/// The URL of the cluster's one database for a role, by a name of the server, with what it says of TLS.
fn url(tls: &Tls, role: &str, host: &str, says: &str) -> String {
    format!("{}{says}", tls.url.replace("postgres@127.0.0.1", &format!("{role}@{host}")))
}

fn verified(ca: &Path) -> String {
    format!("?sslmode=verify-full&sslrootcert={}", ca.display())
}

async fn superuser(tls: &Tls) -> PgConnection {
    let url = url(tls, "postgres", "127.0.0.1", &verified(&tls.ca));
    url.parse::<PgConnectOptions>().unwrap().disable_statement_logging().connect().await.unwrap()
}

/// Why a host does not connect.
async fn refused(url: &str) -> StoreError {
    match check(&Options::parse(url).unwrap()).await {
        Ok(_) => panic!("{url} was let in"),
        Err(error) => error,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_connection_is_encrypted_to_a_server_that_is_verified() {
    let tls = Tls::start();
    let says = verified(&tls.ca);
    migrate(&Options::parse(&url(&tls, "postgres", "127.0.0.1", &says)).unwrap(), &mut |_| ()).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    for host in ["127.0.0.1", "localhost"] {
        let service = Process::start_on(dir.path(), Some(url(&tls, "portreeve_app", host, &says)));
        let a = service.agent(&format!("at-{host}"), "claude_code_local").await;
        // Mutations, short looks, lists, hints to other hosts, and the numbers of the log.
        a.acquire("src/a.rs").await.done();
        a.release("src/a.rs").await.done();
        a.get("/locks").await.ok();
        service.admin.get("/audit").await.ok();
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        let mut conn = superuser(&tls).await;
        let sql = "SELECT a.query, s.ssl FROM pg_stat_activity a JOIN pg_stat_ssl s USING (pid)
                   WHERE a.usename = 'portreeve_app'";
        let found: Vec<(String, bool)> = sqlx::query_as(sql).fetch_all(&mut conn).await.unwrap();
        let did = |what: &str| found.iter().filter(|(query, _)| query.contains(what)).count();
        assert!(found.len() >= 5 && did("LISTEN") == 1 && did("pg_notify") == 1, "{found:#?}");
        assert!(found.iter().all(|(_, ssl)| *ssl), "{found:#?}");
        service.terminate();
        assert!(service.ended().await.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_the_one_that_was_meant_is_refused() {
    let tls = Tls::start();
    let (right, wrong) = (verified(&tls.ca), verified(&tls.other_ca));
    let unlisted = refused(&url(&tls, "postgres", "127.0.0.1", "?sslmode=verify-full")).await;
    let other_ca = refused(&url(&tls, "postgres", "127.0.0.1", &wrong)).await;
    let ca_only = refused(&url(&tls, "postgres", "127.0.0.2", &wrong.replace("verify-full", "verify-ca"))).await;
    let other_name = refused(&url(&tls, "postgres", "127.0.0.2", &right)).await;
    for error in [unlisted, other_ca, ca_only, other_name] {
        assert!(matches!(&error, StoreError::Untrusted { cause, .. } if cause.contains("certificate")), "{error:?}");
    }
    // Nobody insists on the name, or on the certificate.
    for says in [right.replace("verify-full", "verify-ca"), "?sslmode=require".to_owned()] {
        check(&Options::parse(&url(&tls, "postgres", "127.0.0.2", &says)).unwrap()).await.unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    let serve = cli(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(dir.path());
    let ended = serve.env("PORTREEVE_DATABASE_URL", url(&tls, "portreeve_app", "127.0.0.1", &wrong)).run();
    assert_eq!(ended.code, 1, "{ended:#?}");
    assert!(ended.stderr.contains("certificate") && ended.stderr.contains("sslrootcert=FILE"), "{ended:#?}");
}

/// A host by a name that is none of this machine's is another machine: nothing goes there in clear or unverified, unless
/// somebody says so.
#[tokio::test(flavor = "multi_thread")]
async fn another_machine_is_verified_by_default() {
    let tls = Tls::start();
    // To the resolver it is 127.0.0.1.
    let elsewhere = |says: &str| url(&tls, "postgres", "127.1", says);
    let ca = format!("?sslrootcert={}", tls.ca.display());
    for says in ["", ca.as_str()] {
        let error = refused(&elsewhere(says)).await;
        assert!(matches!(&error, StoreError::Untrusted { .. }), "`{says}`: {error:?}");
        assert!(!Options::parse(&elsewhere(says)).unwrap().is_unverified());
    }
    // A weaker mode is somebody's word, and `serve` warns of it.
    for mode in ["prefer", "allow", "disable", "require"] {
        assert!(Options::parse(&elsewhere(&format!("?sslmode={mode}"))).unwrap().is_unverified(), "{mode}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_in_clear_is_refused_and_told() {
    let tls = Tls::start();
    for mode in ["disable", "allow"] {
        let error = refused(&url(&tls, "postgres", "127.0.0.1", &format!("?sslmode={mode}"))).await;
        assert!(matches!(&error, StoreError::Unencrypted { .. }), "{mode}: {error:?}");
    }
    // What is preferred on this machine is encrypted where the server can.
    for says in ["", "?sslmode=prefer"] {
        check(&Options::parse(&url(&tls, "postgres", "127.0.0.1", says)).unwrap()).await.unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    let serve = cli(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(dir.path());
    let clear = url(&tls, "portreeve_app", "127.0.0.1", "?sslmode=disable");
    let ended = serve.env("PORTREEVE_DATABASE_URL", clear).run();
    assert_eq!(ended.code, 1, "{ended:#?}");
    let said = json!(ended.stderr).to_string();
    assert!(said.contains("no encryption") && said.contains("sslmode=verify-full"), "{ended:#?}");
}
