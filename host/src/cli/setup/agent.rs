//! The agent that a tool works as on a data folder: looked up, and registered where it is missing.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};

use super::entry::Tool;
use crate::app::{App, Options};
use crate::cli::body::{fields, items, text};
use crate::cli::error::CliError;
use crate::cli::output::Output;
use crate::cli::progress::Progress;
use crate::cli::transport::{Transport, Where};
use crate::cli::{failure, folders};
use crate::clock::SystemClock;
use crate::engine::Cage;
use crate::gate::Wanted;

/// The profile that a tool's agent gets on the machine of the person it works for.
pub(super) fn profile_of(tool: Tool) -> String {
    format!("{}_local", tool.agent_type())
}

/// How the agent stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is there, with these facts.
    There { agent_type: String, profile: String, suspended: bool },
    /// It is to be registered.
    Missing,
    /// It was registered by this run.
    Registered,
}

/// What has to be there before a tool can work as an agent.
#[derive(Debug)]
pub(super) struct Preparation {
    agent: String,
    tool: Tool,
    place: Where,
    data: PathBuf,
    has_store: bool,
    standing: Standing,
}

/// Looks whether store and agent are there; changes nothing.
pub(super) async fn prepare(agent: &str, tool: Tool, place: &Where, output: &Output) -> Result<Preparation, CliError> {
    let data = folders::data(place.data.clone())?;
    let (has_store, place) = (folders::has_store(&data), place.clone());
    let mut prepared =
        Preparation { agent: agent.to_owned(), tool, place, data, has_store, standing: Standing::Missing };
    if has_store {
        let transport = prepared.place.connect(output).await?;
        let found = prepared.look(&transport).await;
        transport.close().await;
        prepared.standing = found?;
    }
    Ok(prepared)
}

impl Preparation {
    pub(super) fn is_done(&self) -> bool {
        matches!(self.standing, Standing::There { .. })
    }

    pub(super) const fn standing(&self) -> &Standing {
        &self.standing
    }

    /// What is to be done, in words.
    pub(super) fn steps(&self) -> Vec<String> {
        let mut steps = Vec::new();
        if !self.has_store {
            steps.push(format!("make a data folder with a new store in {}", self.data.display()));
        }
        if self.standing == Standing::Missing {
            let (agent_type, profile) = (self.tool.agent_type(), profile_of(self.tool));
            steps.push(format!("register the agent {} of type {agent_type} with profile {profile}", self.agent));
        }
        steps
    }

    /// What was done, in words, if an agent was registered.
    pub(super) fn registered(&self) -> Option<String> {
        (self.standing == Standing::Registered).then(|| {
            format!("registered agent {} with profile {}, without a key of its own", self.agent, profile_of(self.tool))
        })
    }

    async fn look(&self, to: &Transport) -> Result<Standing, CliError> {
        let body = to.call("agent_list", fields(json!({"agent_id": self.agent, "with_profiles": true}))).await?;
        if let Some(found) = items(&body, "agents").first() {
            return Ok(Standing::There {
                agent_type: text(found, "agent_type").to_owned(),
                profile: text(found, "profile").to_owned(),
                suspended: found.get("suspended") == Some(&Value::Bool(true)),
            });
        }
        let profile = profile_of(self.tool);
        if items(&body, "profiles").iter().any(|info| text(info, "name") == profile) {
            return Ok(Standing::Missing);
        }
        Err(CliError::new(
            format!(
                "there is no agent `{}`, and the policy in force has no profile `{profile}` to register it with",
                self.agent
            ),
            format!("portreeve agent add {} --type {} --profile PROFILE", self.agent, self.tool.agent_type()),
        ))
    }

    /// Makes what is missing, through the gate like everything else.
    pub(super) async fn carry_out(&mut self, output: &Output) -> Result<(), CliError> {
        if !self.has_store {
            self.make_store(output).await?;
        }
        if self.standing != Standing::Missing {
            return Ok(());
        }
        let input = json!({
            "agent_id": self.agent, "agent_type": self.tool.agent_type(), "profile": profile_of(self.tool),
            "with_key": false,
        });
        let transport = self.place.connect(output).await?;
        let created = transport.call("agent_create", fields(input)).await;
        transport.close().await;
        failure::unsuccessful(&created?)?;
        self.standing = Standing::Registered;
        Ok(())
    }

    /// As the first `portreeve serve` does.
    async fn make_store(&self, output: &Output) -> Result<(), CliError> {
        let options = Options {
            data: self.data.clone(),
            database: self.place.database(&self.data)?,
            new_admin_key: false,
            cache: folders::service_cache(None),
            wanted: Wanted::own(),
            gates: folders::gates_of_service(&self.data)?,
            cage: Cage::default(),
            clock: Arc::new(SystemClock::default()),
        };
        let progress = Progress::new(output);
        let app = App::open(options, &|stage| progress.show(stage)).await;
        app.map_err(|error| failure::open(&error, None))?.close().await;
        Ok(())
    }
}

impl Standing {
    pub(super) fn to_json(&self) -> Value {
        match self {
            Self::There { agent_type, profile, suspended } => {
                json!({"registered": true, "new": false, "agent_type": agent_type, "profile": profile, "suspended": suspended})
            }
            Self::Missing => json!({"registered": false, "new": false}),
            Self::Registered => json!({"registered": true, "new": true}),
        }
    }

    /// Facts that the person may not expect.
    pub(super) fn warn(&self, tool: Tool, output: &Output) {
        let Self::There { agent_type, profile, suspended } = self else { return };
        if agent_type != tool.agent_type() {
            output.warn(format_args!(
                "the agent is registered as {agent_type} with profile {profile}, not as {}",
                tool.agent_type()
            ));
        }
        if *suspended {
            output.warn("the agent is suspended: every request of it is denied");
        }
    }
}
