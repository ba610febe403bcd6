//! One command per operation, made from the catalogue: `lock_acquire` is `portreeve lock acquire`.
//!
//! What an operation takes is said once, in its list of fields; arguments, options and their help are made from it
//! here, and the values go to the service as text, which is what verifies them. An operation that has a better form
//! made by hand is in [`HAND_MADE`]; every other one appears by itself as soon as it is in the catalogue.

mod form;
mod input;
mod print;

use std::process::ExitCode;

use clap::{ArgMatches, Args, Command, FromArgMatches};
use serde_json::Value;

use super::error::{CliError, EXIT_REFUSED};
use super::output::Output;
use super::transport::Where;
use crate::client::Request;
use crate::command::catalogue::{CATALOGUE, Entry, Kind};
use crate::telemetry;

/// Operations whose command is made by hand, and where it is.
pub(super) const HAND_MADE: &[(&str, &[&str])] = &[
    ("agent_create", &["agent", "add"]),
    ("agent_list", &["agent", "list"]),
    ("agent_key_create", &["agent", "key", "new"]),
    ("agent_key_revoke", &["agent", "key", "revoke"]),
    ("agent_profile", &["agent", "profile"]),
    ("agent_suspend", &["agent", "suspend"]),
    ("audit_query", &["audit", "query"]),
    ("component_upload", &["policy", "push"]),
    ("component_activate", &["policy", "activate"]),
    ("component_list", &["policy", "list"]),
    ("component_get", &["policy", "show"]),
    ("component_shadow", &["policy", "shadow"]),
    ("component_report", &["policy", "report"]),
];

/// Who calls, and what makes a repeat harmless. Beside [`Where`], the same for every operation.
#[derive(Debug, Clone, Args)]
struct Standing {
    /// Act as this agent on a data folder whose admin.key you may read [default: the admin]
    #[arg(long, value_name = "NAME")]
    agent: Option<String>,
}

/// What only a change takes.
#[derive(Debug, Clone, Args)]
struct Repeat {
    /// A name for this request: a repeat under it within 24 hours answers what the first one did, and changes nothing
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

/// Noun and verb of an entry: `lock_force_release` is `lock force-release`.
fn words_of(entry: &Entry) -> (&'static str, String) {
    if entry.name == "policy_check" {
        // `policy check` is the author's, about a policy's text; this asks the policy in force.
        return ("policy", "ask".to_owned());
    }
    let (noun, verb) = entry.name.split_once('_').unwrap_or((entry.name, "run"));
    (noun, verb.replace('_', "-"))
}

fn is_hand_made(entry: &Entry) -> bool {
    HAND_MADE.iter().any(|(name, _)| *name == entry.name)
}

/// The command line with a command for every operation that has none yet.
pub(super) fn augment(command: Command) -> Command {
    augment_with(command, CATALOGUE)
}

fn augment_with(mut command: Command, catalogue: &'static [Entry]) -> Command {
    let mut nouns: Vec<&str> = Vec::new();
    for entry in catalogue.iter().filter(|entry| !is_hand_made(entry)) {
        let (noun, _) = words_of(entry);
        if !nouns.contains(&noun) {
            nouns.push(noun);
        }
    }
    for noun in nouns {
        let entries: Vec<&Entry> =
            catalogue.iter().filter(|entry| !is_hand_made(entry) && words_of(entry).0 == noun).collect();
        command = match command.find_subcommand(noun) {
            Some(group) => {
                let taken: Vec<String> = group.get_subcommands().map(|verb| verb.get_name().to_owned()).collect();
                let free = entries.into_iter().filter(|entry| !taken.contains(&words_of(entry).1));
                let verbs: Vec<Command> = free.map(verb_of).collect();
                command.mut_subcommand(noun, |group| group.subcommands(verbs))
            }
            None => command.subcommand(group_of(noun, &entries)),
        };
    }
    command
}

fn group_of(noun: &'static str, entries: &[&Entry]) -> Command {
    let verbs = entries.iter().map(|entry| words_of(entry).1).collect::<Vec<_>>();
    let examples = entries.iter().map(|entry| format!("\n  {}", form::example(entry))).collect::<String>();
    let group = Command::new(noun)
        .about(format!("Operations of the service: {}", verbs.join(", ")))
        .after_help(format!("Examples:{examples}"))
        .subcommand_required(true)
        .arg_required_else_help(true);
    group.subcommands(entries.iter().map(|entry| verb_of(entry)))
}

fn verb_of(entry: &Entry) -> Command {
    let mut command = form::command(&words_of(entry).1, entry);
    if entry.kind == Kind::Mutation {
        command = Repeat::augment_args(command);
    }
    form::explained(Standing::augment_args(Where::augment_args(command)), entry)
}

/// The operation that a command line asks for, if its command was made here; `plain` is the command line without them.
pub(super) fn find<'a>(plain: &Command, matches: &'a ArgMatches) -> Option<(&'static Entry, &'a ArgMatches)> {
    let (noun, group) = matches.subcommand()?;
    let (verb, matches) = group.subcommand()?;
    if plain.find_subcommand(noun).is_some_and(|group| group.find_subcommand(verb).is_some()) {
        return None;
    }
    let entry = CATALOGUE.iter().find(|entry| !is_hand_made(entry) && words_of(entry) == (noun, verb.to_owned()))?;
    Some((entry, matches))
}

