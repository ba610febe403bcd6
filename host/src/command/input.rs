//! What an operation takes, said once: the same list of fields reads a
//! request, prints its help and describes it to clients.
//!
//! Reading is lenient where clients of the coordinator need it (unknown fields
//! and nulls are tolerated, numbers may be written as text, an empty identifier
//! counts as absent) and strict in what it lets through. All problems of a
//! request are told at once.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::clock::Time;
use crate::domain::lock_key::LockKey;
use crate::error::{Error, FieldProblem, Result};

/// Deepest nesting of JSON that an agent may hand in.
pub const JSON_DEPTH_MAX: usize = 64;

/// Longest text that is read as a time, in bytes: twice what a time down to the nanosecond takes.
const TIME_MAX: usize = 70;

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Text of at most so many bytes.
    Text(usize),
    /// The name of an agent, a type, a profile or a session: at most 256 bytes; `""` counts as absent.
    Id,
    /// A UUID.
    Uuid,
    /// A lock key, verified.
    LockKey,
    /// A list of at most so many lock keys.
    LockKeys(usize),
    /// A whole number within bounds.
    Int(i64, i64),
    /// A number from 0 to 1.
    Ratio,
    /// True or false.
    Bool,
    /// A JSON object, nested at most [`JSON_DEPTH_MAX`] deep.
    Object,
    /// RFC 3339 with an offset.
    Time,
    /// A list of texts: at most so many, each at most so many bytes.
    Texts(usize, usize),
    /// A list of at most so many UUIDs.
    Uuids(usize),
    /// One of these words.
    Choice(&'static [&'static str]),
}

impl Kind {
    /// Whether it is a list.
    #[must_use]
    pub const fn is_list(self) -> bool {
        matches!(self, Self::LockKeys(_) | Self::Texts(..) | Self::Uuids(_))
    }
}

/// What a field is when it is absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    /// A number.
    Int(i64),
    /// True or false.
    Bool(bool),
    /// A word of a choice.
    Word(&'static str),
}

impl From<Preset> for Value {
    fn from(preset: Preset) -> Self {
        match preset {
            Preset::Int(number) => Self::from(number),
            Preset::Bool(truth) => Self::from(truth),
            Preset::Word(word) => Self::from(word),
        }
    }
}

/// One field of an input.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// Its name on the wire.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// Whether it must be there.
    pub required: bool,
    /// What it is when it is absent.
    pub preset: Option<Preset>,
    /// The code of the error when a value is out of bounds.
    pub code: Option<&'static str>,
    /// What it means.
    pub doc: &'static str,
    /// Whether it is kept out of the audit log: of its value only a mark is left.
    pub secret: bool,
}

impl Field {
    /// An optional field.
    #[must_use]
    pub const fn new(name: &'static str, kind: Kind, doc: &'static str) -> Self {
        Self { name, kind, required: false, preset: None, code: None, doc, secret: false }
    }

    /// The field must be there, and a text must not be blank.
    #[must_use]
    pub const fn required(mut self) -> Self {
        self.required = true;
        self
    }

    /// What the number is when the field is absent.
    #[must_use]
    pub const fn default(self, value: i64) -> Self {
        self.preset(Preset::Int(value))
    }

    /// What it is when the field is absent.
    #[must_use]
    pub const fn preset(mut self, value: Preset) -> Self {
        self.preset = Some(value);
        self
    }

    /// Its value is not for the audit log.
    #[must_use]
    pub const fn secret(mut self) -> Self {
        self.secret = true;
        self
    }

    /// The error's code when the value is out of bounds.
    #[must_use]
    pub const fn code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }
}

/// A lock key's field, the same everywhere.
pub const FILE_PATH: Field =
    Field::new("file_path", Kind::LockKey, "What is locked: a path relative to the repository, or a logical key")
        .required();

/// Time to live of a lock, the same everywhere.
pub const TTL_MINUTES: Field = Field::new("ttl_minutes", Kind::Int(1, 480), "Minutes until the lock frees itself")
    .default(30)
    .code("ttl_out_of_range");

