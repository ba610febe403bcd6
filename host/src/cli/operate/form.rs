//! The form of an operation's command: which argument each field becomes, and what its help says.

use clap::{Arg, ArgAction, Command};

use crate::command::catalogue::{Entry, Names};
use crate::command::input::{Field, Kind, Preset};

/// Texts that may be longer than this are also read from a file: nobody types them.
const TYPED_BYTES_MAX: usize = 4096;

/// The fields that a command line may give: not the caller's name, which the key says.
pub(super) fn fields_of(entry: &Entry) -> impl Iterator<Item = &'static Field> {
    let is_caller = entry.names == Names::Caller;
    entry.input.iter().filter(move |field| !(is_caller && matches!(field.name, "agent_id" | "agent_type")))
}

/// Whether a field's value may be given as `@FILE`.
pub(super) const fn takes_file(kind: Kind) -> bool {
    match kind {
        Kind::Object => true,
        Kind::Text(bytes) => bytes > TYPED_BYTES_MAX,
        _ => false,
    }
}

/// Required fields stand in order; a truth or a list among them says more under its name.
const fn is_positional(field: &Field) -> bool {
    field.required && !field.kind.is_list() && !matches!(field.kind, Kind::Bool)
}

/// The command of an entry, without its help.
pub(super) fn command(verb: &str, entry: &Entry) -> Command {
    Command::new(verb.to_owned()).args(fields_of(entry).map(arg))
}

/// The command with its help, which comes last: sets of options that join a command bring texts of their own.
pub(super) fn explained(command: Command, entry: &Entry) -> Command {
    let mut long = entry.description();
    if fields_of(entry).any(|field| takes_file(field.kind)) {
        long.push_str(
            "\n\nA value that may be @FILE is read from that file; @- or - reads stdin, and @@ stands for an @ that \
             the value begins with.",
        );
    }
    let tool = entry.tool.map(|tool| format!(", MCP tool {}", tool.name)).unwrap_or_default();
    long.push_str(&format!("\n\nPolicy operation {}, {} {}{tool}", entry.operation, entry.method.as_str(), entry.path));
    command.about(entry.summary).long_about(long).after_help(format!("Example:\n  {}", example(entry)))
}

fn option_name(field: &Field) -> String {
    field.name.replace('_', "-")
}

fn arg(field: &Field) -> Arg {
    let arg = Arg::new(field.name).help(help(field)).value_name(value_name(field)).required(field.required);
    if is_positional(field) {
        return hints(arg, field);
    }
    let arg = hints(arg.long(option_name(field)), field);
    match field.kind {
        // A flag may stand alone, so a value must be tied to it; a truth that must be told is told.
        Kind::Bool if !field.required => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
        kind if kind.is_list() => arg.action(ArgAction::Append),
        _ => arg,
    }
}

/// Helps a shell to complete, and to tell a negative number from an option. The service verifies the value.
fn hints(arg: Arg, field: &Field) -> Arg {
    match field.kind {
        Kind::Int(..) | Kind::Ratio => arg.allow_negative_numbers(true),
        _ => arg,
    }
}

fn value_name(field: &Field) -> String {
    match field.kind {
        Kind::Bool => "true|false".to_owned(),
        Kind::Choice(words) if words.iter().map(|word| word.len()).sum::<usize>() <= 32 => words.join("|"),
        Kind::Object => "JSON|@FILE".to_owned(),
        kind if takes_file(kind) && !is_positional(field) => "TEXT|@FILE".to_owned(),
        Kind::Int(..) | Kind::Ratio if !is_positional(field) => "N".to_owned(),
        Kind::Time if !is_positional(field) => "TIME".to_owned(),
        Kind::Uuid | Kind::Uuids(_) if !is_positional(field) => "UUID".to_owned(),
        _ => field.name.to_ascii_uppercase(),
    }
}

/// The field's own words, then what bounds it.
fn help(field: &Field) -> String {
    let mut notes = Vec::new();
    match field.kind {
        Kind::Int(least, i64::MAX) => notes.push(format!("from {least}")),
        Kind::Int(least, most) => notes.push(format!("{least} to {most}")),
        Kind::Ratio => notes.push("0 to 1".to_owned()),
        Kind::Uuid => notes.push("a UUID".to_owned()),
        Kind::Time => notes.push("RFC 3339 with an offset".to_owned()),
        Kind::Choice(words) => notes.push(format!("one of {}", words.join(", "))),
        Kind::Object => notes.push("a JSON object, @FILE or - for stdin".to_owned()),
        kind if takes_file(kind) => notes.push("text, @FILE or - for stdin".to_owned()),
        kind if kind.is_list() => notes.push("may be given several times".to_owned()),
        _ => {}
    }
    match field.preset {
        Some(Preset::Int(number)) => notes.push(format!("default {number}")),
        Some(Preset::Bool(truth)) => notes.push(format!("default {truth}")),
        Some(Preset::Word(word)) => notes.push(format!("default {word}")),
        None => {}
    }
    if notes.is_empty() { field.doc.to_owned() } else { format!("{} [{}]", field.doc, notes.join("; ")) }
}

// ---------------------------------------------------------------- examples

/// Values that read better in an example than the name of their field.
const SAMPLES: &[(&str, &str)] = &[
    ("task_type", "build"),
    ("task_description", "'build the release'"),
    ("operation_text", "'git push --force'"),
    ("operation", "acquire_lock"),
    ("policy_text", "@access.cedar"),
    ("summary", "'the parser is done'"),
    ("event_type", "discovery"),
    ("domain", "github.com"),
    ("fencing_token", "7"),
    ("task_types", "build"),
];

/// A command line of an entry: what it requires, one thing that it may take, and how a program reads the answer.
pub(super) fn example(entry: &Entry) -> String {
    let (noun, verb) = super::words_of(entry);
    let mut words = vec!["portreeve".to_owned(), noun.to_owned(), verb];
    for field in fields_of(entry).filter(|field| field.required) {
        words.extend((!is_positional(field)).then(|| format!("--{}", option_name(field))));
        words.push(sample(field));
    }
    let more = fields_of(entry).find(|field| !field.required && matches!(field.preset, Some(Preset::Int(1..))));
    words.extend(more.map(|field| format!("--{} {}", option_name(field), sample(field))));
    words.push("--json".to_owned());
    words.join(" ")
}

fn sample(field: &Field) -> String {
    if let Some((_, value)) = SAMPLES.iter().find(|(name, _)| *name == field.name) {
        return (*value).to_owned();
    }
    match (field.preset, field.kind) {
        (Some(Preset::Int(number)), _) => number.to_string(),
        (_, Kind::LockKey | Kind::LockKeys(_)) => "src/main.rs".to_owned(),
        (_, Kind::Bool) => "true".to_owned(),
        (_, Kind::Int(least, _)) => least.to_string(),
        (_, Kind::Choice(words)) => words.first().map_or_else(String::new, |word| (*word).to_owned()),
        (_, Kind::Object) => "@data.json".to_owned(),
        _ => field.name.to_ascii_uppercase(),
    }
}
