//! `/mcp`: lets in whoever has a key, and hands the request to the MCP shared.

use axum::Json;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::origin::Refused;
use super::{Shared, body_bytes, error_response, key_of};
use crate::authn;
use crate::error::{Error, Result};

/// Where MCP is spoken.
pub(super) const PATH: &str = "/mcp";

/// Its name in logs and metrics.
pub(super) const NAME: &str = "mcp";

/// What a page may send beside what any page may.
const HEADERS: &str = "authorization, content-type, x-coordinator-api-key, x-api-key, x-request-id, mcp-protocol-version, \
    mcp-session-id, mcp-method, mcp-name";

/// What a page may read beside what any page may.
const EXPOSED: &str = "mcp-session-id, x-request-id, www-authenticate";

/// One request at `/mcp`, whatever its method.
pub(super) async fn answer(shared: &Shared, request: Request, request_id: &str) -> Response {
    if let Err(refused) = shared.origins.check(request.headers(), request.uri()) {
        return turn_away(refused);
    }
    let origin = request.headers().get(header::ORIGIN).cloned();
    let mut response = if request.method() == Method::OPTIONS && origin.is_some() {
        preflight()
    } else {
        keyed(shared, request, request_id).await.unwrap_or_else(|error| error_response(&error))
    };
    if let Some(origin) = origin {
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
        headers.append(header::VARY, HeaderValue::from_static("origin"));
    }
    response
}

/// The key with every request, and before anything of it is read: no session stands for one.
async fn keyed(shared: &Shared, request: Request, request_id: &str) -> Result<Response> {
    let who = authn::authenticate(shared.app.gate().store(), key_of(request.headers())).await?;
    if request.method() != Method::POST {
        return Err(Error::WrongMethod { method: request.method().to_string(), allowed: "POST".to_owned() });
    }
    let (head, body) = request.into_parts();
    let body = body_bytes(body, super::BODY_BYTES_MAX).await?;
    Ok(shared.mcp.answer(who, head, body, request_id).await.map(Body::new))
}

/// A browser asks before it sends a page's key along.
fn preflight() -> Response {
    let allowed = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "POST"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, HEADERS),
        (header::ACCESS_CONTROL_MAX_AGE, "600"),
    ];
    (StatusCode::NO_CONTENT, allowed).into_response()
}

fn turn_away(refused: Refused) -> Response {
    let (error, detail, remedy) = match refused {
        Refused::Host => (
            "host_not_allowed",
            "this server is for its own machine, and was called by another name",
            "call it by 127.0.0.1 or localhost, or start it with --allow-origin for the name that a proxy serves it under",
        ),
        Refused::Origin => (
            "origin_not_allowed",
            "web pages of this origin may not call this server",
            "whoever runs the server may start it with --allow-origin",
        ),
    };
    let body = json!({"success": false, "error": error, "detail": detail, "remedy": remedy});
    (StatusCode::FORBIDDEN, Json(body)).into_response()
}
