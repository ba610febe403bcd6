//! A request of the demo, by the catalogue's own method and path.

use serde_json::Value;

use super::history::Expect;
use super::op::Op;
use crate::command::catalogue::{self, Method};

/// A request, before it is sent.
#[derive(Debug)]
pub(super) struct Ask<'a> {
    pub(super) op: Op,
    pub(super) expect: Expect,
    pub(super) body: Value,
    segments: Vec<(&'a str, &'a str)>,
    query: &'a str,
    pub(super) key: Option<&'a str>,
    pub(super) idempotency: Option<&'a str>,
}

impl<'a> Ask<'a> {
    pub(super) fn new(op: Op, expect: Expect, body: Value) -> Self {
        Self { op, expect, body, segments: Vec::new(), query: "", key: None, idempotency: None }
    }

    /// Fills `{name}` of the path.
    pub(super) fn segment(mut self, name: &'a str, value: &'a str) -> Self {
        self.segments.push((name, value));
        self
    }

    pub(super) fn query(mut self, query: &'a str) -> Self {
        self.query = query;
        self
    }

    /// Another key than the agent's own; empty for none.
    pub(super) fn key(mut self, key: &'a str) -> Self {
        self.key = Some(key);
        self
    }

    pub(super) fn idempotency(mut self, key: &'a str) -> Self {
        self.idempotency = Some(key);
        self
    }

    pub(super) fn method(&self) -> Method {
        catalogue::entry(self.op.name()).map_or(Method::Post, |entry| entry.method)
    }

    pub(super) fn path(&self) -> String {
        let mut path = catalogue::entry(self.op.name()).map_or("", |entry| entry.path).to_owned();
        for (name, value) in &self.segments {
            let value = percent_encoding::utf8_percent_encode(value, percent_encoding::NON_ALPHANUMERIC).to_string();
            path = path.replace(&format!("{{*{name}}}"), &value).replace(&format!("{{{name}}}"), &value);
        }
        if self.query.is_empty() { path } else { format!("{path}?{}", self.query) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_catalogue_with_their_segments_encoded() {
        let ask = Ask::new(Op::LockForceRelease, Expect::Works, Value::Null).segment("file_path", "a b/c?.rs");
        assert_eq!(ask.path(), "/locks/a%20b%2Fc%3F%2Ers");
        let ask = Ask::new(Op::AgentKeyRevoke, Expect::Works, Value::Null).segment("id", "x").segment("key_id", "y");
        assert_eq!(ask.path(), "/agents/x/keys/y");
        assert_eq!(Ask::new(Op::LockList, Expect::Works, Value::Null).query("limit=1").path(), "/locks?limit=1");
    }
}
