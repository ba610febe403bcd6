//! A task of the work queue and what it may become.
//!
//! ```text
//! pending ──claim──► claimed ──complete──► completed
//!    ▲  │               │ ├──fail, attempts left──► pending
//!    │  │               │ └──fail, none left──────► failed
//!    └──┼───lease ran out or holder gone, attempts left (attempts_exhausted)
//!       ├──deadline──► failed (deadline_exceeded)
//!       ├──a dependency failed──► failed (dependency_failed)
//!       └──cancel──► cancelled
//! ```
//! The last three statuses are final; nothing rewrites them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::clock::Time;

/// Where a task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Waits for a claim, for its dependencies, or both.
    Pending,
    /// One agent works on it, under a lease.
    Claimed,
    /// Done.
    Completed,
    /// Given up; `error_message` says why.
    Failed,
    /// Withdrawn by its submitter or an admin.
    Cancelled,
}

/// All statuses, in the order a task goes through them.
pub const STATUSES: [&str; 5] = ["pending", "claimed", "completed", "failed", "cancelled"];

impl Status {
    /// The name on the wire and in the store.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Claimed => "claimed",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// The status of a stored name; none for an unknown one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Pending, Self::Claimed, Self::Completed, Self::Failed, Self::Cancelled]
            .into_iter()
            .find(|status| status.as_str() == text)
    }

    /// Whether nothing may rewrite it.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}

/// Why a task failed without its holder saying so.
pub mod failure {
    /// Its last attempt's lease ran out.
    pub const ATTEMPTS_EXHAUSTED: &str = "attempts_exhausted";
    /// Its deadline passed.
    pub const DEADLINE_EXCEEDED: &str = "deadline_exceeded";
    /// A task it depends on failed or was cancelled.
    pub const DEPENDENCY_FAILED: &str = "dependency_failed";
}

/// The most tasks that fail with another one at once, because they wait for it. Beyond it, it is the caller's to cancel some of
/// them, or time's, which takes them in parts. On PostgreSQL: the function `family_max`.
pub const FAMILY_MAX: u32 = 50_000;

/// Task types that nobody may claim from themselves: their worth is a second pair of eyes.
pub const INDEPENDENT_TYPES: [&str; 2] = ["evaluate", "review"];

/// The part of a task that transitions look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Where it stands.
    pub status: Status,
    /// Attempts that ended, whichever way.
    pub attempt_count: i64,
    /// Attempts it may take.
    pub max_attempts: i64,
    /// Who claimed it, while claimed.
    pub claimed_by: Option<String>,
    /// The token of the present claim.
    pub claim_token: Option<String>,
    /// When the present claim runs out.
    pub lease_expires_at: Option<Time>,
    /// When the task is given up.
    pub deadline: Option<Time>,
}

/// Where a task goes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Stays as it is.
    Stay,
    /// Back to the queue with this many attempts spent.
    Retry {
        /// Attempts that ended.
        attempt_count: i64,
    },
    /// Done, with this many attempts ended.
    Complete,
    /// Given up.
    Fail {
        /// Attempts that ended.
        attempt_count: i64,
        /// A code when the service gave up; none when the holder's own message stands.
        reason: Option<&'static str>,
    },
}

impl Progress {
    /// Whether `agent_id` holds a live claim at `now`. A token, where given, must be the present one.
    ///
    /// CLAIM: only who holds the claim reports on it, and a final status is no claim.
    #[must_use]
    pub fn is_held_by(&self, agent_id: &str, token: Option<&str>, now: Time) -> bool {
        self.status == Status::Claimed
            && self.claimed_by.as_deref() == Some(agent_id)
            && self.lease_expires_at.is_some_and(|at| now < at)
            && self.deadline.is_none_or(|at| now < at)
            && token.is_none_or(|t| self.claim_token.as_deref() == Some(t))
    }

    /// What time alone does to the task.
    #[must_use]
    pub fn expire(&self, now: Time) -> Next {
        let lapsed = self.status == Status::Claimed && self.lease_expires_at.is_none_or(|at| at <= now);
        self.pass(lapsed, now)
    }

    /// What becomes of a claim whose holder is gone: the same as when its lease had run out.
    #[must_use]
    pub fn abandon(&self, now: Time) -> Next {
        self.pass(self.status == Status::Claimed, now)
    }

