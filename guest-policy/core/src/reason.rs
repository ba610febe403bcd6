//! The codes that decisions give as their reason. They are stable: clients and
//! tests compare them.

use std::fmt;

/// Why a request is denied, in the order in which reasons are tried. Where more
/// than one holds, the first of this order is the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// No bundle is loaded, or nothing in it permits the request.
    NoPolicy,
    /// More texts, or longer ones, than are read.
    RequestTooLarge,
    /// A JSON text that is nested too deeply.
    RequestTooComplex,
    /// The bundle has no such operation.
    UnknownOperation,
    /// The bundle has no such profile.
    UnknownProfile,
    /// The agent is suspended, or its profile is at trust 0.
    Suspended,
    /// The operation does not act on this kind of target.
    WrongTarget,
    /// The profile is for other agent types.
    ProfileNotForAgentType,
    /// The profile's blocked list names the operation.
    OperationBlocked,
    /// The profile's allow list does not name the operation.
    OperationNotAllowed,
    /// Reading needs trust 1.
    TrustBelowRead,
    /// Writing needs trust 2.
    TrustBelowWrite,
    /// Administration needs trust 3.
    TrustBelowAdmin,
    /// Managing agents and components needs trust 4.
    TrustBelowOwner,
    /// The profile works on other types of task.
    TaskTypeNotAllowed,
    /// A deny glob of the profile matches.
    PathDenied,
    /// No allow glob of the profile matches.
    PathNotAllowed,
    /// Not a name of the domain name system.
    InvalidDomain,
    /// A network rule denies the name.
    DomainDenied,
    /// No network rule allows the name.
    DomainNotAllowed,
    /// A guardrail pattern matches that the caller's trust does not pass.
    DestructiveOperationBlocked,
    /// The native and the Cedar engine differ.
    EnginesDisagree,
    /// A policy could not be evaluated.
    EvaluationError,
}

impl Reason {
    /// Every code, in the order in which reasons are tried.
    pub const ALL: [Self; 23] = [
        Self::NoPolicy,
        Self::RequestTooLarge,
        Self::RequestTooComplex,
        Self::UnknownOperation,
        Self::UnknownProfile,
        Self::Suspended,
        Self::WrongTarget,
        Self::ProfileNotForAgentType,
        Self::OperationBlocked,
        Self::OperationNotAllowed,
        Self::TrustBelowRead,
        Self::TrustBelowWrite,
        Self::TrustBelowAdmin,
        Self::TrustBelowOwner,
        Self::TaskTypeNotAllowed,
        Self::PathDenied,
        Self::PathNotAllowed,
        Self::InvalidDomain,
        Self::DomainDenied,
        Self::DomainNotAllowed,
        Self::DestructiveOperationBlocked,
        Self::EnginesDisagree,
        Self::EvaluationError,
    ];

    /// The code, as decisions carry it.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::NoPolicy => "no_policy",
            Self::RequestTooLarge => "request_too_large",
            Self::RequestTooComplex => "request_too_complex",
            Self::UnknownOperation => "unknown_operation",
            Self::UnknownProfile => "unknown_profile",
            Self::Suspended => "suspended",
            Self::WrongTarget => "wrong_target",
            Self::ProfileNotForAgentType => "profile_not_for_agent_type",
            Self::OperationBlocked => "operation_blocked",
            Self::OperationNotAllowed => "operation_not_allowed",
            Self::TrustBelowRead => "trust_below_read",
            Self::TrustBelowWrite => "trust_below_write",
            Self::TrustBelowAdmin => "trust_below_admin",
            Self::TrustBelowOwner => "trust_below_owner",
            Self::TaskTypeNotAllowed => "task_type_not_allowed",
            Self::PathDenied => "path_denied",
            Self::PathNotAllowed => "path_not_allowed",
            Self::InvalidDomain => "invalid_domain",
            Self::DomainDenied => "domain_denied",
            Self::DomainNotAllowed => "domain_not_allowed",
            Self::DestructiveOperationBlocked => "destructive_operation_blocked",
            Self::EnginesDisagree => "engines_disagree",
            Self::EvaluationError => "evaluation_error",
        }
    }

    /// The reason of a code, if it is one of these.
    #[must_use]
    pub fn from_code(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.code() == code)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// The reason of an allowance.
pub const ALLOWED: &str = "allowed";
