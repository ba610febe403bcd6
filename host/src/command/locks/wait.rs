//! Waiting for a lock that another agent holds.

use std::time::Duration;

use tokio::sync::MutexGuard;
use tokio::time::{Instant, sleep_until};

use super::{LockAcquire, LockGrant};
use crate::app::App;
use crate::authn::Principal;
use crate::error::Result;
use crate::gate::{Circumstances, LockSignal};
use crate::store::{Committed, Seen};

/// How long a waiter goes without looking. It is woken by the commit that frees the lock and at its holder's expiry;
/// this is for locks that another process on the same store freed, and for a clock that was set.
const LOOK_PERIOD: Duration = Duration::from_secs(1);

/// Acquires a lock for `who`, waiting for its holder if asked to.
///
/// Only attempts that may succeed go through the gate and into the audit log: the first, those that found the lock
/// free, and the last. Of several that wait, one gets the lock; the others find it held and wait on.
pub(crate) async fn acquire(
    app: &App,
    who: &Principal,
    command: LockAcquire,
    circumstances: &Circumstances,
) -> Result<Committed<LockGrant>> {
    let place = if command.wait_seconds > 0 { app.gate().signals().wait_place(who.agent_id()) } else { None };
    let wait_seconds = if place.is_some() { command.wait_seconds } else { 0 };
    let until = Instant::now() + Duration::from_secs(u64::try_from(wait_seconds).unwrap_or(0));
    let signal = app.gate().signals().lock(command.lock_key.as_str());
    let mut turn = None;
    loop {
        let is_last = Instant::now() >= until || app.is_stopping();
        match app.gate().run(who, LockAcquire { is_last, ..command.clone() }, circumstances).await? {
            Committed::Done(grant) if grant.waits => {}
            answer => return Ok(answer),
        }
        drop(turn.take());
        turn = wait(app, who, &command, &signal, until).await?;
    }
}

/// Returns when the lock is worth trying: free, with the turn to take it, or at the end of the wait.
async fn wait<'s>(
    app: &App,
    who: &Principal,
    command: &LockAcquire,
    signal: &'s LockSignal,
    until: Instant,
) -> Result<Option<MutexGuard<'s, ()>>> {
    loop {
        // Registered before looking, so that a release between looking and waiting still wakes.
        let freed = signal.freed();
        let turn = tokio::select! {
            turn = signal.turn() => turn,
            () = sleep_until(until) => return Ok(None),
            () = app.stopping() => return Ok(None),
        };
        let Seen { what: held, now } = app.gate().store().view().lock(&command.lock_key).await?;
        let Some(held) = held.filter(|held| held.is_live(now) && held.agent_id != who.agent_id()) else {
            return Ok(Some(turn));
        };
        drop(turn);
        if Instant::now() >= until || app.is_stopping() {
            return Ok(None);
        }
        let expiry = Duration::from_micros(u64::try_from(held.expires_at.since(now)).unwrap_or(0));
        let look_again = Instant::now() + expiry.min(LOOK_PERIOD);
        tokio::select! {
            () = freed => {}
            () = sleep_until(until.min(look_again)) => {}
            () = app.stopping() => {}
        }
    }
}
