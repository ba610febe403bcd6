//! Handoffs in SQLite.

use serde_json::json;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::columns::texts;
use super::tx::{Apply, Rejected, Tx};
use super::view::{View, page};
use crate::clock::Time;
use crate::command::handoffs::{HandoffEntry, HandoffLists, HandoffRead, HandoffWrite, HandoffWritten};
use crate::gate::Permit;
use crate::store::{Page, StoreError};

fn read_handoff(row: &SqliteRow) -> Result<HandoffEntry, sqlx::Error> {
    Ok(HandoffEntry {
        id: row.try_get("handoff_id")?,
        agent_name: row.try_get("agent_id")?,
        session_id: row.try_get("session_id")?,
        summary: row.try_get("summary")?,
        lists: HandoffLists {
            completed_work: texts(row, "completed_work")?,
            in_progress: texts(row, "in_progress")?,
            decisions: texts(row, "decisions")?,
            next_steps: texts(row, "next_steps")?,
            relevant_files: texts(row, "relevant_files")?,
        },
        created_at: Time::from_micros(row.try_get("created_at")?),
    })
}

impl Apply for HandoffWrite {
    async fn apply(self, tx: &mut Tx<'_>, permit: &Permit<Self>) -> Result<HandoffWritten, Rejected> {
        let sql = "INSERT INTO handoffs (write_order, handoff_id, agent_id, session_id, summary, completed_work,
                       in_progress, decisions, next_steps, relevant_files, created_at)
                   VALUES ((SELECT coalesce(max(write_order), 0) + 1 FROM handoffs), ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9,
                       ?10)";
        sqlx::query(sql)
            .bind(&self.handoff_id)
            .bind(permit.who().agent_id())
            .bind(&self.session_id)
            .bind(&self.summary)
            .bind(json!(self.lists.completed_work).to_string())
            .bind(json!(self.lists.in_progress).to_string())
            .bind(json!(self.lists.decisions).to_string())
            .bind(json!(self.lists.next_steps).to_string())
            .bind(json!(self.lists.relevant_files).to_string())
            .bind(tx.now().as_micros())
            .execute(&mut *tx.conn)
            .await?;
        tx.changed("handoffs", self.handoff_id.as_str(), "written");
        Ok(HandoffWritten { success: true, handoff_id: Some(self.handoff_id), error: None })
    }
}

impl View {
    pub(in crate::store) async fn handoffs(&self, query: &HandoffRead) -> Result<Page<HandoffEntry>, StoreError> {
        let sql = "SELECT *, octet_length(summary) + octet_length(completed_work) + octet_length(in_progress)
                       + octet_length(decisions) + octet_length(next_steps) + octet_length(relevant_files) AS page_bytes
                   FROM handoffs WHERE ?1 IS NULL OR agent_id = ?1 ORDER BY write_order DESC LIMIT ?2";
        let rows = sqlx::query(sql).bind(&query.agent_name).bind(query.limit.saturating_add(1)).fetch(self.lists());
        page(rows, query.limit, read_handoff).await
    }
}
