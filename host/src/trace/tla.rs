//! Writes a log as the TLA+ module `Log`.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use super::step::{Request, Step};
use super::{Names, Trace};

/// The agent that the service itself is.
const SYSTEM: &str = "system";
/// A token that nobody was given.
const FORGED: usize = 1_000_000_000;
/// More locks than anybody holds: no limit.
const UNLIMITED: i64 = 1_000_000_000;

/// What numbers stand for what, while a log is written.
struct Writer {
    places: BTreeMap<i64, usize>,
    agents: Names,
    keys: Names,
    tasks: Names,
    components: Names,
    profiles: Names,
    /// Tokens of claims, in the order in which they were given.
    tokens: HashMap<String, usize>,
    /// The profile of each agent and whether it is suspended, as far as the log has come.
    facts: HashMap<String, (String, bool)>,
    /// When the log heard of each agent last.
    heard: HashMap<String, i64>,
}

pub(super) fn module(trace: &Trace) -> String {
    let names = Names::default;
    let mut writer = Writer {
        places: trace.places(),
        agents: names(),
        keys: names(),
        tasks: names(),
        components: names(),
        profiles: names(),
        tokens: HashMap::new(),
        facts: HashMap::new(),
        heard: HashMap::new(),
    };
    let system = writer.agents.number(SYSTEM);
    let rows: Vec<String> = trace.steps.iter().map(|step| writer.row(step)).collect();
    let mut text = String::from(
        "-------------------------------- MODULE Log --------------------------------\n\
         (* An audit log, written by `portreeve audit export --format tla`. Names are *)\n\
         (* numbers in the order of their appearance, instants are their places.      *)\n\
         EXTENDS Naturals\n",
    );
    let counts = [
        ("LogSystem", system),
        ("LogAgents", writer.agents.len()),
        ("LogKeys", writer.keys.len()),
        ("LogTasks", writer.tasks.len()),
        ("LogComponents", writer.components.len()),
        ("LogProfiles", writer.profiles.len()),
    ];
    for (name, count) in counts {
        let _infallible = writeln!(text, "{name} == {count}");
    }
    let _infallible = write!(text, "Rows == <<\n{}\n>>\n{}\n", rows.join(",\n"), "=".repeat(77));
    text
}

impl Writer {
    fn row(&mut self, step: &Step) -> String {
        let (agent, profile) = (self.agents.number(&step.agent), self.profiles.number(&step.profile));
        let component = self.components.number(&step.component);
        let request = self.request(step);
        let heard = self.heard.entry(step.agent.clone()).or_insert(step.at);
        *heard = step.at.max(*heard);
        let keys = step.keys.iter().map(|(key, token)| format!("<<{}, {token}>>", self.keys.number(key)));
        let keys = set(keys);
        let tasks = step.tasks.iter();
        let tasks =
            set(tasks.map(|(task, status, n)| format!("<<{}, {}, {n}>>", self.tasks.number(task), quoted(status))));
        let agents = step.agents.iter().map(|(agent, version)| format!("<<{}, {version}>>", self.agents.number(agent)));
        let agents = set(agents);
        let epochs = set(step.epochs.iter().map(i64::to_string));
        format!(
            "[seq |-> {}, at |-> {}, agent |-> {agent}, profile |-> {profile}, trust |-> {}, isAsked |-> {}, verdict |-> {}, \
             outcome |-> {}, epoch |-> {}, version |-> {}, component |-> {component}, cap |-> {}, \
             isAsAsked |-> {}, r |-> {request}, \
             keys |-> {keys}, tasks |-> {tasks}, agents |-> {agents}, epochs |-> {epochs}]",
            step.seq,
            self.place(step.at),
            step.trust,
            truth(step.is_asked),
            quoted(&step.verdict),
            quoted(&step.outcome),
            step.epoch,
            step.version,
            step.cap.unwrap_or(UNLIMITED),
            truth(step.is_as_asked),
        )
    }

