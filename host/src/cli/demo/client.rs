//! One agent's HTTP client: sends, classifies, writes down.

use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::header::CONTENT_TYPE;
use serde_json::{Value, json};

use super::ask::Ask;
use super::history::{Class, Decided, Expect, History, Record, Rows, Surprise};
use super::op::Op;
use super::world::World;
use crate::command::catalogue::Method;

/// Nothing in the demo takes so long; an answer that does is an anomaly.
const TIMEOUT: Duration = Duration::from_secs(30);

/// An agent of the demo.
#[derive(Debug, Clone)]
pub(super) struct Who {
    pub(super) agent_id: String,
    pub(super) agent_type: String,
    pub(super) profile: String,
    pub(super) key: String,
}

/// An answer.
#[derive(Debug)]
pub(super) struct Reply {
    request_id: String,
    op: Op,
    pub(super) class: Class,
    pub(super) body: Value,
    pub(super) sent: Instant,
    pub(super) answered: Instant,
}

impl Reply {
    pub(super) fn is_allowed(&self) -> bool {
        self.class == Class::Allowed
    }

    pub(super) fn text(&self, field: &str) -> Option<&str> {
        self.body.get(field).and_then(Value::as_str)
    }

    pub(super) fn int(&self, field: &str) -> Option<i64> {
        self.body.get(field).and_then(Value::as_i64)
    }
}

/// One agent's connection and what it saw.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) who: Who,
    pub(super) history: History,
    world: Arc<World>,
    /// Distinguishes clients of one agent in request identifiers.
    label: String,
    sent: usize,
}

impl Client {
    pub(super) fn new(world: Arc<World>, who: Who, label: &str) -> Self {
        Self { who, history: History::default(), world, label: label.to_owned(), sent: 0 }
    }

    /// Sends a request and compares its answer with what is expected.
    pub(super) async fn call(&mut self, ask: Ask<'_>) -> Reply {
        let request_id = format!("{}.{}", self.label, self.sent);
        self.sent = self.sent.saturating_add(1);
        let sent = Instant::now();
        let (class, body) = match self.send(&ask, &request_id).await {
            Ok((status, replayed, body)) => (classify(status, replayed, &body), body),
            Err(error) => (Class::Odd(format!("no answer: {}", root_cause(&error))), Value::Null),
        };
        let answered = Instant::now();
        let reply = Reply { request_id, op: ask.op, class, body, sent, answered };
        self.note(&ask, &reply);
        reply
    }

    /// Writes an answer down as a surprise unless what it says is right.
    pub(super) fn check(&mut self, reply: &Reply, fine: bool, found: &str) {
        if !fine && !matches!(reply.class, Class::Denied(_)) {
            self.surprise(reply, "the right answer", Class::Odd(found.to_owned()));
        }
    }

    fn surprise(&mut self, reply: &Reply, expected: &str, class: Class) {
        self.history.surprises.push(Surprise {
            agent_id: self.who.agent_id.clone(),
            request_id: reply.request_id.clone(),
            op: reply.op,
            expected: expected.to_owned(),
            class,
            detail: reply.body.to_string().chars().take(400).collect(),
            sent: reply.sent,
            answered: reply.answered,
        });
    }

    async fn send(&self, ask: &Ask<'_>, request_id: &str) -> Result<(u16, bool, Value), reqwest::Error> {
        let url = format!("{}{}", self.world.url, ask.path());
        let http = &self.world.http;
        let mut request = match ask.method() {
            Method::Get => http.get(url),
            Method::Delete => http.delete(url),
            Method::Post => http.post(url).header(CONTENT_TYPE, "application/json").body(ask.body.to_string()),
        };
        request = request.header("x-request-id", request_id).timeout(TIMEOUT);
        match ask.key.unwrap_or(&self.who.key) {
            "" => {}
            key => request = request.bearer_auth(key),
        }
        if let Some(key) = ask.idempotency {
            request = request.header("idempotency-key", key);
        }
        let response = request.send().await?;
        let status = response.status().as_u16();
        let replayed = response.headers().contains_key("idempotency-replayed");
        let echoed = response.headers().get("x-request-id").is_some_and(|id| id.as_bytes() == request_id.as_bytes());
        let bytes = response.bytes().await?;
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Ok((if echoed { status } else { 0 }, replayed, body))
    }

    fn note(&mut self, ask: &Ask<'_>, reply: &Reply) {
        self.world.count(ask.op, &reply.class);
        if !ask.expect.is_met_by(&reply.class) {
            self.surprise(reply, &ask.expect.text(), reply.class.clone());
        }
        self.history.records.push(Record {
            agent_id: self.who.agent_id.clone(),
            request_id: reply.request_id.clone(),
            op: ask.op,
            class: reply.class.clone(),
            rows: rows(ask, &reply.class),
            sent: reply.sent,
            answered: reply.answered,
        });
    }
}

/// What an answer came to.
fn classify(status: u16, replayed: bool, body: &Value) -> Class {
    let code = |field: &str| {
        let text = body.get(field).and_then(Value::as_str).unwrap_or("without a reason");
        text.split(':').next().unwrap_or_default().to_owned()
    };
    let is = |field: &str, wanted: bool| body.get(field) == Some(&json!(wanted));
    match status {
        200 if replayed => Class::Replayed,
        200 if is("success", false) || is("valid", false) => Class::Conflict(code("reason")),
        200 if is("released", false) => Class::Conflict("not_locked".to_owned()),
        200 if body.is_object() => Class::Allowed,
        401 => Class::Unauthenticated,
        403 => Class::Denied(code("reason")),
        422 => Class::Invalid(code("reason")),
        0 => Class::Odd("an answer without the request's x-request-id".to_owned()),
        _ => Class::Odd(format!("status {status}")),
    }
}

/// How many rows the request must have left in the audit log.
fn rows(ask: &Ask<'_>, class: &Class) -> Rows {
    match (class, ask.expect) {
        (Class::Unauthenticated, _) => Rows::None,
        (Class::Invalid(_), Expect::Invalid(_, Decided::Not)) => Rows::None,
        (Class::Invalid(_), Expect::Invalid(_, Decided::Before)) => Rows::One,
        (Class::Invalid(_) | Class::Odd(_), _) => Rows::Any,
        _ if ask.op == Op::TaskClaim => Rows::Some,
        _ => Rows::One,
    }
}

fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart() {
        assert_eq!(classify(200, false, &json!({"success": true})), Class::Allowed);
        assert_eq!(classify(200, true, &json!({"success": true})), Class::Replayed);
        let blocked = json!({"success": false, "reason": "destructive_operation_blocked: rm_rf"});
        assert_eq!(classify(200, false, &blocked), Class::Conflict("destructive_operation_blocked".to_owned()));
        assert_eq!(classify(403, false, &json!({"reason": "suspended: x"})), Class::Denied("suspended".to_owned()));
        assert!(matches!(classify(500, false, &Value::Null), Class::Odd(_)));
        assert!(matches!(classify(200, false, &Value::Null), Class::Odd(_)));
    }
}
