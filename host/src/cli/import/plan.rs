//! What an import would do: the file and the service side by side. Decides nothing that the service does not decide again.

use serde::Serialize;

use super::keys::Known;
use super::roster::{Listed, Roster};

/// A profile of the policy in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Profile {
    pub(super) name: String,
    pub(super) agent_types: Vec<String>,
    pub(super) trust: i64,
}

/// An agent that the service has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Present {
    pub(super) agent_id: String,
    pub(super) agent_type: String,
    pub(super) profile: String,
    pub(super) archetype: Option<String>,
    pub(super) suspended: bool,
    /// Labels of its live keys.
    pub(super) labels: Vec<String>,
}

/// What becomes of an agent or a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    /// It would be made.
    Create,
    /// It was made.
    Created,
    /// It is there, with the same facts.
    Exists,
    /// It is there, with other facts; they stay.
    Conflict,
    /// It cannot be taken over.
    Problem,
}

impl Outcome {
    pub(super) const fn is_bad(self) -> bool {
        matches!(self, Self::Conflict | Self::Problem)
    }
}

/// An agent of the plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct AgentLine {
    pub(super) agent_id: String,
    pub(super) agent_type: String,
    pub(super) profile: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) archetype: Option<String>,
    pub(super) outcome: Outcome,
    pub(super) detail: Vec<String>,
}

/// A key of the plan, known by its agent and its place in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct KeyLine {
    /// Which key of the file, from 1.
    pub(super) number: usize,
    pub(super) agent_id: String,
    pub(super) outcome: Outcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) key_id: Option<String>,
    pub(super) detail: Vec<String>,
    #[serde(skip)]
    pub(super) hash: Option<String>,
}

/// The label of a key that was taken over. It tells one from another, and is too short to test guesses by.
pub(super) fn label_of(hash: &str) -> String {
    format!("imported ({})", crate::command::input::mark_of(hash))
}

pub(super) fn agents(roster: &Roster, profiles: &[Profile], present: &[Present]) -> Vec<AgentLine> {
    roster.agents.iter().map(|listed| agent(listed, profiles, present)).collect()
}

fn agent(listed: &Listed, profiles: &[Profile], present: &[Present]) -> AgentLine {
    let mut line = AgentLine {
        agent_id: listed.agent_id.clone(),
        agent_type: listed.agent_type.clone(),
        profile: None,
        archetype: listed.archetype.clone(),
        outcome: Outcome::Problem,
        detail: listed.problems.clone(),
    };
    let chosen = if listed.problems.is_empty() { choose(listed, profiles, &mut line.detail) } else { None };
    if let Some(profile) = chosen {
        line.profile = Some(profile.name.clone());
        line.outcome = match present.iter().find(|agent| agent.agent_id == listed.agent_id) {
            None => Outcome::Create,
            Some(there) => compare(listed, profile, there, &mut line.detail),
        };
    }
    line.detail.extend(listed.warnings.iter().map(|warning| format!("note: {warning}")));
    line
}

/// The profile that the file names, else the one profile of that type with that trust.
fn choose<'a>(listed: &Listed, profiles: &'a [Profile], detail: &mut Vec<String>) -> Option<&'a Profile> {
    let fits = |profile: &&Profile| profile.agent_types.iter().any(|kind| kind == "*" || *kind == listed.agent_type);
    let fitting = || profiles.iter().filter(fits);
    let candidates = || {
        let names: Vec<String> =
            fitting().map(|profile| format!("{} (trust {})", profile.name, profile.trust)).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    };
    if let Some(name) = &listed.profile
        && let Some(profile) = fitting().find(|profile| profile.name == *name)
    {
        return match listed.trust {
            Some(trust) if trust < profile.trust => {
                detail.push(format!("`{name}` has trust {}, more than the {trust} of the file", profile.trust));
                None
            }
            Some(trust) if trust > profile.trust => {
                detail.push(format!("note: `{name}` has trust {}, less than the {trust} of the file", profile.trust));
                Some(profile)
            }
            _ => Some(profile),
        };
    }
    let named =
        listed.profile.as_ref().map(|name| format!("`{name}` is no profile for its type; ")).unwrap_or_default();
    let Some(trust) = listed.trust else {
        detail.push(format!("{named}name one of: {}", candidates()));
        return None;
    };
    let mut found = fitting().filter(|profile| profile.trust == trust);
    match (found.next(), found.next()) {
        (Some(profile), None) => {
            detail.extend((!named.is_empty()).then(|| format!("note: {named}chosen by its trust")));
            Some(profile)
        }
        (first, _) => {
            let how_many = if first.is_none() { "no" } else { "more than one" };
            let kind = &listed.agent_type;
            detail.push(format!(
                "{named}{how_many} profile for `{kind}` has trust {trust}; name one of: {}",
                candidates()
            ));
            None
        }
    }
}

fn compare(listed: &Listed, profile: &Profile, there: &Present, detail: &mut Vec<String>) -> Outcome {
    let mut differs = |what: &str, ours: &str, theirs: &str| {
        if ours != theirs {
            detail.push(format!("its {what} is `{theirs}` here, and `{ours}` in the file; it stays"));
        }
        ours != theirs
    };
    let different = [
        differs("type", &listed.agent_type, &there.agent_type),
        differs("profile", &profile.name, &there.profile),
        listed
            .archetype
            .as_ref()
            .is_some_and(|ours| differs("archetype", ours, there.archetype.as_deref().unwrap_or_default())),
    ];
    if there.suspended {
        detail.push("note: it is suspended here, and stays so".to_owned());
    }
    if different.contains(&true) { Outcome::Conflict } else { Outcome::Exists }
}

