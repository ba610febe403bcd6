//! What a run needs before it starts: a folder, a server, a client, and paths that may be quoted.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::{StreamExt, stream};
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};

use super::material::{Material, Source};
use crate::app::App;
use crate::cli::error::CliError;
use crate::cli::failure;
use crate::clock::SharedClock;
use crate::command::plain;
use crate::engine::PolicyComponent;
use crate::engine::types::{Effect, PolicyPrincipal, PolicyRequest, Target, TaskTarget};
use crate::http::{Served, serve};
use crate::store::{Location, Store, postgres};

/// Paths that the guardrails read at once.
const PATHS_AT_ONCE: usize = 100;
/// Decisions about names that are asked for at once.
const ASKED_AT_ONCE: usize = 4;

/// The data folder of a run.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) path: PathBuf,
    /// Removed when dropped.
    _temporary: Option<TempDir>,
}

impl Folder {
    /// The folder to keep, else a temporary one.
    pub(super) fn new(keep: Option<&Path>) -> Result<Self, CliError> {
        let Some(path) = keep else {
            let temporary = TempDir::with_prefix("portreeve-demo-").map_err(|error| {
                let cause = format!("cannot make a temporary folder: {error}");
                CliError::new(cause, "look at TMPDIR and the space there, or name a folder: --keep DIR")
            })?;
            return Ok(Self { path: temporary.path().join("data"), _temporary: Some(temporary) });
        };
        // A run is checked against its whole log, so it cannot go on from another's.
        match std::fs::read_dir(path).map(|mut entries| entries.next().is_some()) {
            Ok(true) => Err(CliError::new(
                format!("`{}` is not empty", path.display()),
                "name a folder that is new or empty: --keep DIR",
            )),
            _ => Ok(Self { path: path.to_owned(), _temporary: None }),
        }
    }
}

/// Refuses a database that was served before: a run is checked against its whole log.
pub(super) async fn unserved(database: &postgres::Options, clock: &SharedClock) -> Result<(), CliError> {
    let location = Location::Postgres(database.clone().with_connections(1));
    let store = Store::open(location, Arc::clone(clock)).await.map_err(|error| failure::store(&error))?;
    let rows = store.view().audit_rows(0, 1).await;
    store.close().await;
    if rows.map_err(|error| failure::store(&error))?.is_empty() {
        return Ok(());
    }
    Err(CliError::new(
        format!("{database} was served before"),
        "name a database of the run's own: CREATE DATABASE, then `portreeve migrate`",
    ))
}

/// Serves on a free port of this machine.
pub(super) async fn start(app: Arc<App>) -> Result<Served, CliError> {
    match serve(Arc::clone(&app), SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await {
        Ok(served) => Ok(served),
        Err(error) => {
            app.close().await;
            let cause = format!("cannot listen on 127.0.0.1: {error}");
            Err(CliError::new(cause, "look at the machine's network settings and limits"))
        }
    }
}

/// One client for all agents; each connection is kept and used again.
pub(super) fn http_client() -> Result<reqwest::Client, CliError> {
    // Fails when one is installed already, which is as well.
    drop(rustls::crypto::ring::default_provider().install_default());
    // The server is on this machine: no proxy, and no certificate is looked at.
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).build();
    client.map_err(|error| {
        CliError::new(format!("cannot set up HTTP: {error}"), "please report this as a fault of the program")
    })
}

/// Waits for Ctrl-C or a request to end. Where neither can be listened for, the process ends by them as any other does.
pub(super) async fn interrupted() {
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return std::future::pending().await };
    let asked = tokio::select! {
        asked = tokio::signal::ctrl_c() => asked.is_ok(),
        asked = terminate.recv() => asked.is_some(),
    };
    if !asked {
        std::future::pending().await
    }
}

/// Sorts the files by what the guardrails say to their names: some nobody may lock, some no task should quote.
pub(super) async fn sort_out(material: &mut Material, component: &Arc<PolicyComponent>) {
    let asked = stream::iter(std::mem::take(&mut material.files)).map(|source| async {
        // A lock's key is among the texts that the guardrails read.
        let text = ("file_path", source.path.as_str());
        let key = || Target::LockKey(source.path.clone());
        let free = passes("claude_code_remote", "acquire_lock", key(), text, component).await;
        let to_local = free || passes("claude_code_local", "acquire_lock", key(), text, component).await;
        (source, free, to_local)
    });
    for (source, free, to_local) in asked.buffered(ASKED_AT_ONCE).collect::<Vec<_>>().await {
        match (free, to_local) {
            (true, _) => material.files.push(source),
            (false, false) => material.guarded.push(source),
            // What trust decides about is left out: nobody could say what to expect.
            (false, true) => material.skipped += 1,
        }
    }
    for sources in material.files.chunks_mut(PATHS_AT_ONCE) {
        if quotable(sources, component).await {
            continue;
        }
        for source in sources {
            source.quotable = quotable(std::slice::from_ref(source), component).await;
        }
    }
}

async fn quotable(sources: &[Source], component: &Arc<PolicyComponent>) -> bool {
    let text: String = sources.iter().map(|source| format!("Rework {} (1 lines).\n", source.path)).collect();
    let target = TaskTarget { id: String::new(), task_type: "implement".to_owned(), priority: 5 };
    passes("claude_code_remote", "submit_work", Target::Task(target), ("task_description", &text), component).await
}

async fn passes(
    profile: &str,
    operation: &str,
    target: Target,
    (label, text): (&str, &str),
    component: &Arc<PolicyComponent>,
) -> bool {
    let principal = PolicyPrincipal {
        agent_id: "demo".to_owned(),
        agent_type: "claude_code".to_owned(),
        profile: profile.to_owned(),
        suspended: false,
    };
    let texts = plain(&[(label, Some(text))]);
    let request = PolicyRequest { principal, operation: operation.to_owned(), target, texts };
    component.decide_async(request).await.is_ok_and(|decided| decided.decision.effect == Effect::Allow)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_holds_something_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Folder::new(Some(dir.path())).is_ok());
        std::fs::write(dir.path().join("x"), "x").unwrap();
        assert!(Folder::new(Some(dir.path())).unwrap_err().cause.contains("not empty"));
        assert!(Folder::new(Some(&dir.path().join("new"))).is_ok());
    }

    #[test]
    fn the_client_needs_neither_certificates_nor_proxies() {
        assert!(http_client().is_ok());
    }
}