/// Asks the service, and prints what it answers.
pub(super) async fn run(entry: &'static Entry, matches: &ArgMatches, output: &Output) -> Result<ExitCode, CliError> {
    telemetry::init_logs("warn");
    let not_understood = |error: clap::Error| CliError::new(error.to_string(), "see --help for what the command takes");
    let place = Where::from_arg_matches(matches).map_err(not_understood)?;
    let standing = Standing::from_arg_matches(matches).map_err(not_understood)?;
    let idempotency_key = match entry.kind {
        Kind::Mutation => Repeat::from_arg_matches(matches).map_err(not_understood)?.idempotency_key,
        Kind::Query => None,
    };
    let input = input::read(entry, matches)?;
    let transport = place.connect_as(standing.agent.as_deref(), output).await?;
    let answer = transport.ask(entry, Request { input, request_id: String::new(), idempotency_key }).await;
    let answer = answer.and_then(|answer| match answer.is_refusal() {
        true => Err(transport.refused(&answer.body)),
        false => Ok(answer),
    });
    transport.close().await;
    let answer = answer?;
    if answer.replayed {
        output.note("this is the first answer to that idempotency key; nothing was changed now");
    }
    if output.json {
        output.json(&answer.body)?;
    } else {
        print::answer(&answer.body, output)?;
    }
    Ok(if is_refused(&answer.body) { ExitCode::from(EXIT_REFUSED) } else { ExitCode::SUCCESS })
}

/// Whether the answer is a business refusal. Only the freeing of a lock says it under another name.
fn is_refused(body: &Value) -> bool {
    ["success", "released"].iter().any(|name| body.get(name) == Some(&Value::Bool(false)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What leads to an entry: the path of its command.
    fn path_of(entry: &Entry) -> Vec<String> {
        let made = HAND_MADE.iter().find(|(name, _)| *name == entry.name);
        let (noun, verb) = words_of(entry);
        made.map_or_else(
            || vec![noun.to_owned(), verb],
            |(_, path)| path.iter().map(|word| (*word).to_owned()).collect(),
        )
    }

    fn at<'a>(root: &'a Command, path: &[String]) -> Option<&'a Command> {
        path.iter().try_fold(root, |command, word| command.find_subcommand(word))
    }

    #[test]
    fn every_entry_is_reached_by_one_command_of_its_own() {
        let (plain, root) = (super::super::plain_command(), super::super::command());
        let mut paths: Vec<Vec<String>> = CATALOGUE.iter().map(path_of).collect();
        for (entry, path) in CATALOGUE.iter().zip(&paths) {
            assert!(at(&root, path).is_some(), "{entry:?} has no command `{}`", path.join(" "));
            assert_eq!(
                at(&plain, path).is_some(),
                is_hand_made(entry),
                "`{}` is not the command of {entry:?}",
                path.join(" ")
            );
        }
        paths.sort();
        paths.dedup();
        assert_eq!(paths.len(), CATALOGUE.len(), "two entries have one command");
        for (name, _) in HAND_MADE {
            assert!(CATALOGUE.iter().any(|entry| entry.name == *name), "`{name}` is not in the catalogue");
        }
    }

    #[test]
    fn an_entry_of_a_noun_that_is_made_by_hand_joins_its_group() {
        let mut entry = *crate::command::catalogue::entry("lock_status").unwrap();
        entry.name = "agent_look_up";
        let mut other = entry;
        other.name = "planet_list";
        let catalogue: &'static [Entry] = Box::leak(Box::new([entry, other]));
        let root = augment_with(super::super::plain_command(), catalogue);
        root.clone().debug_assert();
        for words in [["agent", "look-up"], ["planet", "list"]] {
            let line = ["portreeve", words[0], words[1], "--url", "http://h", "--json", "src/a.rs"];
            let matches = root.clone().try_get_matches_from(line).unwrap();
            let (_, group) = matches.subcommand().unwrap();
            let (_, verb) = group.subcommand().unwrap();
            assert_eq!(Where::from_arg_matches(verb).unwrap().url.as_deref(), Some("http://h"));
        }
    }

    #[test]
    fn refusals_are_told_from_answers() {
        use serde_json::json;
        for (body, refused) in [
            (json!({"success": false}), true),
            (json!({"released": false}), true),
            (json!({"success": true}), false),
            (json!({"valid": false}), false),
            (json!({"safe": false, "violations": []}), false),
        ] {
            assert_eq!(is_refused(&body), refused, "{body}");
        }
    }
}
