//! `portreeve setup`: tells a coding tool how to reach the service from one repository, and takes that back.
//!
//! The file is the user's: it is changed as text, nothing moves but our entry, and what was there is found again.

mod agent;
mod entry;
mod json;
mod place;
mod record;
mod splice;
mod toml;

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};
use similar::TextDiff;

use self::agent::{Preparation, Standing};
use self::entry::{Entry, SERVER, Target, Tool, is_ours};
use self::place::{Place, Repository};
use self::record::{Drawer, Original, Record};
use super::error::{CliError, EXIT_USAGE};
use super::output::{Output, Tone, tame};
use super::transport::Where;
use super::{failure, folders};
use crate::client::Client;
use crate::command::catalogue::Kind;
use crate::telemetry;

/// Let a coding tool reach the service from this repository
///
/// Writes the entry `portreeve` into the tool's own MCP configuration of the repository: .mcp.json (Claude Code),
/// .codex/config.toml (Codex) or .cursor/mcp.json (Cursor). Everything else in that file stays byte for byte as it is.
/// What would change is shown first; --undo takes it back. No key is ever written: with --url the tool hands on
/// PORTREEVE_API_KEY from its environment; without, the agent --agent of the data folder works, and is registered first
/// if it is not there.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  portreeve setup claude-code --agent claude-1\n  portreeve setup codex --url http://127.0.0.1:8081 --yes\n  portreeve setup cursor --undo"
)]
pub(super) struct Setup {
    /// The tool
    tool: Tool,
    /// The agent that the tool works as
    #[arg(long, value_name = "NAME")]
    agent: Option<String>,
    #[command(flatten)]
    place: Where,
    /// The repository [default: the one that this folder is in]
    #[arg(long, value_name = "REPO")]
    dir: Option<PathBuf>,
    /// Do it without asking
    #[arg(long)]
    yes: bool,
    /// Take back what setup did
    #[arg(long)]
    undo: bool,
}

/// What is to become of the tool's file.
enum Change {
    /// It is as it should be.
    None,
    /// It gets this text.
    Write(String),
    /// It gets this text, in which only our entry is missing.
    TakeOut(String),
    /// It goes, with its folder if that was made for it.
    Delete { with_folder: bool },
}

/// All that is to be done.
struct Plan {
    tool: Tool,
    place: Place,
    drawer: Drawer,
    /// The file as it is.
    read: Option<String>,
    change: Change,
    /// What to remember; none to forget.
    record: Option<Record>,
    entry: Option<Entry>,
    preparation: Option<Preparation>,
}

impl Setup {
    pub(super) async fn run(self, output: &Output) -> Result<ExitCode, CliError> {
        telemetry::init_logs("warn");
        let start = self.dir.clone().map_or_else(std::env::current_dir, Ok);
        let start =
            start.map_err(|error| CliError::new(format!("cannot use this folder: {error}"), "name one: --dir REPO"))?;
        let repository = Repository::find(&start)?;
        let place = repository.file(self.tool)?;
        let drawer = Drawer::new(repository.record(self.tool));
        let plan = if self.undo { undo(self.tool, place, drawer)? } else { self.plan(place, drawer, output).await? };
        if plan.is_nothing() {
            plan.report(false, output)?;
            return Ok(ExitCode::SUCCESS);
        }
        plan.show(output)?;
        self.confirm(output)?;
        let asked = plan.carry_out(output).await;
        asked.and_then(|plan| plan.report(true, output)).map(|()| ExitCode::SUCCESS)
    }

    async fn plan(&self, place: Place, drawer: Drawer, output: &Output) -> Result<Plan, CliError> {
        let read = place.read()?;
        let target = self.target()?;
        let command = entry::command().map_err(|error| {
            CliError::new(format!("cannot find out where this program is: {error}"), "start it by its whole path")
        })?;
        let entry = Entry::of(self.tool, &command, &target);
        let (change, record) = put_in(self.tool, &place, &drawer, read.as_deref(), &entry)?;
        let preparation = match &target {
            Target::Server(_) => None,
            Target::Folder { agent, .. } => Some(agent::prepare(agent, self.tool, &self.place, output).await?),
        };
        Ok(Plan { tool: self.tool, place, drawer, read, change, record, entry: Some(entry), preparation })
    }

    fn target(&self) -> Result<Target, CliError> {
        self.place.check()?;
        if let Some(url) = self.place.server() {
            // A URL that is none is told here, and not by the tool.
            Client::http(&url, String::new()).map_err(|error| failure::client(&error, Kind::Query))?;
            return Ok(Target::Server(url));
        }
        let agent = self.agent.clone().ok_or_else(|| {
            CliError::new(
                "it is not said which agent the tool works as",
                "name it: --agent NAME; or a server, which knows agents by their key: --url URL",
            )
            .with_exit(EXIT_USAGE)
        })?;
        let data = folders::data(self.place.data.clone())?;
        let data = settled(&data);
        // The tool may start it with another environment than this one.
        let is_default = folders::default_data().is_some_and(|default| settled(&default) == data);
        Ok(Target::Folder { agent, data: (!is_default).then_some(data) })
    }

