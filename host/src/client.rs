//! A client of the service: over HTTP, or in this process on its data folder. Both run the same entry of the
//! catalogue, so both pass the same gate; the command line and `portreeve mcp` are written on top of it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{RequestBuilder, Url};
use serde_json::{Map, Value};

use crate::app::App;
use crate::authn::{self, Principal};
use crate::command::catalogue::{Answer, Call, Entry, Method};
use crate::command::input::Input;
use crate::error::{Error, FieldProblem, Result};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longer than any wait that a request may ask for.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);
/// The same where something is compiled, proven or replayed first.
const LONG_REQUEST_TIMEOUT: Duration = Duration::from_secs(900);

/// Everything but RFC 3986's unreserved characters.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// A way to the service, as one agent.
#[derive(Debug, Clone)]
pub enum Client {
    /// A server, by HTTP.
    Http {
        /// The connection pool.
        http: reqwest::Client,
        /// Where the server is.
        base: Url,
        /// The agent's key.
        key: String,
    },
    /// The service in this process.
    Embedded {
        /// The service.
        app: Arc<App>,
        /// Who calls.
        caller: Caller,
    },
}

/// Who calls an embedded service.
#[derive(Clone)]
pub enum Caller {
    /// The holder of this key.
    Key(String),
    /// This agent, named by whoever holds the admin's key.
    Agent {
        /// The agent.
        agent_id: String,
        /// The admin's key.
        admin_key: String,
    },
    /// Whoever a surface has just verified; for one request, and no longer.
    Verified(Principal),
}

/// A key is never printed, not even by accident.
impl std::fmt::Debug for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Key(_) => f.write_str("Key(…)"),
            Self::Agent { agent_id, .. } => write!(f, "Agent({agent_id})"),
            Self::Verified(who) => write!(f, "Verified({})", who.agent_id()),
        }
    }
}

impl Caller {
    /// The principal, from the facts of this moment.
    ///
    /// # Errors
    /// [`Error::Unauthenticated`] for a key or an agent that the store does not know.
    pub async fn principal(&self, app: &App) -> Result<Principal> {
        match self {
            Self::Key(key) => authn::authenticate(app.gate().store(), Some(key)).await,
            Self::Agent { agent_id, admin_key } => authn::as_agent(app.gate().store(), admin_key, agent_id).await,
            Self::Verified(who) => Ok(who.clone()),
        }
    }
}

/// A call, as a client makes it.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Fields of body, query string and path together.
    pub input: Map<String, Value>,
    /// Identifies the request across answer, log and audit row; empty for a new one.
    pub request_id: String,
    /// Makes a repeat answer what the first one did.
    pub idempotency_key: Option<String>,
}

/// Why there is no answer. A refusal is an answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server could not be reached, or did not answer.
    #[error("cannot reach `{base}`: {cause}")]
    Unreachable {
        /// The server.
        base: String,
        /// Why.
        cause: String,
        /// Whether the request may have arrived all the same.
        may_have_arrived: bool,
    },
    /// What answered is no Portreeve.
    #[error("`{base}` answered {status}, and not as Portreeve does")]
    NotPortreeve {
        /// The server.
        base: String,
        /// The status.
        status: u16,
    },
    /// HTTP cannot be used on this machine.
    #[error("cannot set up HTTP: {0}")]
    Setup(String),
    /// The URL is none of a server.
    #[error("`{url}` is not the URL of a server: {why}")]
    Url {
        /// As it was given.
        url: String,
        /// What is wrong with it.
        why: String,
    },
}

