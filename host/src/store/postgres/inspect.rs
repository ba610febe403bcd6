//! The state tables as they are, for checking them against the audit log. Reads only.

use sqlx::Row;
use sqlx::postgres::PgRow;

use super::tasks::status_of;
use super::view::View;
use crate::store::{StoreError, StoredLock, StoredTask};

impl View {
    pub(in crate::store) async fn problems(&self) -> Result<Vec<String>, StoreError> {
        self.number().await?;
        let sql = "SELECT format('the lock of `%s` has a token that its fence never gave', l.lock_key) AS problem
                   FROM portreeve.file_locks l LEFT JOIN portreeve.lock_fences f USING (workspace, lock_key)
                   WHERE l.workspace = portreeve.current_workspace()
                     AND (f.last_token IS NULL OR f.last_token < l.fencing_token)
                   UNION ALL
                   SELECT format('the task %s is claimed by nobody', q.task_id) FROM portreeve.work_queue q
                   WHERE q.workspace = portreeve.current_workspace() AND q.status = 'claimed' AND q.claimed_by IS NULL
                   UNION ALL
                   SELECT format('the task %s waits for %s others and depends on %s open ones', q.task_id,
                       q.open_dependencies, o.open)
                   FROM portreeve.work_queue q CROSS JOIN LATERAL (
                       SELECT count(*) AS open FROM portreeve.work_dependencies w
                       JOIN portreeve.work_queue d ON d.workspace = w.workspace AND d.task_id = w.depends_on
                       WHERE w.workspace = q.workspace AND w.task_id = q.task_id AND d.status <> 'completed') o
                   WHERE q.workspace = portreeve.current_workspace() AND q.status = 'pending'
                     AND q.open_dependencies <> o.open
                   UNION ALL
                   SELECT format('the audit log has %s rows and %s numbers up to %s', r.rows, n.numbers, n.last)
                   FROM (SELECT count(*) AS rows FROM portreeve.audit_log l
                         WHERE l.workspace = portreeve.current_workspace()) r,
                        (SELECT count(*) AS numbers, coalesce(max(s.seq), 0) AS last FROM portreeve.audit_seq s
                         WHERE s.workspace = portreeve.current_workspace()) n
                   WHERE n.numbers <> n.last";
        let rows = self.fetch_list(|| sqlx::query(sql)).await?;
        let mut problems: Vec<String> =
            rows.iter().map(|row| row.try_get("problem")).collect::<Result<_, sqlx::Error>>()?;
        let left_out = self.left_out().await?;
        if left_out > 0 {
            problems.push(format!("{left_out} rows of the audit log have no position, and never will"));
        }
        Ok(problems)
    }

    pub(in crate::store) async fn stored_locks(&self) -> Result<Vec<StoredLock>, StoreError> {
        let sql = "SELECT l.lock_key, l.agent_id, l.fencing_token, l.expires_at FROM portreeve.file_locks l
                   WHERE l.workspace = portreeve.current_workspace() ORDER BY l.lock_key COLLATE \"C\"";
        let rows = self.fetch_list(|| sqlx::query(sql)).await?;
        let read = |row: &PgRow| {
            Ok(StoredLock {
                lock_key: row.try_get("lock_key")?,
                agent_id: row.try_get("agent_id")?,
                fencing_token: row.try_get("fencing_token")?,
                expires_at: row.try_get("expires_at")?,
            })
        };
        Ok(rows.iter().map(read).collect::<Result<_, sqlx::Error>>()?)
    }

    pub(in crate::store) async fn stored_fences(&self) -> Result<Vec<(String, i64)>, StoreError> {
        let sql = "SELECT f.lock_key, f.last_token FROM portreeve.lock_fences f
                   WHERE f.workspace = portreeve.current_workspace() ORDER BY f.lock_key COLLATE \"C\"";
        let rows = self.fetch_list(|| sqlx::query(sql)).await?;
        let read = |row: &PgRow| Ok((row.try_get("lock_key")?, row.try_get("last_token")?));
        Ok(rows.iter().map(read).collect::<Result<_, sqlx::Error>>()?)
    }

    pub(in crate::store) async fn stored_tasks(&self) -> Result<Vec<StoredTask>, StoreError> {
        let sql =
            "SELECT q.task_id::text AS task_id, q.status, q.attempt_count, q.claimed_by FROM portreeve.work_queue q
                   WHERE q.workspace = portreeve.current_workspace() ORDER BY q.task_id";
        let rows = self.fetch_list(|| sqlx::query(sql)).await?;
        let read = |row: &PgRow| {
            Ok(StoredTask {
                task_id: row.try_get("task_id")?,
                status: status_of(row)?,
                attempt_count: row.try_get("attempt_count")?,
                claimed_by: row.try_get("claimed_by")?,
            })
        };
        Ok(rows.iter().map(read).collect::<Result<_, sqlx::Error>>()?)
    }

    pub(in crate::store) async fn stored_facts(&self) -> Result<Vec<(String, i64)>, StoreError> {
        let sql = "SELECT g.agent_id, g.facts_version FROM portreeve.agents g
                   WHERE g.workspace = portreeve.current_workspace() ORDER BY g.agent_id COLLATE \"C\"";
        let rows = self.fetch_list(|| sqlx::query(sql)).await?;
        let read = |row: &PgRow| Ok((row.try_get("agent_id")?, row.try_get("facts_version")?));
        Ok(rows.iter().map(read).collect::<Result<_, sqlx::Error>>()?)
    }

    pub(in crate::store) async fn left_out(&self) -> Result<i64, StoreError> {
        self.number().await?;
        let sql = "SELECT count(*) AS left_out FROM portreeve.audit_log l
                   WHERE l.workspace = portreeve.current_workspace()
                     AND (l.xact, l.id) <= (SELECT s.xact, s.id FROM portreeve.audit_seq s
                                            WHERE s.workspace = portreeve.current_workspace()
                                            ORDER BY s.seq DESC LIMIT 1)
                     AND NOT EXISTS (SELECT 1 FROM portreeve.audit_seq s
                                     WHERE s.workspace = l.workspace AND s.id = l.id)";
        let rows = self.fetch_list(|| sqlx::query(sql)).await?;
        Ok(rows.first().map(|row| row.try_get("left_out")).transpose()?.unwrap_or_default())
    }

    pub(in crate::store) async fn violations_count(&self) -> Result<i64, StoreError> {
        let sql = "SELECT count(*) AS violations FROM portreeve.guardrail_violations g
                   WHERE g.workspace = portreeve.current_workspace()";
        let rows = self.fetch_list(|| sqlx::query(sql)).await?;
        Ok(rows.first().map(|row| row.try_get("violations")).transpose()?.unwrap_or_default())
    }
}
