//! JSON Schemas of inputs and outputs, for OpenAPI and MCP: the inputs from the lists of fields that
//! also read them, the outputs from the types that also print them.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

use super::input::{Field, Kind, Preset};
use crate::clock::Time;

/// The schema of what a list of fields reads, as a client should send it. Reading is more lenient than this
/// (numbers as text, nulls and unknown fields are tolerated), so nothing here says that other fields are refused.
#[must_use]
pub fn input_schema(fields: &[Field]) -> Map<String, Value> {
    let properties = fields.iter().map(|field| (field.name.to_owned(), field_schema(field))).collect::<Map<_, _>>();
    let required: Vec<&str> = fields.iter().filter(|field| field.required).map(|field| field.name).collect();
    let mut schema =
        Map::from_iter([("type".to_owned(), json!("object")), ("properties".to_owned(), json!(properties))]);
    if !required.is_empty() {
        schema.insert("required".to_owned(), json!(required));
    }
    schema
}

/// The schema of one field.
#[must_use]
pub fn field_schema(field: &Field) -> Value {
    let mut schema = kind_schema(field);
    if let Some(map) = schema.as_object_mut() {
        map.insert("description".to_owned(), json!(field.doc));
        let preset = field.preset.map(|preset| match preset {
            Preset::Int(number) => json!(number),
            Preset::Bool(truth) => json!(truth),
            Preset::Word(word) => json!(word),
        });
        map.extend(preset.map(|preset| ("default".to_owned(), preset)));
    }
    schema
}

fn kind_schema(field: &Field) -> Value {
    // A length in bytes is not one in characters; a text of more characters than bytes allowed is too long either way.
    let text = |most: usize| match field.required {
        true => json!({"type": "string", "minLength": 1, "maxLength": most}),
        false => json!({"type": "string", "maxLength": most}),
    };
    match field.kind {
        Kind::Text(most) => text(most),
        Kind::Id => text(256),
        Kind::Uuid => json!({"type": "string", "format": "uuid"}),
        Kind::LockKey => json!({"type": "string", "minLength": 1, "maxLength": 1024}),
        Kind::LockKeys(items) => {
            json!({"type": "array", "items": {"type": "string", "minLength": 1, "maxLength": 1024}, "maxItems": items})
        }
        Kind::Int(least, most) => json!({"type": "integer", "minimum": least, "maximum": most}),
        Kind::Ratio => json!({"type": "number", "minimum": 0, "maximum": 1}),
        Kind::Bool => json!({"type": "boolean"}),
        Kind::Object => json!({"type": "object"}),
        Kind::Time => json!({"type": "string", "format": "date-time"}),
        Kind::Texts(items, bytes) => {
            json!({"type": "array", "items": {"type": "string", "maxLength": bytes}, "maxItems": items})
        }
        Kind::Uuids(items) => {
            json!({"type": "array", "items": {"type": "string", "format": "uuid"}, "maxItems": items})
        }
        Kind::Choice(words) => json!({"type": "string", "enum": words}),
    }
}

/// The schema of what a type prints: JSON Schema 2020-12, self-contained.
#[must_use]
pub fn output_schema<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().for_serialize().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    if let Some(map) = schema.as_object_mut() {
        map.remove("title");
    }
    say_any(&mut schema);
    schema
}

/// `true`, which allows anything, is a schema that some clients do not expect; the same in words is one for all.
fn say_any(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            for (name, value) in map.iter_mut() {
                match (name.as_str(), value) {
                    ("properties", Value::Object(properties)) => properties.values_mut().for_each(say_any),
                    ("items", value) => say_any(value),
                    ("anyOf" | "oneOf" | "allOf", Value::Array(all)) => all.iter_mut().for_each(say_any),
                    _ => {}
                }
            }
        }
        Value::Bool(true) => *schema = json!({"description": "Any JSON value"}),
        _ => {}
    }
}

/// Times print as RFC 3339.
impl JsonSchema for Time {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Time".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "format": "date-time"})
    }

    fn inline_schema() -> bool {
        true
    }
}
