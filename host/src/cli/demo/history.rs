//! What the clients saw, written down while it happens, for checking afterwards.
//!
//! Instants are the client's own: a lock is certainly held from the arrival of
//! its grant to the sending of its release, so two such spans that overlap
//! prove two holders at once, whatever the server says.

use std::time::Instant;

use super::op::Op;

/// What an answer came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Class {
    /// It was done.
    Allowed,
    /// The state stood against it.
    Conflict(String),
    /// Policy said no.
    Denied(String),
    /// The first answer to a repeated request.
    Replayed,
    /// The key is not known.
    Unauthenticated,
    /// The input was not understood.
    Invalid(String),
    /// Anything else: no answer, or a status that nothing explains.
    Odd(String),
}

impl Class {
    /// In words.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Allowed => "allowed".to_owned(),
            Self::Conflict(reason) => format!("conflict ({reason})"),
            Self::Denied(reason) => format!("denied ({reason})"),
            Self::Replayed => "replayed".to_owned(),
            Self::Unauthenticated => "unauthenticated".to_owned(),
            Self::Invalid(code) => format!("invalid ({code})"),
            Self::Odd(what) => what.clone(),
        }
    }
}

/// What an answer should come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expect {
    /// It is done.
    Works,
    /// It is done, or the state stands against it: others are at work.
    Either,
    /// The state stands against it.
    Conflict,
    /// Policy says no, with one of these reasons.
    Denied(&'static [&'static str]),
    /// The first answer again.
    Replayed,
    /// The key is refused.
    Unauthenticated,
    /// The input is refused with this code, before policy decides, or after it against the state.
    Invalid(&'static str, Decided),
}

/// Whether policy decided before the input was refused; then there is an audit row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decided {
    Before,
    Not,
}

impl Expect {
    pub(super) fn is_met_by(self, class: &Class) -> bool {
        match (self, class) {
            (Self::Works | Self::Either, Class::Allowed)
            | (Self::Either | Self::Conflict, Class::Conflict(_))
            | (Self::Replayed, Class::Replayed)
            | (Self::Unauthenticated, Class::Unauthenticated) => true,
            (Self::Denied(reasons), Class::Denied(reason)) => reasons.contains(&reason.as_str()),
            (Self::Invalid(code, _), Class::Invalid(found)) => code == found,
            _ => false,
        }
    }

    pub(super) fn text(self) -> String {
        match self {
            Self::Works => "allowed".to_owned(),
            Self::Either => "allowed or conflict".to_owned(),
            Self::Conflict => "conflict".to_owned(),
            Self::Denied(reasons) => format!("denied ({})", reasons.join(" or ")),
            Self::Replayed => "replayed".to_owned(),
            Self::Unauthenticated => "unauthenticated".to_owned(),
            Self::Invalid(code, _) => format!("invalid ({code})"),
        }
    }
}

/// How many audit rows a request leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rows {
    /// None: it was not decided.
    None,
    /// One.
    One,
    /// One for each task that policy was asked about.
    Some,
    /// Not known: there was no answer.
    Any,
}

/// One request and its answer.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) agent_id: String,
    /// The request's identifier, as it was sent.
    pub(super) request_id: String,
    /// Identifiers under which it was sent before, to hosts that did not answer.
    pub(super) unanswered: Vec<String>,
    /// The answer is the first one to a request of `unanswered`, which was carried out though nobody heard of it.
    pub(super) recovered: bool,
    pub(super) op: Op,
    pub(super) class: Class,
    pub(super) rows: Rows,
    pub(super) sent: Instant,
    pub(super) answered: Instant,
}

/// An answer that nobody expected, unless something else explains it.
#[derive(Debug, Clone)]
pub(super) struct Surprise {
    pub(super) agent_id: String,
    pub(super) request_id: String,
    pub(super) op: Op,
    pub(super) expected: String,
    pub(super) class: Class,
    pub(super) detail: String,
    pub(super) sent: Instant,
    pub(super) answered: Instant,
}

impl Surprise {
    /// In words.
    pub(super) fn text(&self) -> String {
        let Self { agent_id, request_id, op, expected, class, detail, .. } = self;
        format!("{} of {agent_id} ({request_id}): expected {expected}, was {}: {detail}", op.name(), class.text())
    }
}

/// A lock that a client was granted.
#[derive(Debug, Clone)]
pub(super) struct Grant {
    pub(super) agent_id: String,
    pub(super) file: usize,
    pub(super) token: i64,
    pub(super) asked: Instant,
    pub(super) granted: Instant,
    /// When its release was sent, if it was.
    pub(super) released: Option<Instant>,
    /// Before this instant the lease cannot have run out.
    pub(super) expires: Instant,
}

/// A task that a client claimed.
#[derive(Debug, Clone)]
pub(super) struct Claim {
    pub(super) agent_id: String,
    pub(super) task_id: String,
    pub(super) claimed: Instant,
    /// When its end was sent, if it was.
    pub(super) ended: Option<Instant>,
    /// Before this instant the lease cannot have run out.
    pub(super) expires: Instant,
    /// Whether the service said that it is completed by this claim.
    pub(super) completed: bool,
}

/// Somebody took a lock or a task from its holder; between these instants it happened.
#[derive(Debug, Clone)]
pub(super) struct Taken {
    /// The file's path or the task's identifier.
    pub(super) what: String,
    pub(super) sent: Instant,
    pub(super) answered: Instant,
}

/// A client found its lock gone, or was too late with a write under it.
#[derive(Debug, Clone)]
pub(super) struct Lost {
    pub(super) file: usize,
    pub(super) token: i64,
    pub(super) what: String,
}

/// Everything that the clients of one agent, or of all, saw.
#[derive(Debug, Default)]
pub(super) struct History {
    pub(super) records: Vec<Record>,
    pub(super) surprises: Vec<Surprise>,
    pub(super) grants: Vec<Grant>,
    pub(super) claims: Vec<Claim>,
    pub(super) taken: Vec<Taken>,
    pub(super) lost: Vec<Lost>,
    pub(super) edits: u64,
}

impl History {
    /// Takes over what another client saw.
    pub(super) fn absorb(&mut self, other: Self) {
        self.records.extend(other.records);
        self.surprises.extend(other.surprises);
        self.grants.extend(other.grants);
        self.claims.extend(other.claims);
        self.taken.extend(other.taken);
        self.lost.extend(other.lost);
        self.edits = self.edits.saturating_add(other.edits);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expectation_is_met_by_its_own_kind_only() {
        let denied = |reason: &str| Class::Denied(reason.to_owned());
        assert!(Expect::Denied(&["a", "b"]).is_met_by(&denied("b")));
        assert!(!Expect::Denied(&["a"]).is_met_by(&denied("suspended")));
        assert!(!Expect::Denied(&["a"]).is_met_by(&Class::Allowed));
        assert!(Expect::Either.is_met_by(&Class::Conflict("held".to_owned())));
        assert!(!Expect::Works.is_met_by(&Class::Conflict("held".to_owned())));
        assert!(!Expect::Works.is_met_by(&Class::Replayed));
        assert!(!Expect::Either.is_met_by(&Class::Odd("500".to_owned())));
    }
}