impl Client {
    /// A client of a server.
    ///
    /// # Errors
    /// When the URL is none, or HTTP cannot be used.
    pub fn http(url: &str, key: String) -> std::result::Result<Self, ClientError> {
        let base = parse_url(url)?;
        // Fails when one is installed already, which is as well.
        drop(rustls::crypto::ring::default_provider().install_default());
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("portreeve/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            // A key is for the server that was named.
            .redirect(reqwest::redirect::Policy::none());
        if is_loopback(&base) {
            builder = builder.no_proxy();
        }
        if base.scheme() == "http" {
            // No certificate is looked at, so a machine without any will do.
            builder = builder.tls_certs_only([]);
        }
        let http = builder.build().map_err(|error| ClientError::Setup(chain(&error)))?;
        Ok(Self::Http { http, base, key })
    }

    /// Whether a key would leave this machine in clear.
    #[must_use]
    pub fn is_in_clear(&self) -> bool {
        matches!(self, Self::Http { base, .. } if base.scheme() == "http" && !is_loopback(base))
    }

    /// Runs an entry of the catalogue. A refusal of any kind is an answer with its status and body.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn call(&self, entry: &'static Entry, request: Request) -> std::result::Result<Answer, ClientError> {
        match self {
            Self::Http { http, base, key } => over_http(http, base, key, entry, request).await,
            Self::Embedded { app, caller } => Ok(in_process(app, caller, entry, request).await),
        }
    }

    /// Ends the connection; an embedded service commits what it has.
    pub async fn close(self) {
        if let Self::Embedded { app, .. } = self {
            app.close().await;
        }
    }
}

async fn in_process(app: &App, caller: &Caller, entry: &'static Entry, request: Request) -> Answer {
    let answer = async {
        let who = caller.principal(app).await?;
        let id = if request.request_id.is_empty() { crate::command::new_id() } else { request.request_id };
        let mut circumstances = app.circumstances(id);
        circumstances.idempotency_key = request.idempotency_key;
        entry.call(app, &who, Call { input: request.input, place: entry.place(), circumstances }).await
    };
    answer.await.unwrap_or_else(|error: Error| Answer::refusal(&error))
}

async fn over_http(
    http: &reqwest::Client,
    base: &Url,
    key: &str,
    entry: &'static Entry,
    request: Request,
) -> std::result::Result<Answer, ClientError> {
    if let Err(error) = check_segments(entry, &request.input) {
        return Ok(Answer::refusal(&error));
    }
    let mut sent = request_of(http, base, entry, request.input).bearer_auth(key);
    if entry.takes_long {
        sent = sent.timeout(LONG_REQUEST_TIMEOUT);
    }
    if !request.request_id.is_empty() {
        sent = sent.header("x-request-id", request.request_id);
    }
    if let Some(key) = request.idempotency_key {
        sent = sent.header("idempotency-key", key);
    }
    let unreachable = |error: reqwest::Error| ClientError::Unreachable {
        base: base.to_string(),
        cause: chain(&error),
        may_have_arrived: !error.is_connect() && !error.is_builder(),
    };
    let response = sent.send().await.map_err(unreachable)?;
    let status = response.status();
    let replayed = response.headers().contains_key("idempotency-replayed");
    let text = response.text().await.map_err(unreachable)?;
    match serde_json::from_str::<Value>(&text) {
        Ok(body) if status.is_success() || body.get("error").is_some() => {
            Ok(Answer { status: status.as_u16(), body, replayed })
        }
        _ => Err(ClientError::NotPortreeve { base: base.to_string(), status: status.as_u16() }),
    }
}

/// What goes into the path is verified before: without it, or with `..`, the request would be another one.
fn check_segments(entry: &'static Entry, input: &Map<String, Value>) -> Result<()> {
    let names: Vec<&str> = entry.path.split('/').filter_map(segment_name).collect();
    if names.is_empty() {
        return Ok(());
    }
    let read = Input::read(entry.input, input, entry.place())?;
    for name in names {
        let (kind, msg) = match read.text(name).as_str() {
            "" => ("missing", "field required"),
            "." | ".." => ("invalid_name", "`.` and `..` are no names"),
            _ => continue,
        };
        return Err(Error::Invalid(vec![FieldProblem::new(entry.place().as_str(), name, kind, msg)]));
    }
    Ok(())
}

