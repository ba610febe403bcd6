//! `portreeve agent`: who may work here, under which profile, with which keys.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::body::{fields, hint, items, short_time, text};
use super::error::CliError;
use super::failure;
use super::import::Import;
use super::output::{Output, Tone};
use super::transport::{Transport, Where};
use crate::telemetry;

/// Most agents in one list.
const LIST_MAX: u32 = 1000;

/// Register agents, give and revoke their keys, change profiles, suspend, take over from elsewhere
///
/// Works against a running server (--url, with the admin's key in PORTREEVE_API_KEY) or straight on a data folder
/// (--data), also while a server runs on it. Every change passes policy and is audited.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  portreeve agent add claude-1 --type claude_code --profile claude_code_local\n  PORTREEVE_API_KEY=… portreeve agent list --url http://127.0.0.1:8081"
)]
pub(super) struct Agent {
    #[command(flatten)]
    place: Where,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Add(Add),
    List(List),
    Key(Key),
    Profile(Profile),
    Suspend(Suspend),
    Import(Import),
}

/// Register an agent and show its key, this once
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  portreeve agent add claude-1 --type claude_code --profile claude_code_local --json"
)]
struct Add {
    /// The agent's name
    name: String,
    /// Its type, for instance claude_code
    #[arg(long = "type", value_name = "TYPE")]
    agent_type: String,
    /// A profile of the policy in force (`portreeve policy describe`)
    #[arg(long)]
    profile: String,
    /// An archetype, which tasks may ask for
    #[arg(long)]
    archetype: Option<String>,
    /// What its key is for
    #[arg(long)]
    label: Option<String>,
}

/// List agents
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  portreeve agent list --json")]
struct List {}

/// Give an agent one more key, list its keys, or revoke one
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  portreeve agent key claude-1 new --label laptop\n  portreeve agent key claude-1 list\n  portreeve agent key claude-1 revoke KEY_ID"
)]
struct Key {
    /// The agent's name
    name: String,
    #[command(subcommand)]
    action: KeyAction,
}

#[derive(Debug, Subcommand)]
enum KeyAction {
    /// Give one more key and show it, this once
    #[command(after_help = "Example:\n  portreeve agent key claude-1 new --label laptop")]
    New {
        /// What the key is for
        #[arg(long)]
        label: Option<String>,
    },
    /// List keys, without their secrets
    #[command(after_help = "Example:\n  portreeve agent key claude-1 list")]
    List,
    /// Take a key back, for good
    #[command(after_help = "Example:\n  portreeve agent key claude-1 revoke KEY_ID")]
    Revoke {
        /// Which key, as `list` shows it
        key_id: String,
    },
}

/// Give an agent another profile
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  portreeve agent profile claude-1 claude_code_reviewer")]
struct Profile {
    /// The agent's name
    name: String,
    /// A profile of the policy in force (`portreeve policy describe`)
    profile: String,
}

/// Suspend an agent from its next request on, or let it work again
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  portreeve agent suspend claude-1 --reason 'leaked key'\n  portreeve agent suspend claude-1 --resume"
)]
struct Suspend {
    /// The agent's name
    name: String,
    /// Why, in words
    #[arg(long)]
    reason: Option<String>,
    /// Let it work again
    #[arg(long)]
    resume: bool,
}

impl Agent {
    pub(super) async fn run(self, output: &Output) -> Result<ExitCode, CliError> {
        telemetry::init_logs("warn");
        let transport = self.place.connect(output).await?;
        let ended = self.action.run(&transport, output).await;
        transport.close().await;
        ended
    }
}

impl Action {
    async fn run(self, to: &Transport, output: &Output) -> Result<ExitCode, CliError> {
        let done = match self {
            Self::Import(import) => return import.run(to, output).await,
            Self::Add(add) => add.run(to, output).await,
            Self::List(_) => list(to, output).await,
            Self::Key(key) => key.run(to, output).await,
            Self::Profile(profile) => profile.run(to, output).await,
            Self::Suspend(suspend) => suspend.run(to, output).await,
        };
        done.map(|()| ExitCode::SUCCESS)
    }
}

impl Add {
    async fn run(self, to: &Transport, output: &Output) -> Result<(), CliError> {
        let input = json!({
            "agent_id": self.name, "agent_type": self.agent_type, "profile": self.profile, "archetype": self.archetype,
            "label": self.label,
        });
        let created = change(to, "agent_create", input).await?;
        print_key(&created, output)
    }
}

