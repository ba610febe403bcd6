//! What can go wrong with a request, without knowing of any transport.
//!
//! The public part is all that a caller ever sees; causes with SQL text, paths
//! or component internals go to the log and stay there.

use serde::Serialize;
use serde_json::{Value, json};

/// A field that was not understood, in the shape that clients of the
/// coordinator know from FastAPI.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldProblem {
    /// Where: `["body", "ttl_minutes"]`.
    pub loc: Vec<String>,
    /// What is wrong, in words.
    pub msg: String,
    /// A code for programs.
    #[serde(rename = "type")]
    pub kind: String,
}

impl FieldProblem {
    /// A problem with one field of the input.
    #[must_use]
    pub fn new(place: &str, field: &str, kind: &str, msg: impl Into<String>) -> Self {
        let loc = [place, field].into_iter().filter(|part| !part.is_empty()).map(str::to_owned).collect();
        Self { loc, msg: msg.into(), kind: kind.to_owned() }
    }
}

/// A refusal by policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// The reason code.
    pub reason: String,
    /// The reason in words.
    pub detail: String,
    /// What would be allowed, or who can change it.
    pub remedy: String,
    /// Identifier of the audit row.
    pub decision_id: String,
    /// The component that decided.
    pub component: String,
    /// The policy epoch it decided under.
    pub epoch: i64,
    /// The network rule that decided, if one did.
    pub network_rule: Option<String>,
}

/// Everything that keeps a request from its answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No key, an unknown one or a revoked one.
    #[error("invalid API key")]
    Unauthenticated,
    /// The input is not what the operation takes.
    #[error("invalid request: {}", .0.first().map_or("", |p| p.msg.as_str()))]
    Invalid(Vec<FieldProblem>),
    /// Policy said no.
    #[error("{}: {}", .0.reason, .0.detail)]
    Denied(Box<Denial>),
    /// The component could not answer, or answered garbage. Nothing happened.
    #[error("the policy component could not decide ({code})")]
    PolicyUnavailable {
        /// What broke, as a code.
        code: String,
        /// Identifier of the audit row.
        decision_id: String,
    },
    /// The store could not be reached or did not answer. Nothing happened, or it is not known whether it did.
    #[error("the store is not available")]
    StorageUnavailable,
    /// The store moves to another database, or moved there. Nothing happened.
    #[error("{detail}")]
    StoreMoves {
        /// Which of it, as a code.
        reason: &'static str,
        /// What is the matter, in words.
        detail: String,
    },
    /// Facts or policy kept moving while the request was decided; try again.
    #[error("the policy or the agent's facts changed while the request was decided")]
    Contention,
    /// No such path.
    #[error("`{0}` is not a path of this service")]
    UnknownPath(String),
    /// No such topic of the help.
    #[error("`{0}` is not a topic; GET /help lists them")]
    UnknownTopic(String),
    /// The path knows other methods.
    #[error("`{method}` is not a method of this path")]
    WrongMethod {
        /// The method that was tried.
        method: String,
        /// Those that there are, as the `Allow` header has them.
        allowed: String,
    },
    /// The body is larger than the limit.
    #[error("the body is larger than {0} bytes")]
    TooLarge(usize),
}

impl Error {
    /// One bad field of the body.
    #[must_use]
    pub fn field(field: &str, kind: &str, msg: impl Into<String>) -> Self {
        Self::Invalid(vec![FieldProblem::new("body", field, kind, msg)])
    }

    /// The code of the `error` field.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unauthenticated => "unauthenticated",
            Self::Invalid(_) => "invalid_request",
            Self::Denied(_) => "denied",
            Self::PolicyUnavailable { .. } => "policy_unavailable",
            Self::StorageUnavailable | Self::StoreMoves { .. } => "storage_unavailable",
            Self::Contention => "contention",
            Self::UnknownPath(_) | Self::UnknownTopic(_) => "not_found",
            Self::WrongMethod { .. } => "method_not_allowed",
            Self::TooLarge(_) => "body_too_large",
        }
    }

    /// The status of the contract, which is HTTP's: every surface tells it in its own way.
    #[must_use]
    pub const fn status(&self) -> u16 {
        match self {
            Self::Unauthenticated => 401,
            Self::Denied(_) => 403,
            Self::UnknownPath(_) | Self::UnknownTopic(_) => 404,
            Self::WrongMethod { .. } => 405,
            Self::TooLarge(_) => 413,
            Self::Invalid(_) => 422,
            Self::PolicyUnavailable { .. } | Self::StorageUnavailable | Self::StoreMoves { .. } | Self::Contention => {
                503
            }
        }
    }

    /// What the caller is told.
    #[must_use]
    pub fn body(&self) -> Value {
        let error = self.code();
        match self {
            Self::Unauthenticated => json!({"success": false, "error": error, "detail": "Invalid API key"}),
            Self::Invalid(problems) => {
                let reason = problems.first().map_or("", |p| p.kind.as_str());
                json!({"success": false, "error": error, "reason": reason, "detail": problems})
            }
            Self::Denied(denial) => {
                let text = format!("{}: {}", denial.reason, denial.detail);
                json!({
                    "success": false, "error": if denial.reason == "identity_mismatch" { "identity_mismatch" } else { error },
                    "reason": text, "detail": text, "remedy": denial.remedy, "decision_id": denial.decision_id,
                    "policy": {"component": denial.component, "epoch": denial.epoch},
                })
            }
            Self::PolicyUnavailable { code, decision_id } => json!({
                "success": false, "error": error, "reason": code, "detail": self.to_string(), "decision_id": decision_id,
            }),
            Self::StoreMoves { reason, detail } => {
                json!({"success": false, "error": error, "reason": reason, "detail": detail})
            }
            other => json!({"success": false, "error": error, "detail": other.to_string()}),
        }
    }
}

/// The result of a request.
pub type Result<T, E = Error> = std::result::Result<T, E>;
