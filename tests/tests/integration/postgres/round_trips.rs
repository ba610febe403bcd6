//! A mutation costs one round trip: counted on the wire, between the service and the server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use portreeve::app::{App, Options};
use portreeve::clock::SystemClock;
use portreeve::command::catalogue;
use portreeve::engine::Cage;
use portreeve::gate::Wanted;
use portreeve::store::postgres::Options as Database;
use portreeve::vetting::Gates;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{cache_dir, postgres};

/// What only the connections of mutations insist on.
const OF_MUTATIONS: &[u8] = b"lock_timeout";

/// Passes bytes on, and counts how often a client of mutations waits for the server: each Sync and each simple query.
struct Wire {
    address: SocketAddr,
    trips: Arc<AtomicU64>,
}

impl Wire {
    async fn to(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, trips) = (listener.local_addr().unwrap(), Arc::new(AtomicU64::new(0)));
        let counted = Arc::clone(&trips);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&server).await.unwrap();
                tokio::spawn(pass(client, server, Arc::clone(&counted)));
            }
        });
        Self { address, trips }
    }

    fn trips(&self) -> u64 {
        self.trips.load(Ordering::SeqCst)
    }
}

async fn pass(client: TcpStream, server: TcpStream, trips: Arc<AtomicU64>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
    let (mut unread, mut counts) = (Vec::new(), None);
    let mut chunk = vec![0_u8; 64 << 10];
    while let Ok(read) = from_client.read(&mut chunk).await {
        if read == 0 {
            return;
        }
        // Counted before it is passed on, so that no answer is there before the count.
        unread.extend_from_slice(&chunk[..read]);
        while let Some((kind, length)) = message(&unread, counts.is_none()) {
            match counts {
                // The first message has no kind; it says what the connection insists on.
                None => counts = Some(unread[..length].windows(OF_MUTATIONS.len()).any(|text| text == OF_MUTATIONS)),
                Some(true) if matches!(kind, b'S' | b'Q') => drop(trips.fetch_add(1, Ordering::SeqCst)),
                Some(_) => {}
            }
            unread.drain(..length);
        }
        if to_server.write_all(&chunk[..read]).await.is_err() {
            return;
        }
    }
}

/// Kind and length of the first message, if it is there whole.
fn message(bytes: &[u8], is_first: bool) -> Option<(u8, usize)> {
    let at = usize::from(!is_first);
    let length = u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?);
    let length = usize::try_from(length).unwrap() + at;
    (bytes.len() >= length).then(|| (bytes[0], length))
}

/// A service on one connection for mutations, with the wire in between.
async fn service() -> (Arc<App>, Wire, String, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let database = postgres::clone(dir.path(), postgres::Kind::Served).await;
    let direct = postgres::service_url(&database);
    let server = direct.split('@').nth(1).unwrap().split('/').next().unwrap().to_owned();
    let wire = Wire::to(server).await;
    let url = format!("postgres://portreeve_app@{}/{database}?sslmode=disable", wire.address);
    let options = Options {
        data: dir.path().to_owned(),
        database: Some(Database::parse(&url).unwrap().with_connections(1)),
        new_admin_key: false,
        cache: Some(cache_dir()),
        wanted: Wanted::own(),
        gates: Gates::default(),
        cage: Cage::default(),
        clock: Arc::new(SystemClock::default()),
    };
    let app = App::open(options, &|_| ()).await.unwrap();
    let key = std::fs::read_to_string(dir.path().join("admin.key")).unwrap().trim().to_owned();
    (app, wire, key, dir)
}

async fn call(app: &App, key: &str, name: &str, input: Value) -> Value {
    let entry = catalogue::entry(name).unwrap();
    let answer = app.call(Some(key), entry, input.as_object().unwrap().clone()).await;
    answer.unwrap_or_else(|error| panic!("{name} {input}: {error:?}")).body
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mutation_costs_one_round_trip() {
    let (app, wire, admin, _dir) = service().await;
    let agent = json!({"agent_id": "a", "agent_type": "claude_code", "profile": "claude_code_local"});
    let key = call(&app, &admin, "agent_create", agent).await["key"].as_str().unwrap().to_owned();
    let mut seen = std::collections::BTreeMap::new();
    // The first round prepares the statements.
    for n in 0..2 {
        let mut count = async |key: &str, name: &'static str, input: Value| -> Value {
            let before = wire.trips();
            let body = call(&app, key, name, input).await;
            seen.insert(name, wire.trips() - before);
            body
        };
        let path = format!("src/{n}.rs");
        let token = count(&key, "lock_acquire", json!({"file_path": path})).await["fencing_token"].clone();
        count(&key, "lock_renew", json!({"file_path": path, "fencing_token": token})).await;
        count(&key, "lock_release", json!({"file_path": path})).await;
        count(&admin, "lock_force_release", json!({"file_path": path})).await;
        let submit = json!({"task_type": "build", "task_description": "d"});
        count(&key, "task_submit", submit.clone()).await;
        let claim = count(&key, "task_claim", json!({})).await;
        let (id, token) = (claim["task_id"].clone(), claim["claim_token"].clone());
        count(&key, "task_heartbeat", json!({"task_id": id, "claim_token": token})).await;
        count(&key, "task_complete", json!({"task_id": id, "success": true, "claim_token": token})).await;
        let id = count(&key, "task_submit", submit).await["task_id"].clone();
        count(&key, "task_cancel", json!({"task_id": id})).await;
        count(&key, "handoff_write", json!({"summary": "s"})).await;
        count(&key, "memory_store", json!({"event_type": "decision", "summary": format!("s{n}")})).await;
        count(&key, "session_register", json!({"session_id": "s"})).await;
        count(&key, "session_heartbeat", json!({})).await;
        count(&key, "status_report", json!({"message": "m"})).await;
        count(&admin, "session_cleanup", json!({})).await;
        let other = json!({"agent_id": format!("b{n}"), "agent_type": "codex", "profile": "codex_remote"});
        let other_key = count(&admin, "agent_create", other).await["key_id"].clone();
        let id = json!(format!("b{n}"));
        count(&admin, "agent_key_create", json!({"id": id})).await;
        count(&admin, "agent_key_revoke", json!({"id": id, "key_id": other_key})).await;
        count(&admin, "agent_profile", json!({"id": id, "profile": "codex_local"})).await;
        count(&admin, "agent_suspend", json!({"id": id, "suspended": true})).await;
        let active = app.gate().policy().active();
        let digest = active.component.digest();
        count(&admin, "component_upload", json!({"component": STANDARD.encode(active.component.bytes())})).await;
        count(&admin, "component_activate", json!({"digest": digest, "expected_epoch": active.epoch})).await;
        count(&admin, "component_shadow", json!({"digest": digest})).await;
    }
    // Beside the mutation itself: what policy is asked about has to be looked up. A claim looks whether time has something
    // to do and for its candidate, a report and a withdrawal for their task, a new profile for the agent's type.
    let looks = |name: &str| match name {
        "task_claim" => 2,
        // The host looks what is in force then.
        "component_activate" | "component_shadow" => 1,
        "task_heartbeat" | "task_complete" | "task_cancel" | "agent_profile" => 1,
        _ => 0,
    };
    let mutations = catalogue::CATALOGUE.iter().filter(|entry| entry.kind == catalogue::Kind::Mutation);
    for entry in mutations {
        let trips = seen.get(entry.name).unwrap_or_else(|| panic!("{} was not tried", entry.name));
        assert_eq!(*trips, 1 + looks(entry.name), "{}: {seen:?}", entry.name);
    }
    app.close().await;
}
