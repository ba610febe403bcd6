//! What needs no key: liveness, readiness, metrics.

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::openapi;
use crate::app::App;
use crate::command::help;
use crate::engine::types::{PolicyPrincipal, PolicyRequest, Target};
use crate::error::Error;

/// A path without a key.
#[derive(Debug, Clone)]
pub(super) enum Service {
    Live,
    Ready,
    Health,
    Metrics,
    OpenApi,
    Help,
    HelpTopic(String),
}

/// Finds a path without a key.
pub(super) fn find(path: &str) -> Option<Service> {
    match path {
        "/live" => Some(Service::Live),
        "/ready" => Some(Service::Ready),
        "/health" => Some(Service::Health),
        "/metrics" => Some(Service::Metrics),
        "/openapi.json" => Some(Service::OpenApi),
        "/help" => Some(Service::Help),
        _ => {
            let topic = path.strip_prefix("/help/").filter(|topic| !topic.is_empty())?;
            Some(Service::HelpTopic(percent_encoding::percent_decode_str(topic).decode_utf8_lossy().into_owned()))
        }
    }
}

impl Service {
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Ready => "ready",
            Self::Health => "health",
            Self::Metrics => "metrics",
            Self::OpenApi => "openapi",
            Self::Help => "help",
            Self::HelpTopic(_) => "help_topic",
        }
    }

    pub(super) async fn answer(&self, app: &App) -> Response {
        match self {
            Self::Live => Json(json!({"status": "ok", "version": env!("CARGO_PKG_VERSION")})).into_response(),
            Self::Ready | Self::Health => health(app).await,
            Self::OpenApi => Json(openapi::document()).into_response(),
            Self::Help => Json(help::index()).into_response(),
            Self::HelpTopic(name) => match help::topic(name) {
                Some(topic) => Json(topic).into_response(),
                None => super::error_response(&Error::UnknownTopic(name.chars().take(100).collect())),
            },
            Self::Metrics => {
                let text = crate::telemetry::metrics_text();
                ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
            }
        }
    }
}

/// Asks the store and the component, so that "ready" is about both.
async fn health(app: &App) -> Response {
    let ping = app.gate().store().ping().await;
    let active = app.gate().policy().active();
    let policy = active.component.decide_async(probe()).await.is_ok();
    let (db, moves) = (ping.is_ok(), ping.err().and_then(|error| error.closed()));
    let fine = db && policy;
    let word = |fine: bool| if fine { "ok" } else { "unavailable" };
    let mut body: Value = json!({
        "status": word(fine), "version": env!("CARGO_PKG_VERSION"), "db": word(db), "policy": word(policy),
        "component": active.component.digest(), "epoch": active.epoch,
    });
    if let Some(Error::StoreMoves { reason, detail }) = moves {
        body["reason"] = json!(reason);
        body["detail"] = json!(detail);
    }
    let status = if fine { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(body)).into_response()
}

/// A question that every component answers, and that grants nothing.
fn probe() -> PolicyRequest {
    PolicyRequest {
        principal: PolicyPrincipal {
            agent_id: "health".to_owned(),
            agent_type: "health".to_owned(),
            profile: "health".to_owned(),
            suspended: true,
        },
        operation: "health".to_owned(),
        target: Target::AuditLog,
        texts: Vec::new(),
    }
}
