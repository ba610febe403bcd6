//! Streamable HTTP: one request, one response, nothing kept in between.
//!
//! The SDK reads the protocol, of both eras, without sessions. Around it: what a client without sessions needs to take a
//! call back, and errors that are JSON-RPC throughout. Who calls, and whether it may, was settled before.

use std::convert::Infallible;
use std::sync::Arc;

use ::http::request::Parts;
use ::http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use bytes::Bytes;
use futures::StreamExt;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, BodyStream, Full, Limited, StreamBody};
use rmcp::model::{ErrorCode, ErrorData};
use rmcp::transport::streamable_http_server::session::never::NeverSessionManager;
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::call::Caller;
use super::handler::{Handler, REVISIONS};
use super::running::{CallName, Entered, Running};
use crate::authn::Principal;
use crate::bounds::{TOO_MANY_VALUES, has_few_values};
use crate::client::{self, Client};

use crate::app::App;

/// A label for a client of the revisions with `initialize`. Nothing is kept under it and it opens nothing: it only tells
/// clients of one agent apart when one of them takes a call back.
const LABEL: &str = "mcp-session-id";

/// Longest label that is looked at.
const LABEL_BYTES_MAX: usize = 128;

const VERSION: &str = "mcp-protocol-version";
const META_VERSION: &str = "io.modelcontextprotocol/protocolVersion";

/// Longest text of the SDK's own errors.
const ERROR_BYTES_MAX: usize = 16 << 10;

/// The body of a response; it ends early when its call is taken back.
pub type ResponseBody = BoxBody<Bytes, Infallible>;

type Service = StreamableHttpService<Handler, NeverSessionManager>;

/// The MCP endpoint of a server.
#[derive(Clone)]
pub struct Endpoint {
    app: Arc<App>,
    service: Service,
    running: Running,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint").finish_non_exhaustive()
    }
}

impl Endpoint {
    /// The endpoint of a service.
    #[must_use]
    pub fn new(app: Arc<App>) -> Self {
        let config = StreamableHttpServerConfig::default()
            .with_legacy_session_mode(false)
            .with_json_response(true)
            // Host, origin and size were looked at before, and by this server's own rules.
            .disable_allowed_hosts()
            .disable_allowed_origins()
            .with_max_request_body_bytes(usize::MAX);
        let service = Service::new(|| Ok(Handler::of_each()), Arc::default(), config);
        Self { app, service, running: Running::default() }
    }

    /// Answers a POST of `who`, whose key was verified with this very request.
    pub async fn answer(
        &self,
        who: Principal,
        mut head: Parts,
        body: Bytes,
        request_id: &str,
    ) -> Response<ResponseBody> {
        if !has_few_values(&body) {
            return refuse(StatusCode::BAD_REQUEST, None, ErrorCode::INVALID_REQUEST, TOO_MANY_VALUES, None);
        }
        let message: Value = match serde_json::from_slice(&body) {
            Ok(message) => message,
            Err(error) => {
                return refuse(StatusCode::BAD_REQUEST, None, ErrorCode::PARSE_ERROR, &error.to_string(), None);
            }
        };
        let id = message.get("id").filter(|id| !id.is_null()).cloned();
        if !message.is_object() {
            let why = "a message is one JSON object; there are no batches in the revisions that are served";
            return refuse(StatusCode::BAD_REQUEST, None, ErrorCode::INVALID_REQUEST, why, None);
        }
        if let Some(refusal) = check_version(&head.headers, &message, id.as_ref()) {
            return refusal;
        }
        let is_modern = message.pointer("/params/_meta").and_then(|meta| meta.get(META_VERSION)).is_some();
        let method = message.get("method").and_then(Value::as_str).unwrap_or_default();
        let label = label(&head.headers);
        let named =
            |id: &Value| CallName { agent_id: who.agent_id().to_owned(), label: label.clone(), id: id.to_string() };
        if method == "notifications/cancelled"
            && let Some(id) = message.pointer("/params/requestId")
        {
            let found = self.running.take_back(&named(id));
            tracing::debug!(%request_id, found, "a client takes a call back");
        }
        let entered =
            id.as_ref().filter(|_| !is_modern && method == "tools/call").map(|id| self.running.enter(named(id)));
        let is_hello = method == "initialize";

        forget_keys(&mut head.headers);
        let client = Client::Embedded { app: Arc::clone(&self.app), caller: client::Caller::Verified(who) };
        head.extensions.insert(Caller { client, request_id: request_id.to_owned() });
        let request = Request::from_parts(head, Full::new(body));
        let mut response = self.dispatch(request, id.as_ref(), entered).await;
        if is_hello
            && response.status() == StatusCode::OK
            && let Ok(label) = HeaderValue::from_str(&crate::command::new_id())
        {
            response.headers_mut().insert(LABEL, label);
        }
        response
    }

