//! Sessions and status reports in SQLite.

use serde_json::{Value, json};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::columns::{texts, time};
use super::tx::{Apply, Rejected, Tx};
use super::view::{View, page};
use crate::clock::Time;
use crate::command::sessions::{
    SESSION_ENDED, SESSION_NOT_FOUND, SESSION_OWNED_BY_OTHER, SessionBeat, SessionEntry, SessionHeartbeat, SessionList,
    SessionRegister, SessionRegistered, TOO_MANY_SESSIONS,
};
use crate::command::status::{StatusReport, StatusReported};
use crate::domain::session::{ACTIVE_MINUTES, Session};
use crate::gate::Permit;
use crate::store::{Page, StoreError};

fn read_session(row: &SqliteRow) -> Result<Session, sqlx::Error> {
    Ok(Session {
        session_id: row.try_get("session_id")?,
        agent_id: row.try_get("agent_id")?,
        agent_type: row.try_get("agent_type")?,
        capabilities: texts(row, "capabilities")?,
        current_task: row.try_get("current_task")?,
        started_at: Time::from_micros(row.try_get("started_at")?),
        last_heartbeat: Time::from_micros(row.try_get("last_heartbeat")?),
        ended_at: time(row, "ended_at")?,
    })
}

impl Tx<'_> {
    async fn session_get(&mut self, session_id: &str) -> Result<Option<Session>, sqlx::Error> {
        let row = sqlx::query("SELECT * FROM agent_sessions WHERE session_id = ?1")
            .bind(session_id)
            .fetch_optional(&mut *self.conn)
            .await?;
        row.as_ref().map(read_session).transpose()
    }

    /// The agent's session that was last heard of: a live one before those that ended.
    async fn session_newest(&mut self, agent_id: &str) -> Result<Option<Session>, sqlx::Error> {
        let live = "SELECT * FROM agent_sessions WHERE agent_id = ?1 AND ended_at IS NULL
                    ORDER BY last_heartbeat DESC, started_at DESC, session_id LIMIT 1";
        let any = "SELECT * FROM agent_sessions WHERE agent_id = ?1
                   ORDER BY last_heartbeat DESC, started_at DESC, session_id LIMIT 1";
        for sql in [live, any] {
            if let Some(row) = sqlx::query(sql).bind(agent_id).fetch_optional(&mut *self.conn).await? {
                return read_session(&row).map(Some);
            }
        }
        Ok(None)
    }

    async fn session_put(&mut self, session: &Session) -> Result<(), sqlx::Error> {
        // Not an upsert: a conflicting insert is refused by a trigger, whatever it would do then.
        let update = "UPDATE agent_sessions SET agent_type = ?3, capabilities = ?4, current_task = ?5, started_at = ?6,
                          last_heartbeat = ?7, ended_at = ?8
                      WHERE session_id = ?1 AND agent_id = ?2";
        let insert = "INSERT INTO agent_sessions (session_id, agent_id, agent_type, capabilities, current_task,
                          started_at, last_heartbeat, ended_at)
                      VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
        for sql in [update, insert] {
            let done = sqlx::query(sql)
                .bind(&session.session_id)
                .bind(&session.agent_id)
                .bind(&session.agent_type)
                .bind(json!(session.capabilities).to_string())
                .bind(&session.current_task)
                .bind(session.started_at.as_micros())
                .bind(session.last_heartbeat.as_micros())
                .bind(session.ended_at.map(Time::as_micros))
                .execute(&mut *self.conn)
                .await?;
            if done.rows_affected() > 0 {
                break;
            }
        }
        self.session_changed(&session.session_id, session.last_heartbeat, session.ended_at.is_some());
        Ok(())
    }

    pub(super) fn session_changed(&mut self, session_id: &str, last_heartbeat: Time, is_ended: bool) {
        let version = json!({"last_heartbeat": last_heartbeat.as_micros(), "ended": is_ended});
        self.changed("agent_sessions", session_id, version);
    }

    async fn sessions_live(&mut self, agent_id: &str) -> Result<i64, sqlx::Error> {
        let sql = "SELECT count(*) FROM agent_sessions WHERE agent_id = ?1 AND ended_at IS NULL";
        sqlx::query_scalar(sql).bind(agent_id).fetch_one(&mut *self.conn).await
    }

    async fn session_beat(&mut self, session: Session) -> Result<(), sqlx::Error> {
        let last_heartbeat = session.last_heartbeat.max(self.now());
        self.session_put(&Session { last_heartbeat, ..session }).await
    }
}

/// Most live sessions of one agent: whoever has as many forgets them, and everybody's lists would be full of them.
const SESSIONS_LIVE_MAX: i64 = 64;

