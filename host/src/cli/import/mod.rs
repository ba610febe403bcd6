//! `portreeve agent import`: takes over the agents and keys of a coordinator that a team moves from.

mod document;
mod keys;
mod plan;
mod roster;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use self::document::BYTES_MAX;
use self::plan::{AgentLine, KeyLine, Outcome, Present, Profile, label_of};
use super::body::{fields, items, read_whole, text, unreadable};
use super::error::CliError;
use super::failure;
use super::output::{Output, Tone};
use super::transport::Transport;

/// Most agents in one list.
const LIST_MAX: u32 = 1000;

/// Take over agents, and the keys that they have, from another coordinator
///
/// Shows what would be done; --apply does it. FILE is YAML: a list of agents, or a map from names to them, with `type`
/// and `profile` or `trust`. Without a profile of the policy in force, the one for that type with that trust is chosen.
/// KEYS is JSON: a map from keys to {"agent_id", "agent_type"}, or a line NAME=… of an environment file. Keys are hashed
/// here; only the hashes go to the service. What is there already is never changed, so it may be run again.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  portreeve agent import agents.yaml\n  portreeve agent import agents.yaml --keys keys.json --apply --json"
)]
pub(super) struct Import {
    /// The agents, as YAML
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The keys that they have today, as JSON
    #[arg(long, value_name = "KEYS")]
    keys: Option<PathBuf>,
    /// Do it; without this, it is only shown
    #[arg(long)]
    apply: bool,
}

/// What is, or would be, done.
struct Report {
    applied: bool,
    agents: Vec<AgentLine>,
    keys: Vec<KeyLine>,
    warnings: Vec<String>,
}

