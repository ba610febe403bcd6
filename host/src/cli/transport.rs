//! How a command reaches the service, and what its answers mean to somebody at a command line.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use serde_json::{Map, Value};

use super::body::text;
use super::error::{CliError, EXIT_USAGE};
use super::output::Output;
use super::progress::Progress;
use super::{failure, folders};
use crate::app::{App, Options};
use crate::client::{Caller, Client, ClientError, Request};
use crate::clock::SystemClock;
use crate::command::catalogue::{self, Answer, Entry, Kind};
use crate::engine::Cage;
use crate::gate::Wanted;
use crate::store::postgres;

/// Where the service is.
#[derive(Debug, Clone, Args)]
pub(super) struct Where {
    /// A running server; the key is taken from PORTREEVE_API_KEY [env: PORTREEVE_URL]
    #[arg(long, global = true, value_name = "URL")]
    pub(super) url: Option<String>,
    /// A data folder, with or without a server on it; the key is its admin.key, else PORTREEVE_API_KEY
    /// [env: PORTREEVE_DATA] [default: the folder that `serve` uses]
    #[arg(long, global = true, value_name = "DIR")]
    pub(super) data: Option<PathBuf>,
    /// The PostgreSQL database that the service uses [env: PORTREEVE_DATABASE_URL] [default: the folder's]
    #[arg(long, global = true, value_name = "URL")]
    pub(super) database: Option<String>,
}

/// A way to the service.
pub(super) struct Transport(Client);

impl Where {
    /// Connects. An option goes before a variable, and a URL before the default folder.
    pub(super) async fn connect(&self, output: &Output) -> Result<Transport, CliError> {
        self.connect_as(None, output).await
    }

    /// Connects as an agent of the folder, or as whoever the key says.
    pub(super) async fn connect_as(&self, agent: Option<&str>, output: &Output) -> Result<Transport, CliError> {
        if let Some(agent) = agent
            && let Some(url) = self.server()
        {
            return Err(CliError::new(
                format!(
                    "--agent {agent} is for a data folder, and `{url}` is a server, which knows callers by their key"
                ),
                "set PORTREEVE_API_KEY to that agent's key, or name the folder: --data DIR",
            )
            .with_exit(EXIT_USAGE));
        }
        self.check()?;
        match self.server() {
            Some(url) => http(&url, output),
            None => self.embedded(agent, output).await,
        }
    }

    /// Connects for an agent's harness: as the agent that is named, else as whoever the key belongs to. Never as the
    /// folder's admin, whose standing is no agent's to have because nobody named one.
    pub(super) async fn connect_as_agent(&self, agent: Option<&str>, output: &Output) -> Result<Transport, CliError> {
        if agent.is_some() || self.server().is_some() {
            return self.connect_as(agent, output).await;
        }
        let data = self.store_folder()?;
        let database = self.database(&data)?;
        let key = api_key().ok_or_else(|| {
            CliError::new(
                "it is not known which agent this is for",
                "name it: --agent NAME (`portreeve agent add NAME …` registers one), or set PORTREEVE_API_KEY to its key",
            )
            .with_exit(EXIT_USAGE)
        })?;
        attach(data, database, Caller::Key(key), output).await
    }

    /// Refuses what names two services.
    pub(super) fn check(&self) -> Result<(), CliError> {
        let other = if self.data.is_some() { "--data" } else { "--database" };
        if self.url.is_none() || (self.data.is_none() && self.database.is_none()) {
            return Ok(());
        }
        let next = "give the one that you mean: --url for a running server, --data for a folder";
        Err(CliError::new(format!("--url and {other} name two services"), next).with_exit(EXIT_USAGE))
    }

    /// The server that is named, by an option or, where no folder is, by the variable.
    pub(super) fn server(&self) -> Option<String> {
        let variable = || folders::variable("PORTREEVE_URL").map(|url| url.to_string_lossy().into_owned());
        let is_here = self.data.is_some() || self.database.is_some();
        self.url.clone().or_else(|| if is_here { None } else { variable() })
    }

    /// The data folder, which must hold a store already: a mistyped name must not become a new service.
    pub(super) fn store_folder(&self) -> Result<PathBuf, CliError> {
        let data = folders::data(self.data.clone())?;
        if folders::has_store(&data) || self.database(&data)?.is_some() {
            return Ok(data);
        }
        Err(CliError::new(
            format!("there is no Portreeve store in `{}`", data.display()),
            "start `portreeve serve` on that folder once, name another (--data DIR), or a running server (--url URL)",
        ))
    }

    /// The database that is named, if one is.
    pub(super) fn database(&self, data: &Path) -> Result<Option<postgres::Options>, CliError> {
        folders::database(self.database.as_deref(), Some(data))
    }

    async fn embedded(&self, agent: Option<&str>, output: &Output) -> Result<Transport, CliError> {
        let data = self.store_folder()?;
        let database = self.database(&data)?;
        let caller = caller_of(&data, agent)?;
        attach(data, database, caller, output).await
    }
}