impl Key {
    async fn run(self, to: &Transport, output: &Output) -> Result<(), CliError> {
        match self.action {
            KeyAction::New { label } => {
                let created = change(to, "agent_key_create", json!({"id": self.name, "label": label})).await?;
                print_key(&created, output)
            }
            KeyAction::List => list_keys(to, &self.name, output).await,
            KeyAction::Revoke { key_id } => {
                let revoked = change(to, "agent_key_revoke", json!({"id": self.name, "key_id": key_id})).await?;
                done(&revoked, format_args!("revoked key {key_id} of {}", self.name), output)
            }
        }
    }
}

impl Profile {
    async fn run(self, to: &Transport, output: &Output) -> Result<(), CliError> {
        let changed = change(to, "agent_profile", json!({"id": self.name, "profile": self.profile})).await?;
        done(&changed, format_args!("{} has profile {}", self.name, self.profile), output)
    }
}

impl Suspend {
    async fn run(self, to: &Transport, output: &Output) -> Result<(), CliError> {
        let input = json!({"id": self.name, "suspended": !self.resume, "reason": self.reason});
        let changed = change(to, "agent_suspend", input).await?;
        let state = if self.resume { "works again" } else { "is suspended" };
        done(&changed, format_args!("{} {state}", self.name), output)
    }
}

/// Runs a command of the catalogue; a refusal is an error here.
async fn change(to: &Transport, name: &str, input: Value) -> Result<Value, CliError> {
    let body = to.call(name, fields(input)).await?;
    failure::unsuccessful(&body).map(|()| body)
}

fn done(body: &Value, text: std::fmt::Arguments<'_>, output: &Output) -> Result<(), CliError> {
    if output.json { output.json(body) } else { output.line(text) }
}

fn print_key(created: &Value, output: &Output) -> Result<(), CliError> {
    if output.json {
        return output.json(created);
    }
    output.line(format_args!("agent   {}", text(created, "agent_id")))?;
    output.line(format_args!("key id  {}", text(created, "key_id")))?;
    output.line(format_args!("key     {}", output.paint(Tone::Good, text(created, "key"))))?;
    output.note("The key is shown this once. The agent takes it from PORTREEVE_API_KEY.");
    Ok(())
}

async fn list(to: &Transport, output: &Output) -> Result<(), CliError> {
    let body = to.call("agent_list", fields(json!({"limit": LIST_MAX}))).await?;
    if output.json {
        return output.json(&body);
    }
    let header = ["AGENT", "TYPE", "PROFILE", "ARCHETYPE", "STATE", "KEYS", "SINCE", "REGISTERED BY"];
    output.table(&header, items(&body, "agents").iter().map(row_of_agent))?;
    if let Some(hint) = hint(&body) {
        output.note(hint);
    }
    Ok(())
}

fn row_of_agent(agent: &Value) -> [String; 8] {
    let state = match (agent.get("suspended") == Some(&Value::Bool(true)), text(agent, "suspended_reason")) {
        (false, _) => "active".to_owned(),
        (true, "") => "suspended".to_owned(),
        (true, reason) => format!("suspended: {reason}"),
    };
    let live = items(agent, "keys").iter().filter(|key| text(key, "revoked_at").is_empty()).count();
    [
        text(agent, "agent_id").to_owned(),
        text(agent, "agent_type").to_owned(),
        text(agent, "profile").to_owned(),
        text(agent, "archetype").to_owned(),
        state,
        live.to_string(),
        short_time(text(agent, "created_at")),
        text(agent, "created_by").to_owned(),
    ]
}

async fn list_keys(to: &Transport, name: &str, output: &Output) -> Result<(), CliError> {
    let body = to.call("agent_list", fields(json!({"agent_id": name}))).await?;
    let Some(agent) = items(&body, "agents").first() else {
        return Err(CliError::new(format!("there is no agent `{name}`"), "`portreeve agent list` shows who there is"));
    };
    if output.json {
        return output.json(&json!({"agent_id": name, "keys": agent.get("keys")}));
    }
    output.table(&["KEY ID", "LABEL", "STATE", "SINCE", "GIVEN BY"], items(agent, "keys").iter().map(row_of_key))
}

fn row_of_key(key: &Value) -> [String; 5] {
    let revoked = text(key, "revoked_at");
    let state = if revoked.is_empty() { "live".to_owned() } else { format!("revoked {}", short_time(revoked)) };
    [
        text(key, "key_id").to_owned(),
        text(key, "label").to_owned(),
        state,
        short_time(text(key, "created_at")),
        text(key, "created_by").to_owned(),
    ]
}
