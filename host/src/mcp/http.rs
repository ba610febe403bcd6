//! MCP over streamable HTTP, as a service that `http/` mounts on the server's listener.
//!
//! Every request stands alone, in both eras of the protocol: it carries its key, is authenticated before its body is
//! read, and runs as that key's agent. Clients of the older revisions are given a session identifier only so that their
//! `notifications/cancelled` can be told from those of another client of the same agent; nothing is stored under it.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body::Body;
use http_body_util::combinators::BoxBody;
use rmcp::transport::streamable_http_server::session::never::NeverSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};

use super::calls::Calls;
use super::handler::{Handler, Way};
use crate::app::App;
use crate::client::{self, Client};

/// An answer, perhaps a stream.
pub type Response = http::Response<BoxBody<Bytes, Infallible>>;

const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");

const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");

/// Longest session identifier that is taken from a client.
const SESSION_BYTES_MAX: usize = 128;

/// Who sent a request, once its key is verified.
#[derive(Debug, Clone)]
pub struct Caller {
    pub(super) client: Client,
    pub(super) agent_id: String,
    pub(super) session: Option<String>,
}

impl Caller {
    /// The holder of a key that was verified just now.
    #[must_use]
    pub fn new(app: &Arc<App>, key: &str, agent_id: &str, headers: &HeaderMap) -> Self {
        let session = headers.get(&SESSION).and_then(|value| value.to_str().ok());
        let session = session.filter(|id| id.len() <= SESSION_BYTES_MAX).map(str::to_owned);
        let client = Client::Embedded { app: Arc::clone(app), caller: client::Caller::Key(key.to_owned()) };
        Self { client, agent_id: agent_id.to_owned(), session }
    }
}

/// The endpoint `/mcp`.
#[derive(Clone)]
pub struct Endpoint {
    service: StreamableHttpService<Handler, NeverSessionManager>,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint").finish_non_exhaustive()
    }
}

impl Endpoint {
    /// An endpoint that reads bodies up to a size. A key is needed for everything, so which name a client knows the
    /// host by does not matter; a browser's page is refused by its `Origin` unless that is in `origins`.
    #[must_use]
    pub fn new(body_bytes_max: usize, origins: &[String]) -> Self {
        let calls = Calls::default();
        let config = StreamableHttpServerConfig::default()
            .with_legacy_session_mode(false)
            .with_json_response(true)
            .disable_allowed_hosts()
            .with_allowed_origins(origins.iter().cloned())
            .enforce_origin_validation()
            .with_max_request_body_bytes(body_bytes_max);
        let make = move || Ok(Handler { way: Way::OfRequest, calls: calls.clone() });
        Self { service: StreamableHttpService::new(make, Arc::new(NeverSessionManager::default()), config) }
    }

    /// Answers one request of a caller.
    pub async fn answer<B>(&self, mut request: Request<B>, caller: Caller) -> Response
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: std::fmt::Display,
    {
        let is_first = is_first(&request);
        // The identifier has done its work; nothing is stored under it that the transport could look for.
        request.headers_mut().remove(&SESSION);
        request.extensions_mut().insert(caller);
        let mut response = self.service.handle(request).await;
        if is_first
            && response.status() == StatusCode::OK
            && let Ok(id) = HeaderValue::from_str(&crate::command::new_id())
        {
            response.headers_mut().insert(SESSION, id);
        }
        response
    }
}

/// Whether a request is a client's first: later ones name the session, or at least the revision that was agreed on.
fn is_first<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    *request.method() == Method::POST && !headers.contains_key(&SESSION) && !headers.contains_key(VERSION)
}