/// The caller's own name; another's is refused.
pub const AGENT_ID: Field = Field::new("agent_id", Kind::Id, "The caller's own name, if given");
/// The caller's own type; another's is refused.
pub const AGENT_TYPE: Field = Field::new("agent_type", Kind::Id, "The caller's own type, if given");

/// How many entries a list answers at most.
pub const LIMIT: Field = Field::new("limit", Kind::Int(1, 1000), "Most entries in the answer").default(100);

/// Where a request's fields came from; part of an error's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The JSON body.
    Body,
    /// Query string or path.
    Query,
}

impl Place {
    /// As it stands in an error.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Body => "body",
            Self::Query => "query",
        }
    }
}

/// An input that was read and verified: only fields that the operation knows.
#[derive(Debug, Clone, Default)]
pub struct Input {
    values: BTreeMap<&'static str, Value>,
    /// Names of the values that are not for the audit log.
    secrets: Vec<&'static str>,
}

impl Input {
    /// Reads `fields` from `map`.
    ///
    /// # Errors
    /// [`Error::Invalid`] with every problem found.
    pub fn read(fields: &'static [Field], map: &Map<String, Value>, place: Place) -> Result<Self> {
        let mut values = BTreeMap::new();
        let mut problems = Vec::new();
        for field in fields {
            match read_field(field, map.get(field.name)) {
                Ok(Some(value)) => {
                    values.insert(field.name, value);
                }
                Ok(None) => {}
                Err((kind, msg)) => problems.push(FieldProblem::new(place.as_str(), field.name, kind, msg)),
            }
        }
        let secrets = fields.iter().filter(|field| field.secret).map(|field| field.name).collect();
        if problems.is_empty() { Ok(Self { values, secrets }) } else { Err(Error::Invalid(problems)) }
    }

    /// The text of a field; empty when absent.
    #[must_use]
    pub fn text(&self, name: &str) -> String {
        self.opt_text(name).unwrap_or_default()
    }

    /// The text of a field, if it is there.
    #[must_use]
    pub fn opt_text(&self, name: &str) -> Option<String> {
        self.values.get(name).and_then(Value::as_str).map(str::to_owned)
    }

    /// The number of a field; 0 when absent and without a default.
    #[must_use]
    pub fn int(&self, name: &str) -> i64 {
        self.opt_int(name).unwrap_or_default()
    }

    /// The number of a field, if it is there.
    #[must_use]
    pub fn opt_int(&self, name: &str) -> Option<i64> {
        self.values.get(name).and_then(Value::as_i64)
    }

    /// The ratio of a field; 0 when absent.
    #[must_use]
    pub fn ratio(&self, name: &str) -> f64 {
        self.values.get(name).and_then(Value::as_f64).unwrap_or_default()
    }

    /// The truth of a field, if it is there.
    #[must_use]
    pub fn opt_bool(&self, name: &str) -> Option<bool> {
        self.values.get(name).and_then(Value::as_bool)
    }

    /// The object of a field, if it is there.
    #[must_use]
    pub fn object(&self, name: &str) -> Option<&Map<String, Value>> {
        self.values.get(name).and_then(Value::as_object)
    }

    /// The texts of a field; empty when absent.
    #[must_use]
    pub fn texts(&self, name: &str) -> Vec<String> {
        let list = self.values.get(name).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    }

    /// The time of a field, if it is there.
    #[must_use]
    pub fn time(&self, name: &str) -> Option<Time> {
        self.values.get(name).and_then(Value::as_str).and_then(|text| Time::parse(text).ok())
    }

    /// The lock key of a field.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it is absent; it was verified when it was read.
    pub fn lock_key(&self, name: &str) -> Result<LockKey> {
        LockKey::parse(&self.text(name)).map_err(|e| Error::field(name, "invalid_file_path", e.to_string()))
    }

    /// Everything that was read, for the audit log and the request's hash; of secrets their mark.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let shown = |name: &str, value: &Value| match value.as_str() {
            Some(secret) if self.secrets.contains(&name) => Value::from(format!("mark:{}", mark_of(secret))),
            _ => value.clone(),
        };
        Value::Object(self.values.iter().map(|(name, value)| ((*name).to_owned(), shown(name, value))).collect())
    }
}