impl Import {
    pub(super) async fn run(self, to: &Transport, output: &Output) -> Result<ExitCode, CliError> {
        let roster = roster::read(&read_file(&self.file)?).map_err(|why| not_read(&self.file, &why))?;
        let known = match &self.keys {
            Some(path) => keys::read(&read_file(path)?).map_err(|why| not_read(path, &why))?,
            None => Vec::new(),
        };
        let (profiles, present) = look(to, &roster, &known).await?;
        let agents = plan::agents(&roster, &profiles, &present);
        let keys = plan::keys(&known, &agents, &present);
        let mut report = Report { applied: self.apply, agents, keys, warnings: roster.warnings };
        if self.apply {
            report.apply(to).await;
        }
        report.print(output)?;
        Ok(if report.problems() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn read_file(path: &Path) -> Result<String, CliError> {
    let name = format!("`{}`", path.display());
    let file = std::fs::File::open(path).map_err(|error| unreadable(&name, &error))?;
    read_whole(file, &name, BYTES_MAX)
}

fn not_read(path: &Path, why: &str) -> CliError {
    CliError::new(format!("cannot take over `{}`: {why}", path.display()), "mend the file; nothing was changed")
}

/// What the service has: the profiles of the policy in force, and the agents that may be meant.
async fn look(
    to: &Transport,
    roster: &roster::Roster,
    known: &[keys::Known],
) -> Result<(Vec<Profile>, Vec<Present>), CliError> {
    let body = to.call("agent_list", fields(json!({"limit": LIST_MAX, "with_profiles": true}))).await?;
    let profiles = items(&body, "profiles").iter().map(profile_of).collect();
    let mut present: Vec<Present> = items(&body, "agents").iter().map(present_of).collect();
    if body.get("truncated") == Some(&Value::Bool(true)) {
        let mut names: Vec<&str> = roster.agents.iter().map(|agent| agent.agent_id.as_str()).collect();
        names.extend(known.iter().map(|key| key.agent_id.as_str()));
        names.sort_unstable();
        names.dedup();
        for name in names.into_iter().filter(|name| !name.is_empty()) {
            let body = to.call("agent_list", fields(json!({"agent_id": name}))).await?;
            present.extend(items(&body, "agents").iter().map(present_of));
        }
    }
    Ok((profiles, present))
}

fn profile_of(info: &Value) -> Profile {
    let agent_types = items(info, "agent_types").iter().filter_map(Value::as_str).map(str::to_owned).collect();
    let trust = info.get("trust_level").and_then(Value::as_i64).unwrap_or_default();
    Profile { name: text(info, "name").to_owned(), agent_types, trust }
}

fn present_of(agent: &Value) -> Present {
    let live = items(agent, "keys").iter().filter(|key| text(key, "revoked_at").is_empty());
    Present {
        agent_id: text(agent, "agent_id").to_owned(),
        agent_type: text(agent, "agent_type").to_owned(),
        profile: text(agent, "profile").to_owned(),
        archetype: agent.get("archetype").and_then(Value::as_str).map(str::to_owned),
        suspended: agent.get("suspended") == Some(&Value::Bool(true)),
        labels: live.map(|key| text(key, "label").to_owned()).collect(),
    }
}

impl Report {
    fn problems(&self) -> usize {
        let agents = self.agents.iter().map(|line| line.outcome);
        agents.chain(self.keys.iter().map(|line| line.outcome)).filter(|outcome| outcome.is_bad()).count()
    }

    /// Does what is to be done; what fails stops nothing else.
    async fn apply(&mut self, to: &Transport) {
        for line in self.agents.iter_mut().filter(|line| line.outcome == Outcome::Create) {
            (line.outcome, line.detail) = match create(to, line).await {
                Ok(()) => (Outcome::Created, std::mem::take(&mut line.detail)),
                Err(error) => (Outcome::Problem, vec![error.cause]),
            };
        }
        let failed: Vec<String> =
            self.agents.iter().filter(|line| line.outcome.is_bad()).map(|l| l.agent_id.clone()).collect();
        // Also those that seem to be there: only the service can tell.
        let is_due = |outcome| matches!(outcome, Outcome::Create | Outcome::Exists);
        for line in self.keys.iter_mut().filter(|line| is_due(line.outcome)) {
            if failed.contains(&line.agent_id) {
                line.outcome = Outcome::Problem;
                line.detail.insert(0, "its agent is not taken over".to_owned());
                continue;
            }
            match take_over(to, line).await {
                Ok((outcome, key_id, why)) => {
                    (line.outcome, line.key_id) = (outcome, key_id);
                    line.detail.extend(why);
                }
                Err(error) => {
                    line.outcome = Outcome::Problem;
                    line.detail.insert(0, error.cause);
                }
            }
        }
    }

    fn print(&self, output: &Output) -> Result<(), CliError> {
        let problems = self.problems();
        if output.json {
            return output.json(&json!({
                "applied": self.applied, "agents": self.agents, "keys": self.keys, "warnings": self.warnings,
                "problems": problems,
            }));
        }
        for warning in &self.warnings {
            output.warn(warning);
        }
        let agents = self.agents.iter().map(|line| {
            let profile = line.profile.clone().unwrap_or_default();
            [word_of(line.outcome), line.agent_id.clone(), line.agent_type.clone(), profile, line.detail.join("; ")]
        });
        output.table(&["BECOMES", "AGENT", "TYPE", "PROFILE", "REMARKS"], agents)?;
        if !self.keys.is_empty() {
            let keys = self.keys.iter().map(|line| {
                [word_of(line.outcome), format!("no. {}", line.number), line.agent_id.clone(), line.detail.join("; ")]
            });
            output.line("")?;
            output.table(&["BECOMES", "KEY", "AGENT", "REMARKS"], keys)?;
        }
        output.line(format_args!("\n{}", self.summary(problems, output)))
    }

    fn summary(&self, problems: usize, output: &Output) -> String {
        let problems = match problems {
            0 => output.paint(Tone::Good, "no problems"),
            n => output.paint(Tone::Bad, format_args!("{n} problem(s)")),
        };
        let keyless: Vec<&str> = self
            .agents
            .iter()
            .filter(|line| line.outcome == Outcome::Created)
            .map(|line| line.agent_id.as_str())
            .filter(|name| !self.keys.iter().any(|key| key.agent_id == *name && !key.outcome.is_bad()))
            .collect();
        let next = match (self.applied, keyless.as_slice()) {
            (false, _) => "; nothing was changed: --apply does it".to_owned(),
            (true, []) => String::new(),
            (true, names) => {
                format!("; without a key: {} (portreeve agent key NAME new)", names.join(", "))
            }
        };
        format!("{problems}{next}")
    }
}

fn word_of(outcome: Outcome) -> String {
    crate::store::audit::name_of(&outcome)
}

async fn create(to: &Transport, line: &AgentLine) -> Result<(), CliError> {
    let input = json!({
        "agent_id": line.agent_id, "agent_type": line.agent_type, "profile": line.profile,
        "archetype": line.archetype, "with_key": false,
    });
    failure::unsuccessful(&to.call("agent_create", fields(input)).await?)
}

type TakenOver = (Outcome, Option<String>, Option<String>);

async fn take_over(to: &Transport, line: &KeyLine) -> Result<TakenOver, CliError> {
    let hash = line.hash.clone().unwrap_or_default();
    let input = json!({"id": line.agent_id, "label": label_of(&hash), "import_hash": hash});
    let body = to.call("agent_key_create", fields(input)).await?;
    let key_id = Some(text(&body, "key_id")).filter(|id| !id.is_empty()).map(str::to_owned);
    let holder = text(&body, "agent_id");
    Ok(match text(&body, "reason") {
        "" => (Outcome::Created, key_id, None),
        "key_exists" if holder == line.agent_id => (Outcome::Exists, key_id, None),
        "key_exists" => (Outcome::Conflict, key_id, Some(format!("it is a key of `{holder}` here, and stays so"))),
        "key_revoked" => {
            (Outcome::Conflict, key_id, Some("it was revoked here; a revoked key never comes back".to_owned()))
        }
        reason => (Outcome::Problem, None, Some(format!("refused: {reason}"))),
    })
}