    async fn dispatch(
        &self,
        request: Request<Full<Bytes>>,
        id: Option<&Value>,
        entered: Option<Entered>,
    ) -> Response<ResponseBody> {
        let answered = self.service.clone().oneshot(request);
        let response = match &entered {
            None => answered.await,
            // Dropping the service's future cancels the call, as a closed connection does.
            Some(entered) => tokio::select! {
                biased;
                () = entered.taken_back.cancelled() => return nothing(),
                response = answered => response,
            },
        };
        let response = match response {
            Ok(response) => response,
            Err(never) => match never {},
        };
        if is_stream(&response) {
            response.map(|body| until_taken_back(body, entered))
        } else {
            as_json_rpc(response, id).await
        }
    }
}

/// A header that names no revision that is served is answered the same whichever era the client is of.
fn check_version(headers: &HeaderMap, message: &Value, id: Option<&Value>) -> Option<Response<ResponseBody>> {
    let named = headers.get(VERSION)?.to_str().unwrap_or_default();
    let in_body = message.pointer("/params/_meta").and_then(|meta| meta.get(META_VERSION)).and_then(Value::as_str);
    // Where header and body differ, the SDK says so.
    if in_body.is_some_and(|version| version != named) || message.get("method") == Some(&json!("initialize")) {
        return None;
    }
    // The revision before the oldest here has the same messages but for batches; clients may name it by default.
    let is_known =
        REVISIONS.iter().any(|revision| revision.as_str() == named) || (in_body.is_none() && named == "2025-03-26");
    if is_known {
        return None;
    }
    let shown: String = named.chars().take(40).collect();
    let data = json!({"supported": REVISIONS, "requested": shown});
    let code = ErrorCode::UNSUPPORTED_PROTOCOL_VERSION;
    Some(refuse(StatusCode::BAD_REQUEST, id, code, "Unsupported protocol version", Some(data)))
}

fn label(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(LABEL)?.to_str().ok()?;
    (1..=LABEL_BYTES_MAX).contains(&text.len()).then(|| text.to_owned())
}

/// The SDK logs requests; keys are nobody's to log.
fn forget_keys(headers: &mut HeaderMap) {
    for name in ["authorization", "x-coordinator-api-key", "x-api-key", "cookie", "proxy-authorization"] {
        headers.remove(name);
    }
}

fn is_stream(response: &Response<ResponseBody>) -> bool {
    content_type(response).starts_with("text/event-stream")
}

fn content_type(response: &Response<ResponseBody>) -> &str {
    response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Ends a stream when its call is taken back; that drops the SDK's stream, and with it the call.
fn until_taken_back(body: ResponseBody, entered: Option<Entered>) -> ResponseBody {
    let Some(entered) = entered else { return body };
    let taken_back = entered.taken_back.clone().cancelled_owned();
    let frames = BodyStream::new(body).take_until(taken_back).map(move |frame| {
        // Held until the stream is dropped.
        let _running = &entered;
        frame
    });
    BodyExt::boxed(StreamBody::new(frames))
}

/// What a call that was taken back gets: a stream that ends without an answer.
fn nothing() -> Response<ResponseBody> {
    let mut response = Response::new(Full::default().boxed());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response
}

/// The SDK says some errors in plain text; a client of this endpoint reads JSON-RPC.
async fn as_json_rpc(response: Response<ResponseBody>, id: Option<&Value>) -> Response<ResponseBody> {
    let status = response.status();
    if status.is_success() || content_type(&response).starts_with("application/json") {
        return response;
    }
    let text =
        Limited::new(response.into_body(), ERROR_BYTES_MAX).collect().await.map(http_body_util::Collected::to_bytes);
    let text = text.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    // JSON that is no message of the protocol. The status that the SDK gives is about another media type.
    if status == StatusCode::UNSUPPORTED_MEDIA_TYPE && text.starts_with("fail to deserialize") {
        let why = "not a JSON-RPC 2.0 request, notification or response of this protocol";
        return refuse(StatusCode::BAD_REQUEST, id, ErrorCode::INVALID_REQUEST, why, None);
    }
    if status.is_server_error() {
        tracing::error!(%status, error = text, "the MCP service failed");
        return refuse(status, id, ErrorCode::INTERNAL_ERROR, "the request failed; see the service's log", None);
    }
    refuse(status, id, ErrorCode::INVALID_REQUEST, &text, None)
}

fn refuse(
    status: StatusCode,
    id: Option<&Value>,
    code: ErrorCode,
    why: &str,
    data: Option<Value>,
) -> Response<ResponseBody> {
    let error = ErrorData::new(code, why.to_owned(), data);
    // An identifier that could not be read is left out, as the protocol has it.
    let body = match id {
        Some(id) => json!({"jsonrpc": "2.0", "id": id, "error": error}),
        None => json!({"jsonrpc": "2.0", "error": error}),
    };
    let body = body.to_string();
    let mut response = Response::new(Full::from(body).boxed());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