impl Apply for SessionRegister {
    async fn apply(self, tx: &mut Tx<'_>, permit: &Permit<Self>) -> Result<SessionRegistered, Rejected> {
        let (who, now) = (permit.who(), tx.now());
        let session = match tx.session_get(&self.session_id).await? {
            Some(session) if session.agent_id != who.agent_id() => {
                let reason = Some(SESSION_OWNED_BY_OTHER);
                return Ok(SessionRegistered { success: false, session_id: None, reason, error: reason });
            }
            Some(session) => session.registered(who.agent_type(), self.said, now),
            None if tx.sessions_live(who.agent_id()).await? >= SESSIONS_LIVE_MAX => {
                let reason = Some(TOO_MANY_SESSIONS);
                return Ok(SessionRegistered { success: false, session_id: None, reason, error: reason });
            }
            None => Session {
                session_id: self.session_id,
                agent_id: who.agent_id().to_owned(),
                agent_type: who.agent_type().to_owned(),
                capabilities: self.said.capabilities.unwrap_or_default(),
                current_task: self.said.current_task,
                started_at: now,
                last_heartbeat: now,
                ended_at: None,
            },
        };
        tx.session_put(&session).await?;
        Ok(SessionRegistered { success: true, session_id: Some(session.session_id), reason: None, error: None })
    }
}

impl Apply for SessionHeartbeat {
    async fn apply(self, tx: &mut Tx<'_>, permit: &Permit<Self>) -> Result<SessionBeat, Rejected> {
        let agent_id = permit.who().agent_id();
        let found = match &self.session_id {
            Some(session_id) => tx.session_get(session_id).await?,
            None => tx.session_newest(agent_id).await?,
        };
        let Some(session) = found.filter(|session| session.agent_id == agent_id) else {
            return Ok(SessionBeat::refused(self.session_id, SESSION_NOT_FOUND));
        };
        let session_id = session.session_id.clone();
        if session.ended_at.is_some() {
            return Ok(SessionBeat::refused(Some(session_id), SESSION_ENDED));
        }
        tx.session_beat(session).await?;
        Ok(SessionBeat::done(session_id))
    }
}

impl Apply for StatusReport {
    async fn apply(self, tx: &mut Tx<'_>, permit: &Permit<Self>) -> Result<StatusReported, Rejected> {
        let (agent_id, urgency) = (permit.who().agent_id(), self.urgency());
        let told_of = match &self.session_id {
            Some(session_id) => tx.session_get(session_id).await?,
            None => tx.session_newest(agent_id).await?,
        };
        // A session that is not known, not the agent's, or over is recorded as given and not brought to life.
        if let Some(session) = told_of.filter(|session| session.agent_id == agent_id && session.ended_at.is_none()) {
            tx.session_beat(session).await?;
        }
        let sql = "INSERT INTO agent_status (agent_id, session_id, phase, message, needs_human, event_type, change_id,
                       metadata, urgency, report_count, reported_at)
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, 1, ?10)
                   ON CONFLICT (agent_id) DO UPDATE SET
                       session_id = excluded.session_id, phase = excluded.phase, message = excluded.message,
                       needs_human = excluded.needs_human, event_type = excluded.event_type,
                       change_id = excluded.change_id, metadata = excluded.metadata, urgency = excluded.urgency,
                       report_count = report_count + 1, reported_at = excluded.reported_at
                   RETURNING report_count";
        let report_count: i64 = sqlx::query_scalar(sql)
            .bind(agent_id)
            .bind(&self.session_id)
            .bind(&self.phase)
            .bind(&self.message)
            .bind(self.needs_human)
            .bind(&self.event_type)
            .bind(&self.change_id)
            .bind(self.metadata.as_ref().map(Value::to_string))
            .bind(urgency.as_str())
            .bind(tx.now().as_micros())
            .fetch_one(&mut *tx.conn)
            .await?;
        tx.changed("agent_status", agent_id, json!({ "report_count": report_count }));
        Ok(StatusReported { success: true, urgency })
    }
}

impl View {
    pub(in crate::store) async fn sessions(&self, query: &SessionList) -> Result<Page<SessionEntry>, StoreError> {
        let sql = "SELECT s.*, t.phase, t.message, t.needs_human,
                       octet_length(s.capabilities) + coalesce(octet_length(s.current_task), 0)
                           + coalesce(octet_length(t.message), 0) AS page_bytes
                   FROM agent_sessions s LEFT JOIN agent_status t ON t.agent_id = s.agent_id
                   WHERE CASE ?1 WHEN 'disconnected' THEN s.ended_at IS NOT NULL
                                 WHEN 'active' THEN s.ended_at IS NULL AND s.last_heartbeat > ?2
                                 WHEN 'idle' THEN s.ended_at IS NULL AND s.last_heartbeat <= ?2
                                 ELSE s.ended_at IS NULL END
                     AND (?3 IS NULL OR EXISTS (SELECT 1 FROM json_each(s.capabilities) WHERE value = ?3))
                     AND (?4 IS NULL OR s.agent_id = ?4)
                   ORDER BY s.last_heartbeat DESC, s.session_id LIMIT ?5";
        let now = self.now();
        let rows = sqlx::query(sql)
            .bind(&query.status)
            .bind(now.plus_minutes(-ACTIVE_MINUTES).as_micros())
            .bind(&query.capability)
            .bind(&query.agent_name)
            .bind(query.limit.saturating_add(1))
            .fetch(self.lists());
        let read = |row: &SqliteRow| {
            Ok(SessionEntry {
                phase: row.try_get("phase")?,
                message: row.try_get("message")?,
                needs_human: row.try_get("needs_human")?,
                ..SessionEntry::of(read_session(row)?, now)
            })
        };
        page(rows, query.limit, read).await
    }
}
