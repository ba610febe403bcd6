//! What a command line says, as the input of an operation. Values stay text: the service reads and verifies them.

use std::io::{self, Read};
use std::path::Path;

use clap::ArgMatches;
use serde_json::{Map, Value};

use super::form::{fields_of, takes_file};
use crate::cli::body::{read_whole, unreadable};
use crate::cli::error::{CliError, EXIT_USAGE};
use crate::command::catalogue::Entry;
use crate::command::input::{Field, Kind};

/// Most bytes of a JSON object that are read from a file: what a server takes in one request.
const OBJECT_BYTES_MAX: usize = 1 << 20;

/// The input of an entry.
pub(super) fn read(entry: &Entry, matches: &ArgMatches) -> Result<Map<String, Value>, CliError> {
    read_from(entry, matches, &mut io::stdin().lock())
}

fn read_from(entry: &Entry, matches: &ArgMatches, stdin: &mut dyn Read) -> Result<Map<String, Value>, CliError> {
    let mut input = Map::new();
    let mut from_stdin: Option<&str> = None;
    for field in fields_of(entry) {
        let Some(mut given) = matches.get_many::<String>(field.name) else { continue };
        let value = if field.kind.is_list() {
            Value::from(given.map(|text| Value::from(text.as_str())).collect::<Vec<_>>())
        } else {
            let Some(text) = given.next_back() else { continue };
            let source = source_of(field, text);
            if matches!(source, Source::Stdin)
                && let Some(other) = from_stdin.replace(field.name)
            {
                let cause = format!("`{other}` and `{}` cannot both be read from stdin", field.name);
                return Err(usage(cause, "put one of them into a file: @FILE"));
            }
            value_of(field, &source, stdin)?
        };
        input.insert(field.name.to_owned(), value);
    }
    Ok(input)
}

/// Where a value is.
enum Source<'a> {
    /// On the command line.
    Here(&'a str),
    File(&'a Path),
    Stdin,
}

fn source_of<'a>(field: &Field, text: &'a str) -> Source<'a> {
    if !takes_file(field.kind) {
        return Source::Here(text);
    }
    match text.strip_prefix('@') {
        None if text == "-" => Source::Stdin,
        None => Source::Here(text),
        Some("-") => Source::Stdin,
        // Doubled, it stands for itself.
        Some(rest) if rest.starts_with('@') => Source::Here(rest),
        Some(file) => Source::File(Path::new(file)),
    }
}

fn value_of(field: &Field, source: &Source<'_>, stdin: &mut dyn Read) -> Result<Value, CliError> {
    let most = if let Kind::Text(bytes) = field.kind { bytes } else { OBJECT_BYTES_MAX };
    let text = match source {
        Source::Here(text) => (*text).to_owned(),
        Source::Stdin => read_whole(stdin, "stdin", most).map_err(not_asked)?,
        Source::File(path) => read_file(path, most).map_err(not_asked)?,
    };
    if field.kind != Kind::Object {
        return Ok(Value::from(text));
    }
    serde_json::from_str(&text).map_err(|error| {
        let cause = format!("`{}` is not JSON: {error}", field.name);
        usage(cause, "give it as JSON, for instance '{\"key\": \"value\"}', or name a file: @FILE")
    })
}

fn read_file(path: &Path, bytes_max: usize) -> Result<String, CliError> {
    let name = format!("`{}`", path.display());
    let file = std::fs::File::open(path).map_err(|error| CliError {
        next: "name a file that you may read; an @ that a value itself begins with is written twice".to_owned(),
        ..unreadable(&name, &error)
    })?;
    read_whole(file, &name, bytes_max)
}

fn usage(cause: impl Into<String>, next: &str) -> CliError {
    not_asked(CliError::new(cause, next))
}

/// The command line, or a file that it names, is not understood; nothing was asked.
fn not_asked(error: CliError) -> CliError {
    error.with_exit(EXIT_USAGE)
}

#[cfg(test)]
mod tests {
    use clap::ArgMatches;
    use serde_json::json;

    use super::super::form;
    use super::*;
    use crate::command::catalogue::{CATALOGUE, Names, entry};

