//! The agents that a file names: `agents.yaml`, as the coordinator that a team moves from knows it.

use super::document::{Node, yaml};

/// An agent, as a file tells it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) agent_id: String,
    pub(super) agent_type: String,
    pub(super) profile: Option<String>,
    pub(super) trust: Option<i64>,
    pub(super) archetype: Option<String>,
    /// What is not understood of it, for its reader.
    pub(super) warnings: Vec<String>,
    /// What keeps it from being taken over.
    pub(super) problems: Vec<String>,
}

/// What a file names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Roster {
    pub(super) agents: Vec<Listed>,
    pub(super) warnings: Vec<String>,
}

/// The names under which a file may tell one thing.
const NAME: [&str; 2] = ["name", "agent_id"];
const TYPE: [&str; 2] = ["type", "agent_type"];
const TRUST: [&str; 2] = ["trust", "trust_level"];

/// Reads a roster: a list of agents, or a map from names to them; either maybe below `agents`.
pub(super) fn read(text: &str) -> Result<Roster, String> {
    let document = yaml(text)?;
    let mut roster = Roster::default();
    let agents = match &document {
        Node::Map(fields) if document.get("agents").is_some() => {
            let others = fields.iter().map(|(name, _)| name).filter(|name| *name != "agents");
            roster.warnings.extend(others.map(|name| format!("`{name}` is not read")));
            document.get("agents").unwrap_or(&Node::Null)
        }
        other => other,
    };
    roster.agents = match agents {
        Node::List(items) => items.iter().enumerate().map(|(n, item)| listed(item, None, n + 1)).collect(),
        Node::Map(entries) => {
            entries.iter().enumerate().map(|(n, (name, item))| listed(item, Some(name), n + 1)).collect()
        }
        _ => return Err("it is neither a list of agents nor a map from names to agents".to_owned()),
    };
    let mut seen = std::collections::BTreeSet::new();
    for agent in &mut roster.agents {
        if !agent.agent_id.is_empty() && !seen.insert(agent.agent_id.clone()) {
            agent.problems.push("it is in the file twice".to_owned());
        }
    }
    Ok(roster)
}

fn listed(item: &Node, key: Option<&String>, n: usize) -> Listed {
    let mut agent = Listed::default();
    let Node::Map(fields) = item else {
        agent.agent_id = key.cloned().unwrap_or_else(|| format!("#{n}"));
        agent.problems.push("it is not a map of its facts".to_owned());
        return agent;
    };
    let known = |name: &str| [NAME, TYPE, TRUST].concat().contains(&name) || matches!(name, "profile" | "archetype");
    agent
        .warnings
        .extend(fields.iter().filter(|(name, _)| !known(name)).map(|(name, _)| format!("`{name}` is not read")));
    let name = text_of(item, &NAME, &mut agent.problems);
    agent.agent_id = match (key, name) {
        (Some(key), Some(name)) if *key != name => {
            agent.problems.push(format!("it is called `{name}` inside"));
            key.clone()
        }
        (Some(key), _) => key.clone(),
        (None, Some(name)) => name,
        (None, None) => {
            agent.problems.push("it has no `name`".to_owned());
            format!("#{n}")
        }
    };
    agent.agent_type = text_of(item, &TYPE, &mut agent.problems).unwrap_or_default();
    if agent.agent_type.is_empty() {
        agent.problems.push("it has no `type`".to_owned());
    }
    agent.profile = text_of(item, &["profile"], &mut agent.problems);
    agent.archetype = text_of(item, &["archetype"], &mut agent.problems);
    agent.trust = match one_of(item, &TRUST, &mut agent.problems) {
        None => None,
        Some(Node::Int(trust @ 0..=4)) => Some(*trust),
        Some(_) => {
            agent.problems.push("its `trust` is no whole number from 0 to 4".to_owned());
            None
        }
    };
    agent
}

/// The value of a thing that has several names; two different values are a problem.
fn one_of<'a>(item: &'a Node, names: &[&str], problems: &mut Vec<String>) -> Option<&'a Node> {
    let mut given = names.iter().filter_map(|name| item.get(name)).filter(|node| **node != Node::Null);
    let first = given.next()?;
    if given.any(|other| other != first) {
        problems.push(format!(
            "its {} differ",
            names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" and ")
        ));
    }
    Some(first)
}

fn text_of(item: &Node, names: &[&str], problems: &mut Vec<String>) -> Option<String> {
    match one_of(item, names, problems)? {
        Node::Text(text) if text.is_empty() => None,
        Node::Text(text) => Some(text.clone()),
        _ => {
            let names = names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" or ");
            problems.push(format!("its {names} is no text; write it in quotes"));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(agent_id: &str, agent_type: &str) -> Listed {
        Listed { agent_id: agent_id.to_owned(), agent_type: agent_type.to_owned(), ..Listed::default() }
    }

    #[test]
    fn lists_and_maps_are_read_alike() {
        let expected = [
            Listed { trust: Some(3), ..agent("a", "claude_code") },
            Listed { profile: Some("codex_remote".to_owned()), ..agent("b", "codex") },
        ];
        for text in [
            "- {name: a, type: claude_code, trust: 3}\n- {agent_id: b, agent_type: codex, profile: codex_remote}\n",
            "agents:\n  - {name: a, type: claude_code, trust_level: 3}\n  - {name: b, type: codex, profile: codex_remote}\n",
            "a: {type: claude_code, trust: 3}\nb: {agent_type: codex, profile: codex_remote, trust: ~}\n",
            "agents:\n  a: {type: claude_code, trust: 3, trust_level: 3}\n  b: {name: b, type: codex, profile: codex_remote}\n",
        ] {
            assert_eq!(read(text).unwrap(), Roster { agents: expected.to_vec(), warnings: vec![] }, "{text}");
        }
    }

    #[test]
    fn what_is_not_understood_is_told_per_agent() {
        let text = "version: 2\nagents:\n- {name: a, type: t, api_key: hush}\n- {name: a, type: t}\n- {name: 7, type: t}\n\
                    - {type: t, trust: 9}\n- x\n- {name: b, agent_id: c, type: t}\n";
        let roster = read(text).unwrap();
        assert_eq!(roster.warnings, ["`version` is not read"]);
        let told: Vec<String> =
            roster.agents.iter().flat_map(|agent| agent.warnings.iter().chain(&agent.problems).cloned()).collect();
        assert_eq!(
            told,
            [
                "`api_key` is not read",
                "it is in the file twice",
                "its `name` or `agent_id` is no text; write it in quotes",
                "it has no `name`",
                "it has no `name`",
                "its `trust` is no whole number from 0 to 4",
                "it is not a map of its facts",
                "its `name` and `agent_id` differ",
            ]
        );
        assert!(read("just text").is_err() && read("").is_err());
    }
}