/// Sixteen bits of a secret's digest: they tell one from another, and are too few to test guesses by.
#[must_use]
pub fn mark_of(secret: &str) -> String {
    let digest = Sha256::new().chain_update(b"portreeve mark\0").chain_update(secret).finalize();
    digest.iter().take(2).map(|byte| format!("{byte:02x}")).collect()
}

type Problem = (&'static str, String);

fn read_field(field: &Field, given: Option<&Value>) -> Result<Option<Value>, Problem> {
    let absent = match given {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty() && matches!(field.kind, Kind::Id | Kind::Uuid | Kind::Time),
        Some(_) => false,
    };
    let Some(value) = given.filter(|_| !absent) else {
        return match (field.required, field.preset) {
            (true, _) => Err(("missing", "field required".to_owned())),
            // Read as if it had been given, so that it is the same request either way.
            (false, preset) => preset.map(|preset| read_value(field, &Value::from(preset))).transpose(),
        };
    };
    read_value(field, value).map(Some)
}

fn read_value(field: &Field, value: &Value) -> Result<Value, Problem> {
    match field.kind {
        Kind::Text(max) => read_text(field, value, max),
        Kind::Id => read_text(field, value, 256).and_then(|id| check_printable(&id)),
        Kind::Uuid => read_uuid(value),
        Kind::LockKey => read_lock_key(value),
        Kind::LockKeys(items) => read_list(value, items, read_lock_key),
        Kind::Int(min, max) => read_int(field, value, min, max),
        Kind::Ratio => read_ratio(field, value),
        Kind::Bool => read_bool(value),
        Kind::Object => read_object(value),
        Kind::Time => read_time(value),
        Kind::Texts(items, bytes) => read_list(value, items, |item| read_text(field, item, bytes)),
        Kind::Uuids(items) => read_list(value, items, read_uuid),
        Kind::Choice(words) => read_choice(value, words),
    }
}

fn str_of(value: &Value) -> Result<&str, Problem> {
    value.as_str().ok_or(("string_type", "input should be a text".to_owned()))
}

fn read_text(field: &Field, value: &Value, max: usize) -> Result<Value, Problem> {
    let text = str_of(value)?;
    if text.len() > max {
        return Err(("string_too_long", format!("text is {} bytes long; the most is {max}", text.len())));
    }
    if text.contains('\0') {
        return Err(("string_has_nul", "text holds a NUL character".to_owned()));
    }
    if field.required && text.trim().is_empty() {
        return Err(("string_too_short", "text is empty".to_owned()));
    }
    Ok(Value::from(text))
}

fn check_printable(id: &Value) -> Result<Value, Problem> {
    match id.as_str() {
        Some(text) if text.chars().any(char::is_control) => {
            Err(("string_has_control", "a name holds a control character".to_owned()))
        }
        _ => Ok(id.clone()),
    }
}

fn read_uuid(value: &Value) -> Result<Value, Problem> {
    let parsed = Uuid::parse_str(str_of(value)?);
    parsed.map(|id| Value::from(id.to_string())).map_err(|e| ("uuid_parsing", format!("input should be a UUID: {e}")))
}

fn read_lock_key(value: &Value) -> Result<Value, Problem> {
    let key = LockKey::parse(str_of(value)?);
    key.map(|key| Value::from(key.as_str())).map_err(|e| ("invalid_file_path", e.to_string()))
}

fn read_int(field: &Field, value: &Value, min: i64, max: i64) -> Result<Value, Problem> {
    let code = field.code.unwrap_or("out_of_range");
    let number = match value {
        Value::Number(n) => n.as_i64().or_else(|| whole(n.as_f64())),
        Value::String(text) => text.trim().parse::<i64>().ok(),
        _ => None,
    };
    // A number too large for 64 bits is out of range, not of the wrong type.
    let Some(number) = number else {
        let large = value.as_u64().is_some() || value.as_f64().is_some_and(|f| f.abs() >= 9e18);
        let kind = if large { code } else { "int_parsing" };
        return Err((kind, format!("input should be a whole number from {min} to {max}")));
    };
    if (min..=max).contains(&number) {
        Ok(Value::from(number))
    } else {
        Err((code, format!("{number} is not within {min} to {max}")))
    }
}

#[expect(clippy::cast_possible_truncation, reason = "whole and within ±2^53, so nothing is cut")]
fn whole(float: Option<f64>) -> Option<i64> {
    float.filter(|f| f.fract() == 0.0 && f.abs() <= 9_007_199_254_740_992.0).map(|f| f as i64)
}

fn read_ratio(field: &Field, value: &Value) -> Result<Value, Problem> {
    let number = match value {
        Value::Number(n) => n.as_f64(),
        Value::String(text) => text.trim().parse::<f64>().ok(),
        _ => None,
    };
    match number {
        None => Err(("float_parsing", "input should be a number from 0 to 1".to_owned())),
        Some(number) if (0.0..=1.0).contains(&number) => Ok(Value::from(number)),
        Some(number) => Err((field.code.unwrap_or("out_of_range"), format!("{number} is not within 0 to 1"))),
    }
}

fn read_bool(value: &Value) -> Result<Value, Problem> {
    match value {
        Value::Bool(b) => Ok(Value::from(*b)),
        Value::String(text) if text == "true" => Ok(Value::from(true)),
        Value::String(text) if text == "false" => Ok(Value::from(false)),
        _ => Err(("bool_parsing", "input should be true or false".to_owned())),
    }
}

fn read_object(value: &Value) -> Result<Value, Problem> {
    if !value.is_object() {
        return Err(("dict_type", "input should be a JSON object".to_owned()));
    }
    check_json(value)?;
    Ok(value.clone())
}

/// Walks without recursion: nesting is the caller's to choose.
fn check_json(value: &Value) -> Result<(), Problem> {
    let mut open = vec![(value, 1_usize)];
    while let Some((value, depth)) = open.pop() {
        if depth > JSON_DEPTH_MAX {
            return Err(("nested_too_deep", format!("input is nested deeper than {JSON_DEPTH_MAX}")));
        }
        let next = depth.saturating_add(1);
        match value {
            Value::Array(items) => open.extend(items.iter().map(|item| (item, next))),
            Value::Object(map) if map.keys().any(|key| key.contains('\0')) => return Err(nul()),
            Value::Object(map) => open.extend(map.values().map(|item| (item, next))),
            Value::String(text) if text.contains('\0') => return Err(nul()),
            _ => {}
        }
    }
    Ok(())
}

fn nul() -> Problem {
    ("string_has_nul", "text holds a NUL character".to_owned())
}

fn read_time(value: &Value) -> Result<Value, Problem> {
    let text = str_of(value)?;
    // The parser's error repeats the text it was given, so what is too long for a time must not reach it.
    if text.len() > TIME_MAX {
        let msg = format!("input should be RFC 3339 with an offset; this text is {} bytes long", text.len());
        return Err(("datetime_parsing", msg));
    }
    match Time::parse(text) {
        Ok(at) => Ok(Value::from(at.to_string())),
        Err(e) => Err(("datetime_parsing", format!("input should be RFC 3339 with an offset: {e}"))),
    }
}

fn read_list(value: &Value, max: usize, read: impl Fn(&Value) -> Result<Value, Problem>) -> Result<Value, Problem> {
    let items = value.as_array().ok_or(("list_type", "input should be a list".to_owned()))?;
    if items.len() > max {
        return Err(("too_long", format!("a list of {} items; the most is {max}", items.len())));
    }
    items.iter().map(read).collect::<Result<Vec<_>, _>>().map(Value::from)
}

fn read_choice(value: &Value, words: &[&str]) -> Result<Value, Problem> {
    let text = str_of(value)?;
    if words.contains(&text) {
        Ok(Value::from(text))
    } else {
        Err(("enum", format!("input should be one of {}", words.join(", "))))
    }
}

#[cfg(test)]
mod tests;
