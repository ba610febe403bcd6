//! Sessions and status reports in PostgreSQL.

use serde_json::Value;
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::body::{Body, Unreadable};
use super::call::Call;
use super::decision::{Args, call};
use super::view::View;
use crate::command::sessions::{
    SESSION_ENDED, SESSION_NOT_FOUND, SESSION_OWNED_BY_OTHER, SessionBeat, SessionEntry, SessionHeartbeat, SessionList,
    SessionRegister, SessionRegistered, TOO_MANY_SESSIONS,
};
use crate::command::status::{StatusReport, StatusReported};
use crate::domain::session::{ACTIVE_MINUTES, Session};
use crate::store::{Page, StoreError};

fn read_session(row: &PgRow) -> Result<Session, sqlx::Error> {
    Ok(Session {
        session_id: row.try_get("session_id")?,
        agent_id: row.try_get("agent_id")?,
        agent_type: row.try_get("agent_type")?,
        capabilities: row.try_get("capabilities")?,
        current_task: row.try_get("current_task")?,
        started_at: row.try_get("started_at")?,
        last_heartbeat: row.try_get("last_heartbeat")?,
        ended_at: row.try_get("ended_at")?,
    })
}

impl Call for SessionRegister {
    const SQL: &'static str = call!("session_register", "$32, $33, $34");

    fn bind<'q>(&self, args: Args<'q>) -> Args<'q> {
        args.bind(&self.session_id).bind(&self.said.capabilities).bind(&self.said.current_task)
    }

    fn read(self, body: &Body) -> Result<SessionRegistered, Unreadable> {
        let reasons = [SESSION_OWNED_BY_OTHER, TOO_MANY_SESSIONS];
        Ok(SessionRegistered {
            success: body.flag("success")?,
            session_id: body.opt_text("session_id")?,
            reason: body.opt_word("reason", &reasons)?,
            error: body.opt_word("error", &reasons)?,
        })
    }
}

impl Call for SessionHeartbeat {
    const SQL: &'static str = call!("session_heartbeat", "$32");

    fn bind<'q>(&self, args: Args<'q>) -> Args<'q> {
        args.bind(&self.session_id)
    }

    fn read(self, body: &Body) -> Result<SessionBeat, Unreadable> {
        let reasons = [SESSION_NOT_FOUND, SESSION_ENDED];
        Ok(SessionBeat {
            success: body.flag("success")?,
            session_id: body.opt_text("session_id")?,
            error: body.opt_word("error", &reasons)?,
            reason: body.opt_word("reason", &reasons)?,
        })
    }
}

impl Call for StatusReport {
    const SQL: &'static str = call!("status_report", "$32, $33, $34, $35, $36, $37, $38::json, $39");

    fn bind<'q>(&self, args: Args<'q>) -> Args<'q> {
        args.bind(&self.session_id)
            .bind(&self.phase)
            .bind(&self.message)
            .bind(self.needs_human)
            .bind(&self.event_type)
            .bind(&self.change_id)
            .bind(self.metadata.as_ref().map(Value::to_string))
            .bind(self.urgency().as_str())
    }

    fn read(self, body: &Body) -> Result<StatusReported, Unreadable> {
        Ok(StatusReported { success: body.flag("success")?, urgency: self.urgency() })
    }
}

impl View {
    pub(in crate::store) async fn sessions(&self, query: &SessionList) -> Result<Page<SessionEntry>, StoreError> {
        let sql = "SELECT s.*, t.phase, t.message, t.needs_human, n.now,
                       (octet_length(to_json(s.capabilities)::text) + coalesce(octet_length(s.current_task), 0)
                        + coalesce(octet_length(t.message), 0))::bigint AS page_bytes
                   FROM portreeve.clock_now() AS n (now)
                   CROSS JOIN portreeve.agent_sessions s
                   LEFT JOIN portreeve.agent_status t ON t.workspace = s.workspace AND t.agent_id = s.agent_id
                   WHERE s.workspace = portreeve.current_workspace()
                     AND CASE $1 WHEN 'disconnected' THEN s.ended_at IS NOT NULL
                             WHEN 'active' THEN s.ended_at IS NULL AND s.last_heartbeat > n.now - $2 * interval '1 minute'
                             WHEN 'idle' THEN s.ended_at IS NULL AND s.last_heartbeat <= n.now - $2 * interval '1 minute'
                             ELSE s.ended_at IS NULL END
                     AND ($3::text IS NULL OR $3 = ANY (s.capabilities))
                     AND ($4::text IS NULL OR s.agent_id = $4)
                   ORDER BY s.last_heartbeat DESC, s.session_id COLLATE \"C\" LIMIT $5";
        let rows = sqlx::query(sql)
            .bind(&query.status)
            .bind(ACTIVE_MINUTES)
            .bind(&query.capability)
            .bind(&query.agent_name)
            .bind(query.limit.saturating_add(1));
        let read = |row: &PgRow| {
            Ok(SessionEntry {
                phase: row.try_get("phase")?,
                message: row.try_get("message")?,
                needs_human: row.try_get("needs_human")?,
                ..SessionEntry::of(read_session(row)?, row.try_get("now")?)
            })
        };
        self.page(query.limit, rows, read).await
    }
}