    fn confirm(&self, output: &Output) -> Result<(), CliError> {
        if self.yes {
            return Ok(());
        }
        if output.json || !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            return Err(CliError::new(
                "nobody is there to confirm this, and nothing was changed",
                "add --yes to do it",
            ));
        }
        let mut answer = String::new();
        let mut stderr = io::stderr().lock();
        let asked = write!(stderr, "Do it? [y/N] ").and_then(|()| stderr.flush());
        let read = asked.and_then(|()| io::stdin().read_line(&mut answer));
        read.map_err(|error| CliError::new(format!("cannot ask: {error}"), "add --yes to do it"))?;
        match answer.trim().to_ascii_lowercase().as_str() {
            "y" | "yes" => Ok(()),
            _ => Err(CliError::new("nothing was changed", "run it again and answer y")),
        }
    }
}

/// Reads and edits the form that a tool's file has.
fn get(tool: Tool, text: &str) -> Result<Option<Value>, String> {
    if tool == Tool::Codex { toml::get(text, SERVER) } else { json::get(text, SERVER) }
}

fn set(tool: Tool, text: &str, entry: &Entry) -> Result<String, String> {
    if tool == Tool::Codex { toml::set(text, SERVER, entry) } else { json::set(text, SERVER, entry) }
}

fn remove(tool: Tool, text: &str) -> Result<String, String> {
    if tool == Tool::Codex { toml::remove(text, SERVER) } else { json::remove(text, SERVER) }
}

fn not_read(place: &Place, why: &str) -> CliError {
    CliError::new(
        format!("cannot edit `{}`: {why}", place.shown),
        "mend the file, then run this again; nothing was changed",
    )
}

/// What puts the entry into the file, and what then is to be remembered.
fn put_in(
    tool: Tool,
    place: &Place,
    drawer: &Drawer,
    read: Option<&str>,
    entry: &Entry,
) -> Result<(Change, Option<Record>), CliError> {
    let text = read.unwrap_or_default();
    let found = get(tool, text).map_err(|why| not_read(place, &why))?;
    let kept = drawer.read();
    if found == Some(entry.to_json()) {
        return Ok((Change::None, kept));
    }
    if found.as_ref().is_some_and(|found| !is_ours(found)) {
        return Err(CliError::new(
            format!("`{}` has a server `{SERVER}` that setup did not write: its args do not name `mcp`", place.shown),
            "rename that server, or remove it; nothing was changed",
        ));
    }
    let new = set(tool, text, entry).map_err(|why| not_read(place, &why))?;
    // Edited since by somebody else: what was there before the entry is no longer known.
    let earlier = kept.as_ref().and_then(|kept| Some((kept.original(read?)?, kept.made_folder)));
    let (original, made_folder) = match (earlier, found, read) {
        (Some((original, made_folder)), ..) => (Some(original), made_folder),
        (None, Some(_), _) => (None, false),
        (None, None, None) => (Some(Original::Absent), !place.has_folder),
        (None, None, Some(text)) => (Some(Original::Text(text.to_owned())), false),
    };
    let record = original.map(|original| Record::of(&original, &new, made_folder));
    Ok((Change::Write(new), record))
}

/// What takes back what setup did: to the last byte where nobody has edited since, else the entry alone.
fn undo(tool: Tool, place: Place, drawer: Drawer) -> Result<Plan, CliError> {
    let read = place.read()?;
    let change = match &read {
        None => Change::None,
        Some(text) => match drawer.read().and_then(|kept| Some((kept.original(text)?, kept.made_folder))) {
            Some((Original::Absent, with_folder)) => Change::Delete { with_folder },
            Some((Original::Text(original), _)) => Change::Write(original),
            None => take_out(tool, &place, text)?,
        },
    };
    Ok(Plan { tool, place, drawer, read, change, record: None, entry: None, preparation: None })
}

fn take_out(tool: Tool, place: &Place, text: &str) -> Result<Change, CliError> {
    match get(tool, text).map_err(|why| not_read(place, &why))? {
        Some(found) if is_ours(&found) => remove(tool, text).map(Change::TakeOut).map_err(|why| not_read(place, &why)),
        _ => Ok(Change::None),
    }
}

impl Plan {
    fn is_nothing(&self) -> bool {
        matches!(self.change, Change::None) && self.preparation.as_ref().is_none_or(Preparation::is_done)
    }

