//! `portreeve mcp`: the tools for one agent, over stdin and stdout.

use std::process::ExitCode;

use clap::Args;
use serde_json::Map;
use tokio::signal::unix::{SignalKind, signal};

use super::error::CliError;
use super::output::Output;
use super::transport::Where;
use crate::client::Client;
use crate::mcp::serve_stdio;
use crate::telemetry;

/// Serve one agent's tools over stdin and stdout (MCP)
///
/// An agent's harness starts this. On a data folder the agent is named by --agent, for whoever may read the folder's
/// admin.key; before a running server the agent is whoever PORTREEVE_API_KEY belongs to. Stdout holds protocol frames
/// only; messages go to stderr.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  portreeve mcp --agent claude-1\n  PORTREEVE_API_KEY=… portreeve mcp --url http://127.0.0.1:8081"
)]
pub(super) struct Mcp {
    #[command(flatten)]
    place: Where,
    /// The agent, on a data folder
    #[arg(long, value_name = "NAME", env = "PORTREEVE_AGENT")]
    agent: Option<String>,
}

impl Mcp {
    pub(super) async fn run(self, output: &Output) -> Result<ExitCode, CliError> {
        telemetry::init_logs("warn");
        let transport = self.place.connect_as(self.agent.as_deref(), output).await?;
        // Asked before a session begins, because a harness shows what is on stderr then, and hardly later. Whoever may
        // not even see its own profile has no use for tools.
        if let Err(error) = transport.call("profile_me", Map::new()).await {
            transport.close().await;
            return Err(error);
        }
        let client = transport.client();
        let background = match &client {
            Client::Embedded { app, .. } => Some(app.spawn_background()),
            Client::Http { .. } => None,
        };
        let ended = tokio::select! {
            ended = serve_stdio(client.clone()) => ended.map_err(|error| broken(&error)),
            stopped = stop() => stopped,
        };
        if let Client::Embedded { app, .. } = &client {
            app.begin_stop();
        }
        if let Some(background) = background {
            background.abort();
        }
        client.close().await;
        ended.map(|()| ExitCode::SUCCESS)
    }
}

/// Ends with the first SIGINT or SIGTERM.
async fn stop() -> Result<(), CliError> {
    let deaf = |error: std::io::Error| {
        CliError::new(format!("cannot listen for signals: {error}"), "look at the limits of the process (ulimit -a)")
    };
    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt()).map_err(deaf)?, signal(SignalKind::terminate()).map_err(deaf)?);
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

fn broken(error: &crate::mcp::StdioError) -> CliError {
    CliError::new(error.to_string(), "this command is started by an agent's harness: portreeve setup --help")
}
