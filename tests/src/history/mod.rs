//! Histories of concurrent calls, and whether one of them can be what a correct service answered.
//!
//! Clients record when they called, what they asked, when an answer came and what it said ([`Call`]). [`check`](check::check) then
//! asks for each lock key and each task by itself whether there is an order of its calls that a service without concurrency could
//! have gone through: every call takes effect at one moment between its invocation and its return, all see each other's effects
//! (linearizability, which is local: Herlihy and Wing 1990). A call whose answer never came may have taken effect at any moment until
//! it is known to be settled, or never, unless the service's log tells what became of it.
//!
//! - [`search`] finds such an order, by going through the events in the order of time and keeping all the states that the
//!   answers until then leave possible (Lowe 2017).
//! - [`locks`] and [`tasks`] say what one key and one task do, and why something is not possible.
//! - [`logged`] closes calls without an answer by the service's log.
//! - [`clock`] says what the server's clock can have shown during a call: leases go by that clock, not by the clients'.
//!
//! A history is kept as lines of JSON ([`History::write`]), so that one that was rejected can be checked again.

pub mod check;
pub mod clock;
pub mod locks;
pub mod logged;
pub mod search;
pub mod tasks;

#[cfg(test)]
mod simulator;
#[cfg(test)]
mod wrong;

use std::io::{self, BufRead, Write};

use serde::{Deserialize, Serialize};

use clock::ServerClock;
use logged::Logged;

/// Calls of one run, and what is known of its server's clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// What was run, in words.
    pub name: String,
    /// What the clients' scripts and the faults were made from.
    pub seed: u64,
    /// The clock by which leases go.
    pub clock: ServerClock,
    /// The calls, in any order.
    #[serde(skip)]
    pub calls: Vec<Call>,
}

/// One call of a client. Instants are microseconds of one clock that never steps, from the start of the run; walls are those of
/// the machine's clock, from 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// The request's own name, which the service's log has as well.
    pub id: String,
    /// Who called. One client makes one call after the other.
    pub client: String,
    /// As whom: several clients may be one agent.
    pub agent: String,
    /// The host that was asked.
    pub host: usize,
    /// How: `http` or `mcp`.
    pub surface: String,
    /// When it was begun.
    pub invoked_us: i64,
    /// When its answer was there, or it was given up.
    pub returned_us: i64,
    /// The machine's clock at the beginning.
    pub wall_invoked_us: i64,
    /// The machine's clock at the end.
    pub wall_returned_us: i64,
    /// What was asked.
    pub op: Op,
    /// What was answered; none when nothing is known.
    pub answer: Option<Answer>,
    /// Without an answer: it takes no effect after this instant. None: it may at any time.
    pub settled_us: Option<i64>,
    /// Without an answer: what the service's log tells of it. None: nobody looked there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logged: Option<Logged>,
}

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
#[expect(missing_docs, reason = "the fields are those of the service's interface")]
pub enum Op {
    Acquire { key: String, ttl_minutes: i64 },
    Renew { key: String, token: i64, ttl_minutes: i64 },
    Release { key: String, token: Option<i64> },
    Verify { key: String, token: i64 },
    Status { key: String },
    ForceRelease { key: String },
    Submit { task: String, task_type: String, max_attempts: i64 },
    Claim { task_type: String, lease_seconds: i64 },
    Heartbeat { task_id: String, claim_token: String, lease_seconds: i64 },
    Complete { task_id: String, claim_token: String, success: bool },
    Cancel { task_id: String },
    Get { task_id: String },
}