    /// Shows what would be done: on stdout for people, on stderr where stdout is for a program.
    fn show(&self, output: &Output) -> Result<(), CliError> {
        let say = |text: String| {
            if output.json {
                output.note(text);
                Ok(())
            } else {
                output.line(text)
            }
        };
        for step in self.preparation.iter().flat_map(Preparation::steps) {
            say(step)?;
        }
        let old = self.read.as_deref().unwrap_or_default();
        let (new, is_gone) = match &self.change {
            Change::None => return Ok(()),
            Change::Write(new) | Change::TakeOut(new) => (new.as_str(), false),
            Change::Delete { .. } => ("", true),
        };
        let header = |side: &str, is_there: bool| {
            if is_there { format!("{side}/{}", self.place.shown) } else { "/dev/null".to_owned() }
        };
        let diff = TextDiff::from_lines(old, new);
        let diff = diff.unified_diff().header(&header("a", self.read.is_some()), &header("b", !is_gone)).to_string();
        for line in diff.lines() {
            let line = tame(line.trim_end_matches('\r'));
            let tone = match line.bytes().next() {
                Some(b'+') => Tone::Good,
                Some(b'-') => Tone::Bad,
                _ => Tone::Faint,
            };
            say(output.paint(tone, line))?;
        }
        Ok(())
    }

    /// The agent first, so that the tool is never told of one that is not there.
    async fn carry_out(mut self, output: &Output) -> Result<Self, CliError> {
        if let Some(preparation) = &mut self.preparation {
            preparation.carry_out(output).await?;
        }
        match &self.change {
            Change::None => {}
            Change::Write(text) | Change::TakeOut(text) => {
                if let Some(record) = &self.record {
                    self.drawer.keep(record)?;
                }
                self.place.write(self.read.as_deref(), text)?;
                if self.record.is_none() {
                    self.drawer.clear();
                }
            }
            Change::Delete { with_folder } => {
                self.place.delete(self.read.as_deref(), *with_folder)?;
                self.drawer.clear();
            }
        }
        Ok(self)
    }

    fn report(&self, changed: bool, output: &Output) -> Result<(), CliError> {
        let action = match (&self.change, self.entry.is_some(), self.read.is_some()) {
            (Change::None, ..) => "unchanged",
            (Change::Write(_), true, false) => "created",
            (Change::Write(_), true, true) => "changed",
            (Change::Write(_), false, _) => "restored",
            (Change::TakeOut(_), ..) => "entry_removed",
            (Change::Delete { .. }, ..) => "removed",
        };
        let standing = self.preparation.as_ref().map(Preparation::standing);
        if output.json {
            return output.json(&json!({
                "tool": self.tool.agent_type(), "file": self.place.path, "action": action, "changed": changed,
                "entry": self.entry.as_ref().map(Entry::to_json), "agent": standing.map(Standing::to_json),
            }));
        }
        let title = self.tool.title();
        match (action, self.entry.is_some()) {
            ("unchanged", true) => {
                output.line(format_args!("{title} is set up already: {}", self.place.path.display()))?
            }
            ("unchanged", false) => {
                output.line(format_args!("there is nothing to undo in {}", self.place.path.display()))?
            }
            _ => output.line(format_args!("{} {}", action.replace('_', " "), self.place.path.display()))?,
        }
        if let Some(registered) = self.preparation.as_ref().and_then(Preparation::registered) {
            output.line(registered)?;
        }
        self.remark(output);
        Ok(())
    }

    /// What is left to whoever ran it.
    fn remark(&self, output: &Output) {
        if let Some(standing) = self.preparation.as_ref().map(Preparation::standing) {
            standing.warn(self.tool, output);
        }
        match (&self.entry, &self.preparation) {
            (None, _) if matches!(self.change, Change::None) => {}
            (None, _) => output.note("An agent stays registered; `portreeve agent suspend NAME` takes its rights."),
            (Some(_), Some(_)) => output.note(format_args!("Next: {}.", self.tool.next())),
            (Some(_), None) => output.note(format_args!(
                "Next: register the agent with the server's admin key (portreeve agent add NAME --type {} --profile {} \
                 --url URL), export its key as PORTREEVE_API_KEY where the tool starts, then {}.",
                self.tool.agent_type(),
                agent::profile_of(self.tool),
                self.tool.next()
            )),
        }
    }
}

/// A path that means the same from every folder, whether or not it is there yet.
fn settled(path: &Path) -> PathBuf {
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let known = whole.ancestors().find_map(|dir| Some((dir.canonicalize().ok()?, whole.strip_prefix(dir).ok()?)));
    known.map_or_else(|| whole.clone(), |(dir, rest)| if rest.as_os_str().is_empty() { dir } else { dir.join(rest) })
}

#[cfg(test)]
mod tests;
