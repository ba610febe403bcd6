//! One call: what it takes along, how its waiting is told, how it ends.

use std::time::Duration;

use rmcp::model::{JsonObject, MetaObject, ProgressNotificationParam, ProgressToken};
use rmcp::service::RequestContext;
use rmcp::{ErrorData, RoleServer};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{META_IDEMPOTENCY_KEY, META_REPLAYED, META_REQUEST_ID};
use crate::client::{Client, ClientError, Request};
use crate::command::catalogue::{Answer, Entry, Kind};
use crate::error::Error;

/// How often a waiting call tells that it still waits.
const PROGRESS_PERIOD: Duration = Duration::from_secs(1);

/// An input field of this name makes a call wait.
const WAIT: &str = "wait_seconds";

/// JSON-RPC's code for a call that policy or the input stands against. The range is the implementation's own.
const REFUSED: i32 = -32010;

/// A caller, as one request of a transport knows it.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    /// The way to the service, as this caller.
    pub(super) client: Client,
    /// Identifies the request across answer, log and audit row.
    pub(super) request_id: String,
}

/// What became of a call.
pub(super) struct Outcome {
    /// The answer; a refusal is one.
    pub(super) answer: Answer,
    /// What the result says beside it.
    pub(super) meta: MetaObject,
}

/// Runs an entry for a caller, telling its progress if it waits and the caller wants to know. Ends without an answer
/// once the caller takes the call back, or is `gone` while it waits: nothing is tried on its behalf after that.
pub(super) async fn run(
    caller: &Caller,
    entry: &'static Entry,
    input: JsonObject,
    context: &RequestContext<RoleServer>,
    gone: &CancellationToken,
) -> Result<Outcome, ErrorData> {
    let idempotency_key = match context.meta.get(META_IDEMPOTENCY_KEY) {
        None | Some(Value::Null) => None,
        Some(Value::String(key)) => Some(key.clone()),
        Some(_) => {
            let error = Error::field(META_IDEMPOTENCY_KEY, "string_type", "the idempotency key should be a text");
            return Ok(outcome(Answer::refusal(&error), caller));
        }
    };
    let seconds = if entry.input.iter().any(|field| field.name == WAIT) { waited(&input) } else { 0 };
    let request = Request { input, request_id: caller.request_id.clone(), idempotency_key };
    let answer = async {
        let answered = caller.client.call(entry, request).await;
        answered.unwrap_or_else(|error| unreachable(&error, entry.kind))
    };
    let answer = tokio::select! {
        biased;
        () = context.ct.cancelled() => return Err(cancelled()),
        () = gone.cancelled(), if seconds > 0 => return Err(cancelled()),
        answer = answer => answer,
        // A client that reads slowly holds up the telling, not the answer.
        () = tell(context, seconds), if seconds > 0 => return Err(cancelled()),
    };
    Ok(outcome(answer, caller))
}

/// An answer, with what the result says beside it.
pub(super) fn outcome(answer: Answer, caller: &Caller) -> Outcome {
    let mut meta = MetaObject::new();
    meta.insert(META_REQUEST_ID.to_owned(), json!(caller.request_id));
    if answer.replayed {
        meta.insert(META_REPLAYED.to_owned(), json!(true));
    }
    Outcome { answer, meta }
}

/// The seconds that a call asks to wait; what is no such number is for the reader of the input to say.
fn waited(input: &JsonObject) -> u32 {
    match input.get(WAIT) {
        Some(Value::Number(number)) => number.as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or(0),
        Some(Value::String(text)) => text.trim().parse().unwrap_or(0),
        _ => 0,
    }
}

/// Tells how long a call has waited, each second, for ever. Silent where nobody asked.
async fn tell(context: &RequestContext<RoleServer>, seconds: u32) {
    let Some(token) = context.meta.get_progress_token() else { return std::future::pending().await };
    let mut ticks = tokio::time::interval(PROGRESS_PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks.tick().await;
    for waited in 1..=seconds {
        ticks.tick().await;
        // A client that is gone is told of by the cancelled token.
        drop(context.peer.notify_progress(progress(&token, waited, seconds)).await);
    }
    std::future::pending().await
}

fn progress(token: &ProgressToken, waited: u32, seconds: u32) -> ProgressNotificationParam {
    ProgressNotificationParam::new(token.clone(), f64::from(waited))
        .with_total(f64::from(seconds))
        .with_message(format!("waited {waited} of {seconds} seconds"))
}

/// No answer is sent to a call that was taken back; this is for the transport, which drops it.
fn cancelled() -> ErrorData {
    ErrorData::internal_error("the call was cancelled", None)
}

/// A server that does not answer is an answer for the model, too: it can try again, or tell its user.
fn unreachable(error: &ClientError, kind: Kind) -> Answer {
    let unknown = matches!(error, ClientError::Unreachable { may_have_arrived: true, .. }) && kind == Kind::Mutation;
    let remedy = match unknown {
        true => "it is not known whether the change was made: look before you try again",
        false => "try again; if it stays so, the coordinator is not running at the URL that this program was given",
    };
    let body = json!({"success": false, "error": "unreachable", "detail": error.to_string(), "remedy": remedy});
    Answer { status: 503, body, replayed: false }
}

/// A refusal where the protocol has no result for one: a resource that may not be read.
pub(super) fn refused(body: Value) -> ErrorData {
    let text = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (error, reason, remedy) = (text("error"), text("detail"), text("remedy"));
    let mut message = if reason.is_empty() { error.clone() } else { format!("{error}: {reason}") };
    if !remedy.is_empty() {
        message.push_str(&format!(" (remedy: {remedy})"));
    }
    ErrorData::new(rmcp::model::ErrorCode(REFUSED), message, Some(body))
}
