//! Inputs of operations, read by the catalogue's lists of fields.

use std::sync::LazyLock;

use jsonschema::Validator;
use portreeve::bounds::values_in;
use portreeve::command::catalogue::{CATALOGUE, Entry};
use portreeve::command::input::{Field, Input, Kind};
use portreeve::error::{Error, FieldProblem};
use serde_json::{Map, Value, json};

use super::Outcome;

/// What a schema cannot say of a text: what is true of its bytes, or of a grammar.
const BEYOND_SCHEMAS: [&str; 9] = [
    "invalid_file_path",
    "string_too_long",
    "string_has_nul",
    "string_has_control",
    "string_too_short",
    "uuid_parsing",
    "datetime_parsing",
    "nested_too_deep",
    "float_parsing",
];

static SCHEMAS: LazyLock<Vec<(&Entry, Validator)>> = LazyLock::new(|| {
    let options = jsonschema::options().should_validate_formats(true);
    let schema = |entry: &Entry| options.build(&Value::Object(entry.input_schema())).unwrap();
    CATALOGUE.iter().map(|entry| (entry, schema(entry))).collect()
});

/// A JSON object as the input of every operation: it is understood, or all that is wrong with it is told, and twice the same.
pub fn command_input(data: &[u8]) -> Outcome {
    let Ok(value) = serde_json::from_slice::<Value>(data) else { return Outcome::Refused };
    assert!(size(&value) <= values_in(data), "more values than were counted");
    let Value::Object(map) = value else { return Outcome::Refused };
    let mut accepted = false;
    for (entry, schema) in SCHEMAS.iter() {
        let fits = schema.is_valid(&Value::Object(map.clone()));
        match (read(entry, &map), read(entry, &map)) {
            (Ok(first), Ok(second)) => {
                assert_eq!(first, second, "{entry:?}");
                check_read(entry, &map, &first, schema);
                // What asks for nothing takes any object.
                accepted |= entry.input.iter().any(|field| field.required);
            }
            (Err(first), Err(second)) => {
                assert_eq!(first, second, "{entry:?}");
                check_problems(entry, &first);
                let telling = |problem: &FieldProblem| {
                    BEYOND_SCHEMAS.contains(&problem.kind.as_str()) || is_rounded(problem, &map)
                };
                assert!(
                    !fits || first.iter().all(telling),
                    "{entry:?} allows by its schema what is refused: {first:?}"
                );
            }
            (first, second) => panic!("{entry:?}: {first:?}, then {second:?}"),
        }
    }
    Outcome::accepted_if(accepted)
}

/// Whether it is about a whole number that was written as a fraction, and is too large for such a one to be exact.
fn is_rounded(problem: &FieldProblem, given: &Map<String, Value>) -> bool {
    let value = problem.loc.last().and_then(|field| given.get(field));
    problem.kind == "int_parsing" && value.is_some_and(Value::is_f64)
}

fn read(entry: &Entry, map: &Map<String, Value>) -> Result<Value, Vec<FieldProblem>> {
    match Input::read(entry.input, map, entry.place()) {
        Ok(input) => Ok(input.to_json()),
        Err(Error::Invalid(problems)) => Err(problems),
        Err(other) => panic!("{entry:?}: {other:?}"),
    }
}

/// What was read is what the published schema describes, and reading it changes nothing.
fn check_read(entry: &Entry, given: &Map<String, Value>, read: &Value, schema: &Validator) {
    let fields = read.as_object().expect("an input is an object");
    for name in fields.keys() {
        assert!(entry.input.iter().any(|field| field.name == name), "{entry:?} does not know `{name}`");
    }
    for field in entry.input.iter().filter(|field| field.required) {
        assert!(fields.contains_key(field.name) && given.contains_key(field.name), "{entry:?} lacks `{}`", field.name);
    }
    let secrets = entry.input.iter().any(|field| field.secret && fields.contains_key(field.name));
    if !secrets {
        let error = schema.iter_errors(read).next().map(|error| error.to_string());
        assert_eq!(error, None, "{entry:?} read {read}");
        assert_eq!(self::read(entry, fields).as_ref(), Ok(read), "{entry:?}");
    }
    for field in entry.input {
        check_bytes(field, &fields.get(field.name).cloned().unwrap_or_default());
    }
}

/// Bounds that are in bytes, which no schema says.
fn check_bytes(field: &Field, value: &Value) {
    let texts: Vec<&str> = match value {
        Value::Array(items) => items.iter().filter_map(Value::as_str).collect(),
        value => value.as_str().into_iter().collect(),
    };
    let most = match field.kind {
        Kind::Text(most) | Kind::Texts(_, most) => most,
        Kind::Id => 256,
        Kind::LockKey | Kind::LockKeys(_) => 1024,
        _ => return,
    };
    assert!(texts.iter().all(|text| text.len() <= most && !text.contains('\0')), "{}: {texts:?}", field.name);
}

fn check_problems(entry: &Entry, problems: &[FieldProblem]) {
    assert!(!problems.is_empty(), "{entry:?} is refused for nothing");
    for FieldProblem { loc, msg, kind } in problems {
        let place = entry.place();
        let field = loc.get(1).map(String::as_str);
        assert!(loc.len() == 2 && loc[0] == json!(place.as_str()), "{entry:?}: {loc:?}");
        assert!(entry.input.iter().any(|known| Some(known.name) == field), "{entry:?}: {loc:?}");
        assert!(!kind.is_empty() && kind.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{kind}");
        assert!(!msg.is_empty() && msg.len() <= 4096, "{entry:?}: {msg}");
    }
}

/// How many values a value holds, without recursion.
fn size(value: &Value) -> usize {
    let (mut open, mut count) = (vec![value], 0);
    while let Some(value) = open.pop() {
        match value {
            Value::Array(items) => {
                count += items.len();
                open.extend(items);
            }
            Value::Object(map) => {
                count += map.len();
                open.extend(map.values());
            }
            _ => {}
        }
    }
    count
}