/// The field of a segment of a path, if it is one.
fn segment_name(segment: &str) -> Option<&str> {
    let name = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'))?;
    Some(name.trim_start_matches('*'))
}

/// Path fields go into the path, the rest into the body or the query string.
fn request_of(http: &reqwest::Client, base: &Url, entry: &Entry, mut input: Map<String, Value>) -> RequestBuilder {
    let path = fill_path(entry.path, &mut input);
    let url = format!("{}{path}", base.as_str().trim_end_matches('/'));
    match entry.method {
        Method::Post => http.post(url).json(&input),
        Method::Get => http.get(with_query(url, &input)),
        Method::Delete => http.delete(with_query(url, &input)),
    }
}

fn with_query(url: String, input: &Map<String, Value>) -> String {
    if input.is_empty() {
        return url;
    }
    let mut query = form_urlencoded::Serializer::new(String::new());
    // What is null counts as absent, and there is no null in a query.
    for (name, value) in input.iter().filter(|(_, value)| !value.is_null()) {
        let values = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        for value in values {
            query.append_pair(name, &plain(value));
        }
    }
    format!("{url}?{}", query.finish())
}

/// Fills `{field}` and `{*field}` of a path, and takes them out of the input.
fn fill_path(template: &str, input: &mut Map<String, Value>) -> String {
    let segments = template.split('/').map(|segment| {
        let Some(name) = segment_name(segment) else { return segment.to_owned() };
        let value = input.remove(name).map(|value| plain(&value)).unwrap_or_default();
        utf8_percent_encode(&value, SEGMENT).to_string()
    });
    segments.collect::<Vec<_>>().join("/")
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn parse_url(url: &str) -> std::result::Result<Url, ClientError> {
    let wrong = |why: String| ClientError::Url { url: url.to_owned(), why };
    let parsed = Url::parse(url.trim()).map_err(|error| wrong(error.to_string()))?;
    let is_plain = parsed.username().is_empty() && parsed.password().is_none() && parsed.query().is_none();
    if !is_plain || parsed.fragment().is_some() {
        return Err(ClientError::Url {
            // Whatever stands there may be a secret.
            url: format!("{}://{}…", parsed.scheme(), parsed.host_str().unwrap_or_default()),
            why: "it has a user, a query or a fragment; a key goes into PORTREEVE_API_KEY".to_owned(),
        });
    }
    match parsed.scheme() {
        "http" | "https" if parsed.host().is_some() => Ok(parsed),
        scheme => Err(wrong(format!("its scheme is `{scheme}`, not http or https"))),
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// An error with what caused it; the outermost alone says little. The URL is told elsewhere.
fn chain(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn path_fields_are_encoded_and_taken_out() {
        let mut input = json!({"id": "team/α 1", "key_id": "k?#%", "label": "x"}).as_object().unwrap().clone();
        assert_eq!(fill_path("/agents/{id}/keys/{key_id}", &mut input), "/agents/team%2F%CE%B1%201/keys/k%3F%23%25");
        assert_eq!(Value::Object(input), json!({"label": "x"}));
    }

    #[test]
    fn queries_carry_numbers_and_text_alike() {
        let input =
            json!({"agent_id": "a&b=c", "limit": 5, "none": null, "x": ["1", "2"]}).as_object().unwrap().clone();
        assert_eq!(
            with_query("http://h/audit".to_owned(), &input),
            "http://h/audit?agent_id=a%26b%3Dc&limit=5&x=1&x=2"
        );
    }

    #[test]
    fn loopback_is_told_from_its_likes() {
        for (url, expected) in [
            ("http://127.0.0.1:1", true),
            ("http://[::1]:1", true),
            ("http://localhost", true),
            ("http://127.0.0.1.example.com", false),
            ("http://10.0.0.1", false),
        ] {
            assert_eq!(is_loopback(&Url::parse(url).unwrap()), expected, "{url}");
        }
    }
}
