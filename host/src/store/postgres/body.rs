//! Reading what a function of the database answered.

use serde_json::Value;

use crate::clock::Time;

/// The database answered what this program does not understand. The mutation is committed all the same.
#[derive(Debug, thiserror::Error)]
#[error("the database's answer has no usable `{0}`")]
pub struct Unreadable(pub(super) &'static str);

/// The answer of a function: the fields that the caller is told.
#[derive(Debug)]
pub struct Body(Value);

impl Body {
    pub(super) fn parse(text: &str) -> Result<Self, Unreadable> {
        serde_json::from_str(text).map(Self).map_err(|_| Unreadable("body"))
    }

    fn get(&self, field: &str) -> Option<&Value> {
        self.0.get(field).filter(|value| !value.is_null())
    }

    pub(super) fn flag(&self, field: &'static str) -> Result<bool, Unreadable> {
        self.get(field).and_then(Value::as_bool).ok_or(Unreadable(field))
    }

    pub(super) fn text(&self, field: &'static str) -> Result<String, Unreadable> {
        self.opt_text(field)?.ok_or(Unreadable(field))
    }

    pub(super) fn opt_text(&self, field: &'static str) -> Result<Option<String>, Unreadable> {
        self.get(field).map(|value| value.as_str().map(str::to_owned).ok_or(Unreadable(field))).transpose()
    }

    pub(super) fn int(&self, field: &'static str) -> Result<i64, Unreadable> {
        self.opt_int(field)?.ok_or(Unreadable(field))
    }

    pub(super) fn opt_int(&self, field: &'static str) -> Result<Option<i64>, Unreadable> {
        self.get(field).map(|value| value.as_i64().ok_or(Unreadable(field))).transpose()
    }

    pub(super) fn opt_time(&self, field: &'static str) -> Result<Option<Time>, Unreadable> {
        self.opt_text(field)?.map(|text| Time::parse(&text).map_err(|_| Unreadable(field))).transpose()
    }

    pub(super) fn opt_json(&self, field: &str) -> Option<Value> {
        self.get(field).cloned()
    }

    /// One of the words that the contract knows.
    pub(super) fn word(&self, field: &'static str, known: &[&'static str]) -> Result<&'static str, Unreadable> {
        self.opt_word(field, known)?.ok_or(Unreadable(field))
    }

    pub(super) fn opt_word(
        &self,
        field: &'static str,
        known: &[&'static str],
    ) -> Result<Option<&'static str>, Unreadable> {
        let Some(text) = self.opt_text(field)? else { return Ok(None) };
        known.iter().find(|word| **word == text).copied().map(Some).ok_or(Unreadable(field))
    }
}
