//! Locks in PostgreSQL.

use sqlx::Row;
use sqlx::postgres::PgRow;

use super::body::{Body, Unreadable};
use super::call::Call;
use super::decision::{Args, call};
use super::view::View;
use crate::command::locks::{
    LOCKED_BY_OTHER, LockAcquire, LockForceRelease, LockForced, LockGrant, LockList, LockRelease, LockReleased,
    LockRenew, NOT_FOUND_OR_NOT_OWNER,
};
use crate::domain::lock::Lock;
use crate::domain::lock_key::LockKey;
use crate::store::{Page, Seen, StoreError};

fn read_lock(row: &PgRow) -> Result<Lock, sqlx::Error> {
    let key: String = row.try_get("lock_key")?;
    Ok(Lock {
        lock_key: LockKey::parse(&key).map_err(|e| sqlx::Error::Decode(Box::new(e)))?,
        agent_id: row.try_get("agent_id")?,
        agent_type: row.try_get("agent_type")?,
        session_id: row.try_get("session_id")?,
        reason: row.try_get("reason")?,
        fencing_token: row.try_get("fencing_token")?,
        locked_at: row.try_get("locked_at")?,
        expires_at: row.try_get("expires_at")?,
    })
}

fn read_grant(body: &Body) -> Result<LockGrant, Unreadable> {
    Ok(LockGrant {
        success: body.flag("success")?,
        action: body.word("action", &["acquired", "refreshed", "blocked"])?,
        file_path: body.text("file_path")?,
        expires_at: body.opt_time("expires_at")?,
        reason: body.opt_word("reason", &[LOCKED_BY_OTHER, NOT_FOUND_OR_NOT_OWNER])?,
        locked_by: body.opt_text("locked_by")?,
        lock_reason: body.opt_text("lock_reason")?,
        fencing_token: body.opt_int("fencing_token")?,
        waits: false,
    })
}

impl Call for LockAcquire {
    const SQL: &'static str = call!("lock_acquire", "$32, $33, $34, $35, $36");

    fn bind<'q>(&self, args: Args<'q>) -> Args<'q> {
        args.bind(self.lock_key.as_str())
            .bind(&self.session_id)
            .bind(&self.reason)
            .bind(self.ttl_minutes)
            .bind(self.is_last)
    }

    fn read(self, body: &Body) -> Result<LockGrant, Unreadable> {
        let grant = read_grant(body)?;
        Ok(LockGrant { waits: !grant.success && !self.is_last, ..grant })
    }
}

impl Call for LockRenew {
    const SQL: &'static str = call!("lock_renew", "$32, $33, $34");

    fn bind<'q>(&self, args: Args<'q>) -> Args<'q> {
        args.bind(self.lock_key.as_str()).bind(self.fencing_token).bind(self.ttl_minutes)
    }

    fn read(self, body: &Body) -> Result<LockGrant, Unreadable> {
        read_grant(body)
    }
}

impl Call for LockRelease {
    const SQL: &'static str = call!("lock_release", "$32, $33");

    fn bind<'q>(&self, args: Args<'q>) -> Args<'q> {
        args.bind(self.lock_key.as_str()).bind(self.fencing_token)
    }

    fn read(self, body: &Body) -> Result<LockReleased, Unreadable> {
        Ok(LockReleased {
            success: body.flag("success")?,
            action: body.word("action", &["released", "none"])?,
            file_path: body.text("file_path")?,
            reason: body.opt_word("reason", &[NOT_FOUND_OR_NOT_OWNER])?,
        })
    }
}

impl Call for LockForceRelease {
    const SQL: &'static str = call!("lock_force_release", "$32");

    fn bind<'q>(&self, args: Args<'q>) -> Args<'q> {
        args.bind(self.lock_key.as_str())
    }

    fn read(self, body: &Body) -> Result<LockForced, Unreadable> {
        Ok(LockForced {
            released: body.flag("released")?,
            prior_holder_agent_id: body.opt_text("prior_holder_agent_id")?,
            prior_acquired_at: body.opt_time("prior_acquired_at")?,
            file_path: self.lock_key.to_string(),
        })
    }
}

impl View {
    pub(in crate::store) async fn lock(&self, key: &LockKey) -> Result<Seen<Option<Lock>>, StoreError> {
        let sql = "SELECT t.now, l.* FROM portreeve.clock_now() AS t (now)
                   LEFT JOIN portreeve.file_locks l ON l.workspace = portreeve.current_workspace() AND l.lock_key = $1";
        let row = self.fetch_one(|| sqlx::query(sql).bind(key.as_str())).await?;
        let held = row.try_get::<Option<String>, _>("lock_key")?.is_some();
        let what = if held { Some(read_lock(&row)?) } else { None };
        Ok(Seen { what, now: row.try_get("now")? })
    }

    pub(in crate::store) async fn locks(&self, query: &LockList) -> Result<Page<Lock>, StoreError> {
        let sql = "SELECT l.* FROM portreeve.file_locks l
                   WHERE l.workspace = portreeve.current_workspace() AND l.expires_at > portreeve.clock_now()
                     AND ($1::text IS NULL OR l.agent_id = $1)
                     AND ($2::text IS NULL OR starts_with(l.lock_key, $2))
                     AND ($3::json IS NULL OR l.lock_key IN (SELECT json_array_elements_text($3::json)))
                   ORDER BY l.lock_key COLLATE \"C\" LIMIT $4";
        let rows = self
            .fetch_list(|| {
                sqlx::query(sql)
                    .bind(&query.agent_id)
                    .bind(&query.prefix)
                    .bind(&query.file_paths)
                    .bind(query.limit.saturating_add(1))
            })
            .await?;
        let locks = rows.iter().map(read_lock).collect::<Result<Vec<_>, _>>()?;
        Ok(Page::cut(locks, query.limit))
    }
}
