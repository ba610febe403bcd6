//! The HTTP surface: reads a request, finds its entry in the catalogue, prints the answer. No rules, no SQL.

mod mcp;
mod openapi;
mod origin;
mod route;
mod senders;
mod serve;
mod service;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use tower_http::catch_panic::CatchPanicLayer;

use crate::app::App;
use crate::authn;
use crate::bounds::{TOO_MANY_VALUES, has_few_values};
use crate::command::catalogue::{Answer, Call, Entry, File};
use crate::command::input::{Field, Place};
use crate::crash;
use crate::error::{Error, FieldProblem, Result};
use crate::mcp::Endpoint;

pub use origin::{Origin, Origins};
pub use serve::{Served, serve, serve_with};

/// Largest body that is read.
pub const BODY_BYTES_MAX: usize = 1 << 20;

/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(15);

/// Answers that were given before say so.
const REPLAYED: &str = "idempotency-replayed";

/// What the handler of every request shares.
#[derive(Debug, Clone)]
struct Shared {
    app: Arc<App>,
    mcp: Endpoint,
    origins: Arc<Origins>,
}

/// The service as an axum router. `origins` says which pages may use `/mcp` from a browser.
pub fn router(app: Arc<App>, origins: Origins) -> Router {
    let panicked = CatchPanicLayer::custom(|_: Box<dyn std::any::Any + Send>| {
        tracing::error!("a request handler panicked");
        let body = json!({"success": false, "error": "internal_error", "detail": "the request failed; see the log"});
        (StatusCode::INTERNAL_SERVER_ERROR, Json(body)).into_response()
    });
    let shared = Shared { mcp: Endpoint::new(Arc::clone(&app)), app, origins: Arc::new(origins) };
    Router::new().fallback(handle).with_state(shared).layer(panicked)
}

/// One request, from its head to its answer.
async fn handle(State(shared): State<Shared>, request: Request) -> Response {
    crash::point!("http.request-arrived");
    let arrived = Instant::now();
    let request_id = request_id(request.headers());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let (name, mut response) = match answer(&shared, request, &request_id).await {
        Ok((name, response)) => (name, response),
        Err((name, error)) => (name, error_response(&error)),
    };
    if let Ok(value) = HeaderValue::from_str(&request_id) {
        response.headers_mut().insert("x-request-id", value);
    }
    let (status, seconds) = (response.status(), arrived.elapsed().as_secs_f64());
    metrics::counter!("portreeve_http_requests_total", "route" => name, "status" => status.as_str().to_owned())
        .increment(1);
    metrics::histogram!("portreeve_http_request_duration_seconds", "route" => name).record(seconds);
    tracing::info!(%request_id, %method, path, route = name, status = status.as_u16(), ms = seconds * 1000.0, "request");
    crash::point!("http.answer-made");
    response
}

type Named<T> = std::result::Result<T, (&'static str, Error)>;

async fn answer(shared: &Shared, request: Request, request_id: &str) -> Named<(&'static str, Response)> {
    let app = &*shared.app;
    let path = request.uri().path().to_owned();
    if path == mcp::PATH {
        return Ok((mcp::NAME, mcp::answer(shared, request, request_id).await));
    }
    if let Some(found) = service::find(&path) {
        let name = found.name();
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let (method, allowed) = (request.method().to_string(), "GET, HEAD".to_owned());
            return Err((name, Error::WrongMethod { method, allowed }));
        }
        return Ok((name, found.answer(app).await));
    }
    match route::find(request.method(), &path) {
        route::Found::Nothing => Err(("unknown", Error::UnknownPath(path.chars().take(200).collect()))),
        route::Found::OtherMethods(allowed) => {
            Err(("wrong_method", Error::WrongMethod { method: request.method().to_string(), allowed }))
        }
        route::Found::Entry(entry, segments) => {
            let answered = keyed(app, entry, segments, request, request_id).await;
            answered.map(|answer| (entry.name, answer_response(answer))).map_err(|error| (entry.name, error))
        }
    }
}

/// A request that needs a key: the key first, then the body.
async fn keyed(
    app: &App,
    entry: &'static Entry,
    segments: Vec<(String, Vec<u8>)>,
    request: Request,
    request_id: &str,
) -> Result<Answer> {
    let who = authn::authenticate(app.gate().store(), key_of(request.headers())).await?;
    crash::point!("http.key-found");
    let (place, mut input) = match *request.method() {
        Method::POST => (Place::Body, Map::new()),
        _ => (Place::Query, query_fields(entry.input, request.uri().query().unwrap_or_default())),
    };
    let mut circumstances = app.circumstances(request_id.to_owned());
    let key = request.headers().get("idempotency-key");
    circumstances.idempotency_key = key.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    // Held until the answer: what is sent is in memory so long.
    let mut _turn = None;
    if place == Place::Body {
        input = match entry.file {
            None => body_fields(request.into_body(), BODY_BYTES_MAX).await?,
            Some(file) => {
                _turn = Some(senders::turn(who.agent_id()).await?);
                file_fields(file, request).await?
            }
        };
    }
    for (name, bytes) in segments {
        // Not UTF-8: no name of anything, and the reader of the input says so.
        input.insert(name, String::from_utf8(bytes).map_or(Value::from("\u{0}"), Value::from));
    }
    crash::point!("http.input-read");
    entry.call(app, &who, Call { input, place, circumstances }).await
}

