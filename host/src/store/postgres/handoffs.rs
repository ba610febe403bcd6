//! Handoffs in PostgreSQL.

use sqlx::Row;
use sqlx::postgres::PgRow;

use super::body::{Body, Unreadable};
use super::call::Call;
use super::decision::{Args, call};
use super::view::View;
use crate::command::handoffs::{HandoffEntry, HandoffLists, HandoffRead, HandoffWrite, HandoffWritten};
use crate::store::{Page, StoreError};

fn read_handoff(row: &PgRow) -> Result<HandoffEntry, sqlx::Error> {
    Ok(HandoffEntry {
        id: row.try_get("id")?,
        agent_name: row.try_get("agent_id")?,
        session_id: row.try_get("session_id")?,
        summary: row.try_get("summary")?,
        lists: HandoffLists {
            completed_work: row.try_get("completed_work")?,
            in_progress: row.try_get("in_progress")?,
            decisions: row.try_get("decisions")?,
            next_steps: row.try_get("next_steps")?,
            relevant_files: row.try_get("relevant_files")?,
        },
        created_at: row.try_get("created_at")?,
    })
}

impl Call for HandoffWrite {
    const SQL: &'static str = call!("handoff_write", "$32::uuid, $33, $34, $35, $36, $37, $38, $39");

    fn bind<'q>(&self, args: Args<'q>) -> Args<'q> {
        args.bind(&self.handoff_id)
            .bind(&self.session_id)
            .bind(&self.summary)
            .bind(&self.lists.completed_work)
            .bind(&self.lists.in_progress)
            .bind(&self.lists.decisions)
            .bind(&self.lists.next_steps)
            .bind(&self.lists.relevant_files)
    }

    fn read(self, body: &Body) -> Result<HandoffWritten, Unreadable> {
        Ok(HandoffWritten { success: body.flag("success")?, handoff_id: body.opt_text("handoff_id")?, error: None })
    }
}

/// Handoffs, newest first, of one agent or of all: each in the order of an index.
macro_rules! newest {
    ($whose:literal) => {
        concat!(
            "SELECT h.handoff_id::text AS id, h.*,
                 (octet_length(h.summary) + octet_length(to_json(h.completed_work)::text)
                  + octet_length(to_json(h.in_progress)::text) + octet_length(to_json(h.decisions)::text)
                  + octet_length(to_json(h.next_steps)::text)
                  + octet_length(to_json(h.relevant_files)::text))::bigint AS page_bytes
             FROM portreeve.handoffs h WHERE h.workspace = portreeve.current_workspace() AND ",
            $whose,
            " ORDER BY h.write_order DESC LIMIT $2"
        )
    };
}

impl View {
    pub(in crate::store) async fn handoffs(&self, query: &HandoffRead) -> Result<Page<HandoffEntry>, StoreError> {
        let sql = if query.agent_name.is_some() { newest!("h.agent_id = $1") } else { newest!("$1::text IS NULL") };
        let rows = sqlx::query(sql).bind(&query.agent_name).bind(query.limit.saturating_add(1));
        self.page(query.limit, rows, read_handoff).await
    }
}
