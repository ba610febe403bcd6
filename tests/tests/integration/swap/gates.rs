//! The gates that an operator closes.

use std::time::Duration;

use portreeve::signature::PrivateKey;
use portreeve::vetting::Gates;
use serde_json::json;

use super::{activate, built, epoch, renamed, stored, with, without_handoffs};
use crate::harness::state::{audit_json, connect};
use crate::harness::{Server, cache_dir};

#[tokio::test(flavor = "multi_thread")]
async fn signers_and_their_versions_are_held_to() {
    let (key, stranger) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
    let gates = Gates { trusted_signers: vec![key.public()], ..Gates::default() };
    let server = Server::start_with(with(gates)).await;
    let bytes = built(&renamed("2.0.0"));
    let mut tampered = key.sign(&bytes, 3);
    // One letter of the text that it carries.
    let at = tampered.windows(7).rposition(|window| window == b"destroy" || window == b"suspend").unwrap();
    tampered[at] ^= 0x20;
    for (bytes, reason) in
        [(bytes.clone(), "not_trusted"), (stranger.sign(&bytes, 3), "not_trusted"), (tampered, "not_trusted")]
    {
        let digest = stored(&server, bytes).await;
        let body = activate(&server.admin, &digest, 1).await.refused(reason);
        assert_eq!(body["epoch"], 1);
    }
    let third = stored(&server, key.sign(&bytes, 3)).await;
    let done = activate(&server.admin, &third, 1).await.done();
    assert_eq!(done["evidence"]["signature"]["version"], 3, "{done}");
    assert_eq!(done["evidence"]["signature"]["signed_by"], json!(key.public().id()));
    let second = stored(&server, key.sign(&bytes, 2)).await;
    let body = activate(&server.admin, &second, 2).await.refused("older_version");
    assert!(body["detail"].as_str().unwrap().contains("version 3"), "{body}");
    // Of two files under one version only the first is ever in force; itself it may be again.
    let other = stored(&server, key.sign(&built(&renamed("2.0.1")), 3)).await;
    activate(&server.admin, &other, 2).await.refused("older_version");
    activate(&server.admin, &third, 2).await.done();
    activate(&server.admin, &second, 3).await.refused("older_version");
    // The evidence is in the log.
    let rows = audit_json(&mut connect(server.data()).await, 0).await;
    let last = rows.iter().rev().find(|row| row["command"] == "component_activate").unwrap();
    assert_eq!(last["outcome"], "refused");
    assert!(last["result"].as_str().unwrap().contains("older_version"), "{last}");
    assert_eq!(epoch(&server).await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strangers_version_is_no_version() {
    let (key, stranger) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
    let server = Server::start().await;
    let highest = u64::try_from(i64::MAX).unwrap();
    let first = stored(&server, stranger.sign(&built(&renamed("2.0.0")), highest)).await;
    activate(&server.admin, &first, 1).await.done();
    // The gate is closed later.
    let gates = Gates { trusted_signers: vec![key.public()], ..Gates::default() };
    let server = Server::start_on(server.stop().await, with(gates)).await;
    let body = activate(&server.admin, &first, 2).await.refused("not_trusted");
    assert_eq!(body["evidence"]["signed"]["by"], json!(stranger.public().id()), "{body}");
    let second = stored(&server, key.sign(&built(&renamed("2.0.1")), 1)).await;
    activate(&server.admin, &second, 2).await.done();
}

#[tokio::test(flavor = "multi_thread")]
async fn tests_and_a_replay_are_required_where_the_operator_says_so() {
    let gates = Gates { require_tests: true, require_replay: Some(50), ..Gates::default() };
    let server = Server::start_with(with(gates)).await;
    let agent = server.agent("worker", "claude_code_remote").await;
    for n in 0..3 {
        agent.post("/handoffs/write", json!({"summary": format!("{n}")})).await.done();
    }
    let mut untested = renamed("3.0.0");
    untested.retain(|file| !file.path.starts_with("decisions/"));
    for file in untested.iter_mut().filter(|file| file.path.starts_with("guardrails/")) {
        file.text = String::new();
    }
    // Rows that nobody can ask again are easily made; they push nothing out.
    for _ in 0..60 {
        let body = json!({"file_path": "a", "agent_id": "somebody-else"});
        agent.post("/locks/acquire", body).await.denied("identity_mismatch");
    }
    let narrower = stored(&server, built(&without_handoffs())).await;
    let body = activate(&server.admin, &narrower, 1).await.refused("replay_differs");
    assert_eq!(body["evidence"]["replay"]["changed"], 3, "{body}");
    let path = format!("/components/{narrower}/activate");
    server.admin.post(&path, json!({"expected_epoch": 1, "accept_changes": 2})).await.refused("replay_differs");
    server.admin.post(&path, json!({"expected_epoch": 1, "accept_changes": 3})).await.done();
    let untested = stored(&server, built(&untested)).await;
    activate(&server.admin, &untested, 2).await.refused("tests_missing");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wider_is_refused_where_the_operator_says_so() {
    let cache = cache_dir();
    let program = portreeve::authoring::solver::find(&portreeve::authoring::solver::folder(&cache)).unwrap();
    let solver = portreeve::authoring::solver::Solver { program, limit: Duration::from_secs(60) };
    let server = Server::start_with(with(Gates { refuse_wider: Some(solver), ..Gates::default() })).await;
    let narrower = stored(&server, built(&without_handoffs())).await;
    let done = activate(&server.admin, &narrower, 1).await.done();
    assert_eq!(done["evidence"]["comparison"]["verdict"], "narrower", "{done}");
    let wider = stored(&server, built(&renamed("4.0.0"))).await;
    let body = activate(&server.admin, &wider, 2).await.refused("wider");
    assert_eq!(body["evidence"]["comparison"]["verdict"], "wider", "{body}");
    // A file may say that it was made of a harmless text: it is made again of that.
    let mut lying = built(&renamed("5.0.0"));
    let at = lying.windows(5).rposition(|window| window == b"5.0.0").unwrap();
    lying[at] = b'6';
    let lying = stored(&server, lying).await;
    let body = activate(&server.admin, &lying, 2).await.refused("not_comparable");
    assert!(body["detail"].as_str().unwrap().contains("not what this program makes"), "{body}");
    assert_eq!(epoch(&server).await, 2);
}
