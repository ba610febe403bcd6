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

/// How long a request is sent again and again when no host answers it.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pause before a request is sent to another host.
const AGAIN: Duration = Duration::from_millis(40);

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
    /// Which host it speaks to, until that one does not answer.
    host: usize,
}

/// What was sent for one request, and what came of it.
struct Sent {
    request_id: String,
    unanswered: Vec<String>,
    recovered: bool,
    class: Class,
    body: Value,
}

impl Client {
    pub(super) fn new(world: Arc<World>, who: Who, label: &str) -> Self {
        let host = label.bytes().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(byte)));
        Self { who, history: History::default(), world, label: label.to_owned(), sent: 0, host }
    }

    /// Sends a request and compares its answer with what is expected.
    pub(super) async fn call(&mut self, ask: Ask<'_>) -> Reply {
        let sent = Instant::now();
        let Sent { request_id, unanswered, recovered, class, body } = self.persist(&ask).await;
        let answered = Instant::now();
        let reply = Reply { request_id, op: ask.op, class, body, sent, answered };
        self.note(&ask, &reply, unanswered, recovered);
        reply
    }

    /// Sends a request until a host answers it. With several hosts a mutation has a key, so that it may be sent again where
    /// it is not known what became of it.
    async fn persist(&mut self, ask: &Ask<'_>) -> Sent {
        let first_id = format!("{}.{}", self.label, self.sent);
        self.sent = self.sent.saturating_add(1);
        let is_one = self.world.urls.len() < 2;
        let own_key = (!is_one && ask.idempotency.is_none() && ask.op.mutates()).then(|| format!("once {first_id}"));
        let key = ask.idempotency.or(own_key.as_deref());
        let started = Instant::now();
        let (mut request_id, mut unanswered) = (first_id.clone(), Vec::new());
        loop {
            let (answer, class) = match self.send(ask, &request_id, key).await {
                Ok((status, replayed, body)) => {
                    let recovered = replayed && !unanswered.is_empty() && ask.expect != Expect::Replayed;
                    let class = classify(status, replayed && !recovered, &body);
                    (Some((status, recovered, body)), class)
                }
                Err(error) => (None, Class::Odd(format!("no answer: {}", root_cause(&error)))),
            };
            let is_answered = answer.as_ref().is_some_and(|(status, ..)| *status != 503);
            if is_one || is_answered || started.elapsed() > PATIENCE {
                let (_, recovered, body) = answer.unwrap_or((0, false, Value::Null));
                return Sent { request_id, unanswered, recovered, class, body };
            }
            // Another host of the same store will know.
            self.host = self.host.wrapping_add(1);
            unanswered.push(std::mem::take(&mut request_id));
            request_id = format!("{first_id}.again-{}", unanswered.len());
            tokio::time::sleep(AGAIN).await;
        }
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

    async fn send(
        &self,
        ask: &Ask<'_>,
        request_id: &str,
        key: Option<&str>,
    ) -> Result<(u16, bool, Value), reqwest::Error> {
        let urls = &self.world.urls;
        let host = urls.get(self.host % urls.len().max(1)).map_or("", String::as_str);
        let url = format!("{host}{}", ask.path());
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
        if let Some(key) = key {
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

    fn note(&mut self, ask: &Ask<'_>, reply: &Reply, unanswered: Vec<String>, recovered: bool) {
        self.world.count(ask.op, &reply.class);
        if !ask.expect.is_met_by(&reply.class) {
            self.surprise(reply, &ask.expect.text(), reply.class.clone());
        }
        self.history.records.push(Record {
            agent_id: self.who.agent_id.clone(),
            request_id: reply.request_id.clone(),
            unanswered,
            recovered,
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