/// The caller's key: `Authorization: Bearer`, then `X-Coordinator-API-Key`, then `X-API-Key`; empty ones are absent.
fn key_of(headers: &HeaderMap) -> Option<&str> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let bearer = text("authorization").and_then(|value| {
        let (scheme, key) = value.split_once(char::is_whitespace)?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    });
    [bearer, text("x-coordinator-api-key"), text("x-api-key")].into_iter().flatten().find(|key| !key.is_empty())
}

/// The caller's request identifier where it is a sane one, else a new one.
fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get("x-request-id").and_then(|value| value.to_str().ok());
    let sane = |id: &&str| {
        (1..=128).contains(&id.len()) && id.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    given.filter(sane).map_or_else(crate::command::new_id, str::to_owned)
}

/// The fields of a query string. What may be given several times becomes a list.
fn query_fields(fields: &[Field], query: &str) -> Map<String, Value> {
    let mut map = Map::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()).filter(|(_, value)| !value.is_empty()) {
        let is_list = fields.iter().any(|field| field.name == name && field.kind.is_list());
        match map.get_mut(name.as_ref()) {
            Some(Value::Array(values)) => values.push(Value::from(value.into_owned())),
            _ if is_list => drop(map.insert(name.into_owned(), Value::from(vec![value.into_owned()]))),
            _ => drop(map.insert(name.into_owned(), Value::from(value.into_owned()))),
        }
    }
    map
}

/// A body, whole, if it is not too large and does not take too long.
async fn body_bytes(body: Body, bytes_max: usize) -> Result<Bytes> {
    let unreadable = |why: &str| Error::Invalid(vec![FieldProblem::new("body", "", "body_unreadable", why)]);
    let read = tokio::time::timeout(BODY_TIMEOUT, to_bytes(body, bytes_max)).await;
    read.map_err(|_| unreadable("the body did not arrive in time"))?.map_err(|error| {
        if is_length_limit(&error) { Error::TooLarge(bytes_max) } else { unreadable("the body could not be read") }
    })
}

/// The file itself as the body, or a JSON body with the file in a field.
async fn file_fields(file: File, request: Request) -> Result<Map<String, Value>> {
    let media_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type = media_type.and_then(|text| text.split(';').next()).unwrap_or_default().trim();
    let is_file = media_type.eq_ignore_ascii_case(file.media_type);
    let declared = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    // Base64 and a little around it.
    let bytes_max = if is_file { file.bytes_max } else { file.bytes_max / 3 * 4 + (64 << 10) };
    if declared.and_then(|text| text.parse::<usize>().ok()).is_some_and(|length| length > bytes_max) {
        return Err(Error::TooLarge(bytes_max));
    }
    if !is_file {
        return body_fields(request.into_body(), bytes_max).await;
    }
    let bytes = body_bytes(request.into_body(), bytes_max).await?;
    if bytes.is_empty() {
        return Ok(Map::new());
    }
    Ok(Map::from_iter([(file.field.to_owned(), Value::from(STANDARD.encode(bytes)))]))
}

async fn body_fields(body: Body, bytes_max: usize) -> Result<Map<String, Value>> {
    let bytes = body_bytes(body, bytes_max).await?;
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(Map::new());
    }
    let invalid = |code, msg: String| Error::Invalid(vec![FieldProblem::new("body", "", code, msg)]);
    if !has_few_values(&bytes) {
        return Err(invalid("json_too_large", TOO_MANY_VALUES.to_owned()));
    }
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(invalid("dict_type", "the body should be a JSON object".to_owned())),
        Err(error) => Err(invalid("json_invalid", format!("JSON decode error: {error}"))),
    }
}

fn is_length_limit(error: &axum::Error) -> bool {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        if error.is::<http_body_util::LengthLimitError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

fn answer_response(answer: Answer) -> Response {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
    let mut response = (status, Json(answer.body)).into_response();
    if answer.replayed {
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
    response
}

/// The one place that turns errors into statuses.
fn error_response(error: &Error) -> Response {
    let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, Json(error.body())).into_response();
    if let Error::WrongMethod { allowed, .. } = error
        && let Ok(allowed) = HeaderValue::from_str(allowed)
    {
        response.headers_mut().insert(header::ALLOW, allowed);
    }
    if status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}