/// What can be answered. Instants are microseconds from 1970 by the server's clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// A new grant under a new token.
    Granted {
        /// The token.
        token: i64,
        /// The end of the lease.
        expires_at: i64,
    },
    /// The holder's lease was made longer, by acquiring again or by renewing.
    Refreshed {
        /// The token, which is the one of the grant.
        token: i64,
        /// The end of the lease.
        expires_at: i64,
    },
    /// Another agent holds the lock.
    Blocked {
        /// Who.
        by: String,
        /// The end of that lease.
        expires_at: i64,
    },
    /// The caller does not hold the lock, or not under this token.
    NotOwner,
    /// The lock was given back.
    Released,
    /// Whether a token is the one in force.
    Verified {
        /// It is.
        valid: bool,
    },
    /// The lock is held.
    Held {
        /// By whom.
        by: String,
        /// Under which token.
        token: i64,
        /// Until when.
        expires_at: i64,
    },
    /// The lock is free.
    Free,
    /// A release by force.
    Forced {
        /// Who held the lock; none when nobody did, and nothing was done.
        by: Option<String>,
    },
    /// The task is in the queue.
    Submitted {
        /// The name that the service gave it.
        task_id: String,
    },
    /// A task was claimed.
    Claimed {
        /// Which.
        task_id: String,
        /// The name that its submitter gave it.
        task: String,
        /// The claim's token.
        claim_token: String,
        /// The end of the lease.
        expires_at: i64,
        /// Which attempt this is, from 1.
        attempt: i64,
    },
    /// There was nothing to claim.
    NothingToClaim,
    /// The claim's lease was made longer.
    Beat {
        /// The end of the lease.
        expires_at: i64,
    },
    /// The caller holds no live claim of this token.
    NotHeld,
    /// A report or a withdrawal counted.
    Ended {
        /// Where the task stands by it.
        status: String,
    },
    /// A withdrawal came too late.
    AlreadyFinal,
    /// A task as it stands.
    Task {
        /// Where it stands.
        status: String,
        /// Attempts that ended.
        attempts: i64,
        /// Who claimed it, while it is claimed.
        by: Option<String>,
        /// The end of the lease, while it is claimed.
        expires_at: Option<i64>,
    },
    /// There is no such task.
    Missing,
    /// It is certain that nothing was done.
    Failed,
}

impl Op {
    /// The lock key that it is about.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        match self {
            Self::Acquire { key, .. }
            | Self::Renew { key, .. }
            | Self::Release { key, .. }
            | Self::Verify { key, .. }
            | Self::Status { key }
            | Self::ForceRelease { key } => Some(key),
            _ => None,
        }
    }

    /// The task that it names.
    #[must_use]
    pub fn task_id(&self) -> Option<&str> {
        match self {
            Self::Heartbeat { task_id, .. }
            | Self::Complete { task_id, .. }
            | Self::Cancel { task_id }
            | Self::Get { task_id } => Some(task_id),
            _ => None,
        }
    }

    /// Whether it changes nothing, whatever the answer.
    #[must_use]
    pub const fn is_look(&self) -> bool {
        matches!(self, Self::Verify { .. } | Self::Status { .. } | Self::Get { .. })
    }
}

impl Answer {
    /// Whether something was changed by the call.
    #[must_use]
    pub const fn is_change(&self) -> bool {
        matches!(
            self,
            Self::Granted { .. }
                | Self::Refreshed { .. }
                | Self::Released
                | Self::Forced { by: Some(_) }
                | Self::Submitted { .. }
                | Self::Claimed { .. }
                | Self::Beat { .. }
                | Self::Ended { .. }
        )
    }
}

impl History {
    /// Says of calls without an answer that were begun before an instant, and asked of this host if one is named, that they take no
    /// effect after another instant.
    pub fn settle(&mut self, host: Option<usize>, begun_before_us: i64, settled_us: i64) {
        for call in &mut self.calls {
            let concerned = call.answer.is_none() && host.is_none_or(|host| host == call.host);
            if concerned && call.invoked_us < begun_before_us {
                let earlier = call.settled_us.unwrap_or(i64::MAX);
                call.settled_us = Some(earlier.min(settled_us.max(call.returned_us)));
            }
        }
    }

    /// Writes it as lines of JSON: what it is, then its calls.
    ///
    /// # Errors
    /// When nothing can be written there.
    pub fn write(&self, mut to: impl Write) -> io::Result<()> {
        writeln!(to, "{}", serde_json::to_string(self)?)?;
        for call in &self.calls {
            writeln!(to, "{}", serde_json::to_string(call)?)?;
        }
        to.flush()
    }

    /// Reads what was written.
    ///
    /// # Errors
    /// When it is not what [`Self::write`] writes.
    pub fn read(from: impl BufRead) -> io::Result<Self> {
        let mut lines = from.lines();
        let first = lines.next().ok_or(io::ErrorKind::UnexpectedEof)??;
        let mut history: Self = serde_json::from_str(&first)?;
        for line in lines {
            history.calls.push(serde_json::from_str(&line?)?);
        }
        Ok(history)
    }
}
