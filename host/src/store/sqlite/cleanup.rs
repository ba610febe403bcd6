//! Cleaning up after agents that are no longer heard of, in SQLite.
//!
//! Harmless to whoever is still there: nothing is taken from an agent that has a live session or was heard of in any
//! other way, nor what was refreshed since, nor what was taken under a session that is not known to be the agent's own.

use std::collections::BTreeSet;

use sqlx::Row;

use super::locks::read_lock;
use super::tx::{Apply, Rejected, Tx};
use crate::clock::Time;
use crate::command::sessions::{SessionCleanup, SessionsCleaned};
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
                   WHERE ended_at IS NULL AND last_heartbeat <= ?1 ORDER BY last_heartbeat, session_id";
        let rows = sqlx::query(sql).bind(cutoff.as_micros()).fetch_all(&mut *self.conn).await?;
        let read = |row: &sqlx::sqlite::SqliteRow| {
            Ok(Stale {
                session_id: row.try_get("session_id")?,
                agent_id: row.try_get("agent_id")?,
                last_heartbeat: Time::from_micros(row.try_get("last_heartbeat")?),
            })
        };
        rows.iter().map(read).collect()
    }

    async fn sessions_end(&mut self, stale: &[Stale], cutoff: Time) -> Result<(), sqlx::Error> {
        sqlx::query("UPDATE agent_sessions SET ended_at = ?2 WHERE ended_at IS NULL AND last_heartbeat <= ?1")
            .bind(cutoff.as_micros())
            .bind(self.now().as_micros())
            .execute(&mut *self.conn)
            .await?;
        for session in stale {
            self.session_changed(&session.session_id, session.last_heartbeat, true);
        }
        Ok(())
    }

    /// Whether an agent has a live session, or asked for anything at all since: the log knows.
    async fn is_there(&mut self, agent_id: &str, cutoff: Time) -> Result<bool, sqlx::Error> {
        let sql = "SELECT EXISTS (SELECT 1 FROM agent_sessions
                                  WHERE agent_id = ?1 AND ended_at IS NULL AND last_heartbeat > ?2)
                       OR EXISTS (SELECT 1 FROM audit_log WHERE agent_id = ?1 AND created_at > ?2)";
        sqlx::query_scalar(sql).bind(agent_id).bind(cutoff.as_micros()).fetch_one(&mut *self.conn).await
    }

    /// Live locks of an agent without a live session that it did not refresh since, and took under none or one of its
    /// own sessions.
    async fn locks_left(&mut self, agent_id: &str, cutoff: Time) -> Result<Vec<Lock>, sqlx::Error> {
        let sql = "SELECT * FROM file_locks
                   WHERE agent_id = ?1 AND expires_at > ?2 AND refreshed_at <= ?3
                     AND (session_id IS NULL
                          OR session_id IN (SELECT session_id FROM agent_sessions WHERE agent_id = ?1))
                   ORDER BY lock_key";
        let rows = sqlx::query(sql)
            .bind(agent_id)
            .bind(self.now().as_micros())
            .bind(cutoff.as_micros())
            .fetch_all(&mut *self.conn)
            .await?;
        rows.iter().map(read_lock).collect()
    }

    async fn claims_left(&mut self, agent_id: &str, cutoff: Time) -> Result<Vec<String>, sqlx::Error> {
        let sql = "SELECT task_id FROM work_queue
                   WHERE status = 'claimed' AND claimed_by = ?1 AND heartbeat_at <= ?2 ORDER BY submit_order";
        sqlx::query_scalar(sql).bind(agent_id).bind(cutoff.as_micros()).fetch_all(&mut *self.conn).await
    }
}

impl Apply for SessionCleanup {
    async fn apply(self, tx: &mut Tx<'_>, _permit: &Permit<Self>) -> Result<SessionsCleaned, Rejected> {
        let now = tx.now();
        let cutoff = now.plus_minutes(-self.stale_threshold_minutes);
        let stale = tx.sessions_stale(cutoff).await?;
        if !self.dry_run && !stale.is_empty() {
            tx.sessions_end(&stale, cutoff).await?;
        }
        let mut cleaned = SessionsCleaned { success: true, ..SessionsCleaned::default() };
        let mut freed = 0_i64;
        for agent_id in stale.iter().map(|session| session.agent_id.as_str()).collect::<BTreeSet<_>>() {
            if tx.is_there(agent_id, cutoff).await? {
                continue;
            }
            cleaned.agents_cleaned = cleaned.agents_cleaned.saturating_add(1);
            for lock in tx.locks_left(agent_id, cutoff).await? {
                cleaned.locks_released = cleaned.locks_released.saturating_add(1);
                if !self.dry_run {
                    tx.lock_delete(&lock).await?;
                    freed = freed.saturating_add(1);
                }
            }
            for task_id in tx.claims_left(agent_id, cutoff).await? {
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
