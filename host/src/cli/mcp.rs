//! `portreeve mcp`: the tools for one agent, over stdin and stdout.

use std::process::ExitCode;

use clap::Args;
use serde_json::Map;
use tokio::signal::unix::{SignalKind, signal};

use super::error::CliError;
use super::output::Output;
use super::transport::Where;
use crate::client::Client;
use crate::mcp;
use crate::telemetry;

/// Serve one agent's tools over stdin and stdout (MCP)
///
/// An agent's harness starts this. On a data folder the agent is named by --agent, for whoever may read the folder's
/// admin.key; otherwise, and before a running server, it is whoever PORTREEVE_API_KEY belongs to. Stdout holds protocol
/// frames only; messages go to stderr. Ends when the harness closes stdin.
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
        telemetry::init_logs("warn,rmcp=error");
        let stop = stop()?;
        let transport = self.place.connect_as_agent(self.agent.as_deref(), output).await?;
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
        let stop = async {
            stop.await;
            if let Client::Embedded { app, .. } = &client {
                app.begin_stop();
            }
        };
        let ended = mcp::serve(client.clone(), stop).await;
        if let Some(background) = background {
            background.abort();
        }
        client.close().await;
        ended.map(|_| ExitCode::SUCCESS).map_err(|error| broken(&error))
    }
}

/// Returns with the first SIGINT or SIGTERM.
fn stop() -> Result<impl Future<Output = ()> + Send, CliError> {
    let listen = |kind| {
        signal(kind).map_err(|error| {
            let cause = format!("cannot listen for signals: {error}");
            CliError::new(cause, "look at the limits of the process (ulimit -a)")
        })
    };
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

fn broken(error: &std::io::Error) -> CliError {
    let cause = format!("cannot speak MCP on stdin and stdout: {error}");
    CliError::new(cause, "this command is started by an agent's harness: portreeve setup --help")
}