    fn matches(entry: &Entry, words: &[String]) -> ArgMatches {
        let line = std::iter::once("verb".to_owned()).chain(words.iter().cloned());
        form::command("verb", entry).try_get_matches_from(line).unwrap_or_else(|error| panic!("{entry:?}: {error}"))
    }

    fn read_words(name: &str, words: &[&str], stdin: &str) -> Result<Value, CliError> {
        let entry = entry(name).unwrap();
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        read_from(entry, &matches(entry, &words), &mut stdin.as_bytes()).map(Value::Object)
    }

    /// A value for a field, as words of a command line and as it is sent.
    fn value(field: &Field) -> (String, Value) {
        match field.kind {
            Kind::Object => ("{\"a\":1}".to_owned(), json!({"a": 1})),
            kind if kind.is_list() => ("one".to_owned(), json!(["one"])),
            Kind::Int(..) => ("-5".to_owned(), json!("-5")),
            Kind::Bool => ("false".to_owned(), json!("false")),
            _ => ("some text".to_owned(), json!("some text")),
        }
    }

    #[test]
    fn every_field_of_every_entry_can_be_said() {
        for entry in CATALOGUE {
            let (mut words, mut options, mut expected) = (Vec::new(), Vec::new(), Map::new());
            for field in fields_of(entry) {
                let (text, sent) = value(field);
                let arg = form::command("verb", entry);
                let arg = arg.get_arguments().find(|arg| arg.get_id() == field.name).unwrap();
                match arg.get_long() {
                    Some(long) => options.push(format!("--{long}={text}")),
                    None => words.push(text),
                }
                expected.insert(field.name.to_owned(), sent);
            }
            words.extend(options);
            let read = read_from(entry, &matches(entry, &words), &mut io::empty()).unwrap();
            assert_eq!(read, expected, "{entry:?}");
            let said: Vec<&str> = expected.keys().map(String::as_str).collect();
            for field in entry.input.iter().filter(|field| !said.contains(&field.name)) {
                assert!(entry.names == Names::Caller && field.name.starts_with("agent_"), "{entry:?}: {}", field.name);
            }
        }
    }

    #[test]
    fn absent_options_are_not_sent_and_flags_may_stand_alone() {
        assert_eq!(read_words("lock_acquire", &["src/a.rs"], "").unwrap(), json!({"file_path": "src/a.rs"}));
        assert_eq!(
            read_words("task_submit", &["t", "d", "--depends-on", "a", "--depends-on", "b"], "").unwrap(),
            json!({"task_type": "t", "task_description": "d", "depends_on": ["a", "b"]})
        );
    }

    #[test]
    fn long_values_come_from_files_or_stdin_and_a_doubled_at_sign_is_one() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "{\"n\": [1, 2]}\n").unwrap();
        let at_file = format!("@{}", file.path().display());
        let submit = |text: &str, data: &str, stdin: &str| {
            read_words("task_submit", &["t", text, "--input-data", data], stdin)
                .map(|input| (input["task_description"].clone(), input["input_data"].clone()))
        };
        assert_eq!(submit("d", &at_file, "").unwrap(), (json!("d"), json!({"n": [1, 2]})));
        assert_eq!(submit("-", "{}", "from stdin\n").unwrap(), (json!("from stdin\n"), json!({})));
        assert_eq!(submit("@@home", "@-", "{\"x\":1}").unwrap(), (json!("@home"), json!({"x": 1})));
        assert_eq!(submit("a@b", "{}", "").unwrap().0, json!("a@b"));
        // A short text is never a file.
        let short = read_words("lock_acquire", &["a", "--reason", "@me"], "").unwrap();
        assert_eq!(short["reason"], "@me");
        for (text, data, why) in [
            ("@/no/such/file", "{}", "cannot read"),
            ("-", "@-", "both"),
            ("d", "{\"n\":", "not JSON: EOF"),
            ("d", "@-", "not JSON"),
        ] {
            let error = submit(text, data, "").unwrap_err();
            assert!(error.cause.contains(why), "{error}");
            assert_eq!(error.exit, EXIT_USAGE);
        }
    }
}