    fn pass(&self, is_claim_over: bool, now: Time) -> Next {
        if self.status.is_final() {
            return Next::Stay;
        }
        let ended = i64::from(self.status == Status::Claimed);
        if self.deadline.is_some_and(|at| at <= now) {
            let attempt_count = self.attempt_count.saturating_add(ended).min(self.max_attempts);
            return Next::Fail { attempt_count, reason: Some(failure::DEADLINE_EXCEEDED) };
        }
        if is_claim_over { self.spend(Some(failure::ATTEMPTS_EXHAUSTED)) } else { Next::Stay }
    }

    /// What the holder's report does to the task.
    #[must_use]
    pub fn report(&self, success: bool) -> Next {
        if success { Next::Complete } else { self.spend(None) }
    }

    fn spend(&self, reason: Option<&'static str>) -> Next {
        let attempt_count = self.attempt_count.saturating_add(1).min(self.max_attempts);
        if attempt_count >= self.max_attempts {
            Next::Fail { attempt_count, reason }
        } else {
            Next::Retry { attempt_count }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claimed(attempt_count: i64) -> Progress {
        Progress {
            status: Status::Claimed,
            attempt_count,
            max_attempts: 3,
            claimed_by: Some("a".to_owned()),
            claim_token: Some("t".to_owned()),
            lease_expires_at: Some(Time::from_micros(100)),
            deadline: None,
        }
    }

    #[test]
    fn statuses_go_by_their_names() {
        for name in STATUSES {
            assert_eq!(Status::parse(name).map(Status::as_str), Some(name));
        }
        assert_eq!(
            STATUSES.map(Status::parse).map(|status| status.is_some_and(Status::is_final)),
            [false, false, true, true, true]
        );
        assert_eq!(Status::parse("Pending"), None);
    }

    #[test]
    fn attempts_are_exactly_max_attempts() {
        let now = Time::from_micros(100);
        assert_eq!(claimed(0).expire(now), Next::Retry { attempt_count: 1 });
        assert_eq!(claimed(1).expire(now), Next::Retry { attempt_count: 2 });
        assert_eq!(claimed(2).expire(now), Next::Fail { attempt_count: 3, reason: Some("attempts_exhausted") });
        assert_eq!(claimed(2).report(false), Next::Fail { attempt_count: 3, reason: None });
        assert_eq!(claimed(2).report(true), Next::Complete);
    }

    #[test]
    fn a_lease_ends_at_its_instant_and_the_old_token_with_it() {
        let task = claimed(0);
        assert!(task.is_held_by("a", Some("t"), Time::from_micros(99)));
        assert!(!task.is_held_by("a", Some("t"), Time::from_micros(100)));
        assert!(!task.is_held_by("a", Some("old"), Time::from_micros(99)));
        assert!(!task.is_held_by("b", None, Time::from_micros(99)));
        let urgent = Progress { deadline: Some(Time::from_micros(50)), ..claimed(0) };
        assert!(urgent.is_held_by("a", None, Time::from_micros(49)));
        assert!(
            !urgent.is_held_by("a", None, Time::from_micros(50))
                && !urgent.is_held_by("a", None, Time::from_micros(51))
        );
        assert_eq!(task.expire(Time::from_micros(99)), Next::Stay);
    }

    #[test]
    fn an_abandoned_claim_ends_as_if_its_lease_had_run_out() {
        let (early, late) = (Time::from_micros(1), Time::from_micros(100));
        for spent in 0..3 {
            assert_eq!(claimed(spent).abandon(early), claimed(spent).expire(late));
        }
        let pending = Progress { status: Status::Pending, ..claimed(0) };
        assert_eq!(pending.abandon(early), Next::Stay);
    }

    #[test]
    fn a_deadline_fails_pending_and_claimed_alike_and_final_stays() {
        let now = Time::from_micros(50);
        let pending = Progress { status: Status::Pending, deadline: Some(now), ..claimed(1) };
        assert_eq!(pending.expire(now), Next::Fail { attempt_count: 1, reason: Some("deadline_exceeded") });
        let done = Progress { status: Status::Completed, ..pending };
        assert_eq!(done.expire(now), Next::Stay);
    }
}