/// Opens the service on a folder in this process.
async fn attach(
    data: PathBuf,
    database: Option<postgres::Options>,
    caller: Caller,
    output: &Output,
) -> Result<Transport, CliError> {
    let gates = folders::gates_of_service(&data)?;
    let options = Options {
        data,
        // One caller needs no more.
        database: database.map(|options| options.with_connections(4)),
        new_admin_key: false,
        cache: folders::service_cache(None),
        wanted: Wanted::own(),
        gates,
        cage: Cage::default(),
        clock: Arc::new(SystemClock::default()),
    };
    let progress = Progress::new(output);
    let app = App::attach(options, &|stage| progress.show(stage)).await;
    let app = app.map_err(|error| failure::open(&error, None))?;
    Ok(Transport(Client::Embedded { app, caller }))
}

/// The admin of a folder, or the agent that whoever may read the admin's key names.
fn caller_of(data: &Path, agent: Option<&str>) -> Result<Caller, CliError> {
    let Some(agent) = agent else { return key_of(data).map(Caller::Key) };
    let admin_key = admin_key(data).map_err(|error| {
        CliError::new(
            error,
            "run this as the folder's owner, or use a server and the agent's own key: --url URL with PORTREEVE_API_KEY",
        )
    })?;
    Ok(Caller::Agent { agent_id: agent.to_owned(), admin_key })
}

fn admin_key(data: &Path) -> Result<String, String> {
    let path = data.join("admin.key");
    let read = std::fs::read_to_string(&path).map(|key| key.trim().to_owned());
    read.map_err(|error| format!("cannot read the admin key `{}`: {error}", path.display()))
}

/// Whoever may read the folder's admin key acts as the admin; nobody else can.
fn key_of(data: &Path) -> Result<String, CliError> {
    admin_key(data).or_else(|error| {
        api_key().ok_or_else(|| {
            CliError::new(
                error,
                "run this as the folder's owner, or set PORTREEVE_API_KEY; `portreeve serve` makes a lost admin.key anew",
            )
        })
    })
}

fn api_key() -> Option<String> {
    folders::variable("PORTREEVE_API_KEY")
        .map(|key| key.to_string_lossy().trim().to_owned())
        .filter(|key| !key.is_empty())
}

fn http(url: &str, output: &Output) -> Result<Transport, CliError> {
    let key = api_key().ok_or_else(|| {
        CliError::new(
            "there is no key for the server: PORTREEVE_API_KEY is not set",
            "PORTREEVE_API_KEY=$(cat DATA/admin.key) portreeve …, with the data folder that the server printed",
        )
    })?;
    let client = Client::http(url, key).map_err(|error| failure::client(&error, Kind::Query))?;
    if client.is_in_clear() {
        output.warn("the key goes to the server in clear; use https, or a tunnel");
    }
    Ok(Transport(client))
}

impl Transport {
    /// Runs an entry of the catalogue and hands back the body of its answer.
    pub(super) async fn call(&self, name: &str, input: Map<String, Value>) -> Result<Value, CliError> {
        self.call_as(name, input, &crate::command::new_id()).await
    }

    /// As [`Self::call`], under a request identifier of the caller's choice.
    pub(super) async fn call_as(
        &self,
        name: &str,
        input: Map<String, Value>,
        request_id: &str,
    ) -> Result<Value, CliError> {
        let Some(entry) = catalogue::entry(name) else {
            return Err(CliError::new(
                format!("`{name}` is not in the catalogue"),
                "report this: it is a fault of the program",
            ));
        };
        let request = Request { input, request_id: request_id.to_owned(), idempotency_key: None };
        let answer = self.ask(entry, request).await?;
        if answer.is_refusal() { Err(self.refused(&answer.body)) } else { Ok(answer.body) }
    }

    /// What a refusal means to whoever came this way.
    pub(super) fn refused(&self, body: &Value) -> CliError {
        match &self.0 {
            Client::Embedded { caller: Caller::Agent { agent_id, .. }, .. }
                if text(body, "error") == "unauthenticated" =>
            {
                let cause = format!("there is no agent `{agent_id}` in the folder, or its admin.key is another's");
                CliError::new(cause, "`portreeve agent list` shows who there is").with_body(body)
            }
            _ => failure::refused(body),
        }
    }

    /// Runs an entry of the catalogue; a refusal is an answer here.
    pub(super) async fn ask(&self, entry: &'static Entry, request: Request) -> Result<Answer, CliError> {
        self.0.call(entry, request).await.map_err(|error: ClientError| failure::client(&error, entry.kind))
    }

    /// The client, for whoever speaks to the service without a command line.
    pub(super) fn client(self) -> Client {
        self.0
    }

    /// Ends the connection; an embedded service commits what it has.
    pub(super) async fn close(self) {
        self.0.close().await;
    }
}