    fn request(&mut self, step: &Step) -> String {
        // A lease is so many places long.
        let from = self.place(step.at);
        let lease = |places: &BTreeMap<i64, usize>, until: &i64| {
            places.get(until).copied().unwrap_or_default().saturating_sub(from)
        };
        match &step.request {
            Request::Acquire { key, until } => {
                let (key, lease) = (self.keys.number(key), lease(&self.places, until));
                format!("[op |-> \"acquire\", key |-> {key}, lease |-> {lease}]")
            }
            Request::Renew { key, token, until } => {
                let (key, lease) = (self.keys.number(key), lease(&self.places, until));
                format!("[op |-> \"renew\", key |-> {key}, token |-> {token}, lease |-> {lease}]")
            }
            Request::Release { key, token } => {
                format!("[op |-> \"release\", key |-> {}, token |-> {token}]", self.keys.number(key))
            }
            Request::ForceRelease { key } => format!("[op |-> \"force_release\", key |-> {}]", self.keys.number(key)),
            Request::Submit { task, deps, max, deadline } => {
                let task = self.tasks.number(task);
                let deps = set(deps.iter().map(|dep| self.tasks.number(dep).to_string()));
                let deadline = deadline.map_or(0, |deadline| self.place(deadline));
                format!("[op |-> \"submit\", task |-> {task}, deps |-> {deps}, max |-> {max}, deadline |-> {deadline}]")
            }
            Request::Claim { task, token, until } => {
                let next = self.tokens.len().saturating_add(1);
                self.tokens.insert(token.clone(), next);
                let (task, lease) = (self.tasks.number(task), lease(&self.places, until));
                format!("[op |-> \"claim\", task |-> {task}, lease |-> {lease}]")
            }
            Request::Heartbeat { task, token, until } => {
                let (task, lease) = (self.tasks.number(task), lease(&self.places, until));
                let token = self.token(token.as_deref());
                format!("[op |-> \"heartbeat\", task |-> {task}, token |-> {token}, lease |-> {lease}]")
            }
            Request::Complete { task, token, success } => {
                let (task, token) = (self.tasks.number(task), self.token(token.as_deref()));
                format!("[op |-> \"complete\", task |-> {task}, token |-> {token}, success |-> {}]", truth(*success))
            }
            Request::Cancel { task, any } => {
                format!("[op |-> \"cancel\", task |-> {}, any |-> {}]", self.tasks.number(task), truth(*any))
            }
            Request::Expire => format!("[op |-> \"expire\", tasks |-> {}]", self.changed_tasks(step)),
            Request::GiveUp { silent_since } => {
                let is_silent = |agent: &String| self.heard.get(agent).is_none_or(|at| at <= silent_since);
                let silent: Vec<String> = self.agents.known().filter(|agent| is_silent(agent)).cloned().collect();
                let agents = set(silent.iter().map(|agent| self.agents.number(agent).to_string()));
                let keys = set(step.keys.iter().map(|(key, _)| self.keys.number(key).to_string()));
                let tasks = self.changed_tasks(step);
                format!("[op |-> \"give_up\", keys |-> {keys}, tasks |-> {tasks}, agents |-> {agents}]")
            }
            Request::SetFacts { agent, profile, suspended } => {
                let known = self.facts.entry(agent.clone()).or_default();
                if let Some(profile) = profile {
                    known.0.clone_from(profile);
                }
                known.1 = suspended.unwrap_or(known.1);
                let (profile, suspended) = (self.profiles.number(&known.0), truth(known.1));
                let agent = self.agents.number(agent);
                format!("[op |-> \"set_facts\", agent |-> {agent}, profile |-> {profile}, suspended |-> {suspended}]")
            }
            Request::Activate { component, expected } => {
                let component = self.components.number(component);
                format!("[op |-> \"activate\", component |-> {component}, expected |-> {expected}]")
            }
            Request::Limit => "[op |-> \"limit\"]".to_owned(),
            Request::Other => "[op |-> \"other\"]".to_owned(),
        }
    }

    fn changed_tasks(&mut self, step: &Step) -> String {
        set(step.tasks.iter().map(|(task, ..)| self.tasks.number(task).to_string()))
    }

    fn token(&self, token: Option<&str>) -> usize {
        token.map_or(0, |token| self.tokens.get(token).copied().unwrap_or(FORGED))
    }

    fn place(&self, at: i64) -> usize {
        self.places.get(&at).copied().unwrap_or_default()
    }
}

fn set(items: impl Iterator<Item = String>) -> String {
    format!("{{{}}}", items.collect::<Vec<_>>().join(", "))
}

/// Words of the log are of its own few; nothing else gets into the module as a text.
fn quoted(word: &str) -> String {
    let plain: String = word.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
    format!("\"{plain}\"")
}

const fn truth(value: bool) -> &'static str {
    if value { "TRUE" } else { "FALSE" }
}