/// What becomes of the keys, once it is known what becomes of their agents.
pub(super) fn keys(known: &[Known], agents: &[AgentLine], present: &[Present]) -> Vec<KeyLine> {
    known.iter().enumerate().map(|(n, known)| key(n + 1, known, agents, present)).collect()
}

fn key(number: usize, known: &Known, agents: &[AgentLine], present: &[Present]) -> KeyLine {
    let mut line = KeyLine {
        number,
        agent_id: known.agent_id.clone(),
        outcome: Outcome::Problem,
        key_id: None,
        detail: known.problems.clone(),
        hash: known.hash.clone(),
    };
    let there = present.iter().find(|agent| agent.agent_id == known.agent_id);
    let listed = agents.iter().find(|agent| agent.agent_id == known.agent_id);
    let agent_type = match (listed, there) {
        (Some(listed), _) => Some(&listed.agent_type),
        (None, there) => there.map(|there| &there.agent_type),
    };
    if let Some(hash) = &known.hash {
        match (agent_type, &known.agent_type) {
            (None, _) => line.detail.push("its agent is neither in the file nor in the service".to_owned()),
            (Some(_), _) if listed.is_some_and(|listed| listed.outcome.is_bad()) => {
                line.detail.push("its agent is not taken over".to_owned());
            }
            (Some(ours), Some(theirs)) if ours != theirs => {
                line.detail.push(format!("its agent is of type `{theirs}` here, and `{ours}` there"));
            }
            _ => {
                let is_there = there.is_some_and(|there| there.labels.contains(&label_of(hash)));
                line.outcome = if is_there { Outcome::Exists } else { Outcome::Create };
            }
        }
    }
    line.detail.extend(known.warnings.iter().map(|warning| format!("note: {warning}")));
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(name: &str, kind: &str, trust: i64) -> Profile {
        Profile { name: name.to_owned(), agent_types: vec![kind.to_owned()], trust }
    }

    fn profiles() -> Vec<Profile> {
        vec![
            profile("x_local", "x", 3),
            profile("x_remote", "x", 2),
            profile("x_other", "x", 2),
            profile("suspended", "*", 0),
            profile("y_local", "y", 3),
        ]
    }

    fn listed(profile: Option<&str>, trust: Option<i64>) -> Listed {
        let (agent_id, agent_type) = ("a".to_owned(), "x".to_owned());
        Listed { agent_id, agent_type, profile: profile.map(str::to_owned), trust, ..Listed::default() }
    }

    #[test]
    fn a_profile_is_the_named_one_or_the_only_one_of_that_trust() {
        for (name, trust, chosen, said) in [
            (Some("x_local"), None, Some("x_local"), ""),
            (Some("x_local"), Some(3), Some("x_local"), ""),
            (Some("x_remote"), Some(3), Some("x_remote"), "less than the 3"),
            (Some("x_local"), Some(2), None, "more than the 2"),
            (Some("y_local"), Some(3), Some("x_local"), "chosen by its trust"),
            (Some("unknown"), None, None, "name one of: x_local (trust 3), x_remote (trust 2)"),
            (None, Some(3), Some("x_local"), ""),
            (None, Some(2), None, "more than one profile for `x` has trust 2"),
            (None, Some(4), None, "no profile for `x` has trust 4"),
            (None, Some(0), Some("suspended"), ""),
            (None, None, None, "name one of"),
        ] {
            let line = agent(&listed(name, trust), &profiles(), &[]);
            assert_eq!(line.profile.as_deref(), chosen, "{line:?}");
            assert!(line.detail.concat().contains(said), "{line:?}");
            assert_eq!(line.outcome == Outcome::Create, chosen.is_some());
        }
    }

    #[test]
    fn what_is_there_stays_as_it_is() {
        let there = |profile: &str| Present {
            agent_id: "a".to_owned(),
            agent_type: "x".to_owned(),
            profile: profile.to_owned(),
            ..Present::default()
        };
        let plan = |profile: &str| agent(&listed(Some("x_local"), None), &profiles(), &[there(profile)]).outcome;
        assert_eq!((plan("x_local"), plan("x_remote")), (Outcome::Exists, Outcome::Conflict));
    }

    #[test]
    fn a_key_goes_with_its_agent() {
        let known = |agent_id: &str, agent_type: Option<&str>| Known {
            agent_id: agent_id.to_owned(),
            agent_type: agent_type.map(str::to_owned),
            hash: Some("00".to_owned()),
            warnings: vec![],
            problems: vec![],
        };
        let good = agent(&listed(Some("x_local"), None), &profiles(), &[]);
        let bad = AgentLine { agent_id: "b".to_owned(), outcome: Outcome::Conflict, ..good.clone() };
        let there = Present {
            agent_id: "c".to_owned(),
            agent_type: "y".to_owned(),
            labels: vec![label_of("00")],
            ..Present::default()
        };
        let (agents, present) = ([good, bad], [there]);
        for (agent_id, kind, outcome) in [
            ("a", None, Outcome::Create),
            ("a", Some("x"), Outcome::Create),
            ("a", Some("y"), Outcome::Problem),
            ("b", Some("x"), Outcome::Problem),
            ("c", Some("y"), Outcome::Exists),
            ("d", Some("x"), Outcome::Problem),
        ] {
            assert_eq!(key(1, &known(agent_id, kind), &agents, &present).outcome, outcome, "{agent_id} {kind:?}");
        }
    }
}
