//! The state tables as they are, for checking them against the audit log. Reads only.

use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::view::View;
use crate::clock::Time;
use crate::domain::task::Status;
use crate::store::{StoreError, StoredLock, StoredTask};

impl View {
    pub(in crate::store) async fn problems(&self) -> Result<Vec<String>, StoreError> {
        let integrity: Vec<String> = sqlx::query_scalar("PRAGMA integrity_check(20)").fetch_all(self.pool()).await?;
        let dangling = sqlx::query("PRAGMA foreign_key_check").fetch_all(self.pool()).await?;
        let told = integrity.into_iter().filter(|line| line != "ok");
        let dangling = dangling.iter().map(|row| {
            row.try_get::<String, _>("table").map(|table| format!("a row of `{table}` refers to one that is not there"))
        });
        Ok(told.map(Ok).chain(dangling).collect::<Result<_, sqlx::Error>>()?)
    }

    pub(in crate::store) async fn stored_locks(&self) -> Result<Vec<StoredLock>, StoreError> {
        let sql = "SELECT lock_key, agent_id, fencing_token, expires_at FROM file_locks ORDER BY lock_key";
        let rows = sqlx::query(sql).fetch_all(self.pool()).await?;
        let read = |row: &SqliteRow| {
            Ok(StoredLock {
                lock_key: row.try_get("lock_key")?,
                agent_id: row.try_get("agent_id")?,
                fencing_token: row.try_get("fencing_token")?,
                expires_at: Time::from_micros(row.try_get("expires_at")?),
            })
        };
        Ok(rows.iter().map(read).collect::<Result<_, sqlx::Error>>()?)
    }

    pub(in crate::store) async fn stored_fences(&self) -> Result<Vec<(String, i64)>, StoreError> {
        let rows = sqlx::query("SELECT lock_key, last_token FROM lock_fences ORDER BY lock_key")
            .fetch_all(self.pool())
            .await?;
        let read = |row: &SqliteRow| Ok((row.try_get("lock_key")?, row.try_get("last_token")?));
        Ok(rows.iter().map(read).collect::<Result<_, sqlx::Error>>()?)
    }

    pub(in crate::store) async fn stored_tasks(&self) -> Result<Vec<StoredTask>, StoreError> {
        let sql = "SELECT task_id, status, attempt_count, claimed_by FROM work_queue ORDER BY task_id";
        let rows = sqlx::query(sql).fetch_all(self.pool()).await?;
        let read = |row: &SqliteRow| {
            let status: String = row.try_get("status")?;
            let unknown = || sqlx::Error::Decode(format!("unknown status `{status}`").into());
            Ok(StoredTask {
                task_id: row.try_get("task_id")?,
                status: Status::parse(&status).ok_or_else(unknown)?,
                attempt_count: row.try_get("attempt_count")?,
                claimed_by: row.try_get("claimed_by")?,
            })
        };
        Ok(rows.iter().map(read).collect::<Result<_, sqlx::Error>>()?)
    }

    pub(in crate::store) async fn stored_facts(&self) -> Result<Vec<(String, i64)>, StoreError> {
        let rows =
            sqlx::query("SELECT agent_id, facts_version FROM agents ORDER BY agent_id").fetch_all(self.pool()).await?;
        let read = |row: &SqliteRow| Ok((row.try_get("agent_id")?, row.try_get("facts_version")?));
        Ok(rows.iter().map(read).collect::<Result<_, sqlx::Error>>()?)
    }

    pub(in crate::store) async fn violations_count(&self) -> Result<i64, StoreError> {
        Ok(sqlx::query_scalar("SELECT count(*) FROM guardrail_violations").fetch_one(self.pool()).await?)
    }

    /// A row is written with its position.
    #[expect(clippy::unused_async, reason = "as on the other store")]
    pub(in crate::store) async fn left_out(&self) -> Result<i64, StoreError> {
        Ok(0)
    }
}
