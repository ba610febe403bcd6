//! Cleaning up after agents that are no longer heard of, in SQLite.
//!
//! Harmless to whoever is still there: nothing is taken from an agent that has a live session or was heard of in any
//! other way, nor what was refreshed since, nor what was taken under a session that is not known to be the agent's own.

use std::collections::BTreeSet;

use serde_json::json;
use sqlx::Row;

use super::locks::read_lock;
use super::tx::{Apply, Rejected, Tx};
use crate::clock::Time;
use crate::command::sessions::{CLEANUP_MAX, SessionCleanup, SessionsCleaned};
use crate::domain::lock::Lock;
use crate::domain::task::Next;
use crate::gate::Permit;

/// A live session that was not heard of for too long.
struct Stale {
    session_id: String,
    agent_id: String,
    last_heartbeat: Time,
}

impl Tx<'_> {
    async fn sessions_stale(&mut self, cutoff: Time) -> Result<Vec<Stale>, sqlx::Error> {
        let sql = "SELECT session_id, agent_id, last_heartbeat FROM agent_sessions
                   WHERE ended_at IS NULL AND last_heartbeat <= ?1 ORDER BY last_heartbeat, session_id LIMIT ?2";
        let rows =
            sqlx::query(sql).bind(cutoff.as_micros()).bind(limit(CLEANUP_MAX)).fetch_all(&mut *self.conn).await?;
        let read = |row: &sqlx::sqlite::SqliteRow| {
            Ok(Stale {
                session_id: row.try_get("session_id")?,
                agent_id: row.try_get("agent_id")?,
                last_heartbeat: Time::from_micros(row.try_get("last_heartbeat")?),
            })
        };
        rows.iter().map(read).collect()
    }

    async fn sessions_end(&mut self, stale: &[Stale]) -> Result<(), sqlx::Error> {
        let sql = "UPDATE agent_sessions SET ended_at = ?2 WHERE session_id IN (SELECT value FROM json_each(?1))";
        sqlx::query(sql).bind(ids(stale)).bind(self.now().as_micros()).execute(&mut *self.conn).await?;
        for session in stale {
            self.session_changed(&session.session_id, session.last_heartbeat, true);
        }
        Ok(())
    }

    /// Agents with a session that is not heard of, beside these.
    async fn agents_left(&mut self, stale: &[Stale], cutoff: Time) -> Result<BTreeSet<String>, sqlx::Error> {
        let sql = "SELECT DISTINCT agent_id FROM agent_sessions WHERE ended_at IS NULL AND last_heartbeat <= ?1
                       AND session_id NOT IN (SELECT value FROM json_each(?2))";
        let left = sqlx::query_scalar(sql).bind(cutoff.as_micros()).bind(ids(stale)).fetch_all(&mut *self.conn).await?;
        Ok(left.into_iter().collect())
    }

    /// Whether an agent has a live session, or asked for anything at all since: the log knows.
    async fn is_there(&mut self, agent_id: &str, cutoff: Time) -> Result<bool, sqlx::Error> {
        let sql = "SELECT EXISTS (SELECT 1 FROM agent_sessions
                                  WHERE agent_id = ?1 AND ended_at IS NULL AND last_heartbeat > ?2)
                       OR EXISTS (SELECT 1 FROM audit_log WHERE agent_id = ?1 AND created_at > ?2)";
        sqlx::query_scalar(sql).bind(agent_id).bind(cutoff.as_micros()).fetch_one(&mut *self.conn).await
    }

    /// Live locks of an agent without a live session that it did not refresh since, and took under none or one of its
    /// own sessions. At most so many.
    async fn locks_left(&mut self, agent_id: &str, cutoff: Time, most: usize) -> Result<Vec<Lock>, sqlx::Error> {
        let sql = "SELECT * FROM file_locks
                   WHERE agent_id = ?1 AND expires_at > ?2 AND refreshed_at <= ?3
                     AND (session_id IS NULL
                          OR session_id IN (SELECT session_id FROM agent_sessions WHERE agent_id = ?1))
                   ORDER BY lock_key LIMIT ?4";
        let rows = sqlx::query(sql)
            .bind(agent_id)
            .bind(self.now().as_micros())
            .bind(cutoff.as_micros())
            .bind(limit(most))
            .fetch_all(&mut *self.conn)
            .await?;
        rows.iter().map(read_lock).collect()
    }

    async fn claims_left(&mut self, agent_id: &str, cutoff: Time, most: usize) -> Result<Vec<String>, sqlx::Error> {
        let sql = "SELECT task_id FROM work_queue
                   WHERE status = 'claimed' AND claimed_by = ?1 AND heartbeat_at <= ?2 ORDER BY submit_order LIMIT ?3";
        let claims = sqlx::query_scalar(sql).bind(agent_id).bind(cutoff.as_micros()).bind(limit(most));
        claims.fetch_all(&mut *self.conn).await
    }

    /// What there is to free of these agents, up to the limits; none of one that is there.
    async fn left(&mut self, agents: BTreeSet<&str>, cutoff: Time) -> Result<Left, sqlx::Error> {
        let mut left = Left::default();
        let (mut locks_most, mut claims_most) = (CLEANUP_MAX, CLEANUP_MAX);
        for agent_id in agents {
            if self.is_there(agent_id, cutoff).await? {
                continue;
            }
            // One more than may be taken tells that there are more.
            let mut locks = self.locks_left(agent_id, cutoff, locks_most.saturating_add(1)).await?;
            let mut claims = self.claims_left(agent_id, cutoff, claims_most.saturating_add(1)).await?;
            if locks.len() > locks_most {
                left.more_locks.get_or_insert_with(|| agent_id.to_owned());
            }
            if claims.len() > claims_most {
                left.more_claims.get_or_insert_with(|| agent_id.to_owned());
            }
            locks.truncate(locks_most);
            claims.truncate(claims_most);
            (locks_most, claims_most) =
                (locks_most.saturating_sub(locks.len()), claims_most.saturating_sub(claims.len()));
            left.gone.push((agent_id.to_owned(), locks, claims));
        }
        Ok(left)
    }

    /// Claims that would fail, and all that waits for them with them, where that is too much at once: these end with their
    /// leases.
    async fn claims_spared(&mut self, left: &Left) -> Result<BTreeSet<String>, sqlx::Error> {
        let now = self.now();
        let mut failing = BTreeSet::new();
        for task_id in left.gone.iter().flat_map(|(_, _, claims)| claims) {
            let task = self.task_progress(task_id).await?;
            if task.is_some_and(|task| matches!(task.abandon(now), Next::Fail { .. })) {
                failing.insert(task_id.clone());
            }
        }
        let most = limit(CLEANUP_MAX);
        if self.family_size(&failing, most.saturating_add(1)).await? > most { Ok(failing) } else { Ok(BTreeSet::new()) }
    }
}

