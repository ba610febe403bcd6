//! What agents may ask for: one struct each, one file per noun, one list of all.

pub mod action;
pub mod agents;
pub mod audit;
pub mod catalogue;
pub mod components;
mod entry;
pub mod handoffs;
pub mod help;
pub mod input;
pub mod locks;
pub mod memories;
pub mod network;
pub mod policy;
pub mod schema;
pub mod sessions;
pub mod status;
pub mod tasks;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};

use crate::engine::types::{Text, TextFormat};
use crate::store::Page;

/// What every list answers beside its entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Listing {
    /// How many entries are in this answer.
    pub count: usize,
    /// Whether there are more.
    pub truncated: bool,
    /// How to see the others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<&'static str>,
}

impl Listing {
    /// The account of a page.
    #[must_use]
    pub fn of<T>(page: &Page<T>, hint: &'static str) -> Self {
        Self { count: page.items.len(), truncated: page.truncated, hint: page.truncated.then_some(hint) }
    }
}

/// A new identifier, ordered by time (UUID version 7).
#[must_use]
pub fn new_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// Plain texts for the guardrails; absent and empty ones are left out.
#[must_use]
pub fn plain(texts: &[(&str, Option<&str>)]) -> Vec<Text> {
    let given = texts.iter().filter_map(|(label, body)| body.map(|body| (label, body)));
    given
        .filter(|(_, body)| !body.is_empty())
        .map(|(label, body)| Text { label: (*label).to_owned(), format: TextFormat::Plain, body: body.to_owned() })
        .collect()
}

/// A JSON document for the guardrails, which read every string in it.
#[must_use]
pub fn json_text(label: &str, value: &Value) -> Text {
    Text { label: label.to_owned(), format: TextFormat::Json, body: value.to_string() }
}

/// A list of texts for the guardrails, which read each by itself and all of them as one line; none for an empty one.
#[must_use]
pub fn list_text(label: &str, texts: &[String]) -> Option<Text> {
    (!texts.is_empty()).then(|| json_text(label, &json!(texts)))
}