/// What agents left that are gone.
#[derive(Default)]
struct Left {
    /// Who is gone, with the locks and claims to be freed.
    gone: Vec<(String, Vec<Lock>, Vec<String>)>,
    /// The first of whom there are more locks than may be taken, and the first of whom there are more claims.
    more_locks: Option<String>,
    more_claims: Option<String>,
}

impl Left {
    /// The first of whom something is left: from there on sessions stay, so that the next call finds them.
    fn late(&self) -> Option<&str> {
        [self.more_locks.as_deref(), self.more_claims.as_deref()].into_iter().flatten().min()
    }
}

fn limit(most: usize) -> i64 {
    i64::try_from(most).unwrap_or(i64::MAX)
}

fn ids(sessions: &[Stale]) -> String {
    json!(sessions.iter().map(|session| &session.session_id).collect::<Vec<_>>()).to_string()
}

impl Apply for SessionCleanup {
    async fn apply(self, tx: &mut Tx<'_>, _permit: &Permit<Self>) -> Result<SessionsCleaned, Rejected> {
        let now = tx.now();
        let cutoff = now.plus_minutes(-self.stale_threshold_minutes);
        let mut stale = tx.sessions_stale(cutoff).await?;
        let mut left = tx.left(stale.iter().map(|session| session.agent_id.as_str()).collect(), cutoff).await?;
        let spared = tx.claims_spared(&left).await?;
        if !spared.is_empty() {
            // Nor is it waited for the others.
            left.more_claims = None;
        }
        let is_part = stale.len() == CLEANUP_MAX || left.late().is_some();
        stale.retain(|session| left.late().is_none_or(|late| session.agent_id.as_str() < late));
        let rest = if is_part { tx.agents_left(&stale, cutoff).await? } else { BTreeSet::new() };
        if !self.dry_run && !stale.is_empty() {
            tx.sessions_end(&stale).await?;
        }
        let remaining = i64::try_from(rest.len()).ok().filter(|agents| *agents > 0);
        let mut cleaned = SessionsCleaned { success: true, remaining, ..SessionsCleaned::default() };
        let mut freed = 0_i64;
        for (agent_id, locks, claims) in left.gone {
            cleaned.agents_cleaned = cleaned.agents_cleaned.saturating_add(i64::from(!rest.contains(&agent_id)));
            for lock in locks {
                cleaned.locks_released = cleaned.locks_released.saturating_add(1);
                if !self.dry_run {
                    tx.lock_delete(&lock).await?;
                    freed = freed.saturating_add(1);
                }
            }
            for task_id in claims.into_iter().filter(|task_id| !spared.contains(task_id)) {
                let Some(task) = tx.task_progress(&task_id).await? else { continue };
                let next = task.abandon(now);
                let is_requeued = matches!(next, Next::Retry { .. });
                cleaned.tasks_requeued = cleaned.tasks_requeued.saturating_add(i64::from(is_requeued));
                if !self.dry_run {
                    tx.task_end(&task_id, next).await?;
                    freed = freed.saturating_add(i64::from(is_requeued));
                }
            }
        }
        Ok(SessionsCleaned { is_freed: freed > 0, ..cleaned })
    }
}
