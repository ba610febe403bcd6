//! Locks in SQLite.

use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::tx::{Apply, Rejected, Tx};
use super::view::View;
use crate::clock::Time;
use crate::command::locks::{
    LockAcquire, LockForceRelease, LockForced, LockGrant, LockList, LockRelease, LockReleased, LockRenew,
    NOT_FOUND_OR_NOT_OWNER,
};
use crate::domain::lock::{self, Acquired, Claimant, Lock};
use crate::domain::lock_key::LockKey;
use crate::error::Error;
use crate::gate::Permit;
use crate::store::{Page, Seen, StoreError};

pub(super) fn read_lock(row: &SqliteRow) -> Result<Lock, sqlx::Error> {
    let key: String = row.try_get("lock_key")?;
    Ok(Lock {
        lock_key: LockKey::parse(&key).map_err(|e| sqlx::Error::Decode(Box::new(e)))?,
        agent_id: row.try_get("agent_id")?,
        agent_type: row.try_get("agent_type")?,
        session_id: row.try_get("session_id")?,
        reason: row.try_get("reason")?,
        fencing_token: row.try_get("fencing_token")?,
        locked_at: Time::from_micros(row.try_get("locked_at")?),
        expires_at: Time::from_micros(row.try_get("expires_at")?),
    })
}

impl Tx<'_> {
    async fn lock_get(&mut self, key: &LockKey) -> Result<Option<Lock>, sqlx::Error> {
        let row = sqlx::query("SELECT * FROM file_locks WHERE lock_key = ?1")
            .bind(key.as_str())
            .fetch_optional(&mut *self.conn)
            .await?;
        row.as_ref().map(read_lock).transpose()
    }

    async fn lock_put(&mut self, lock: &Lock) -> Result<(), sqlx::Error> {
        let sql = "INSERT INTO file_locks
                       (lock_key, agent_id, agent_type, session_id, reason, fencing_token, locked_at, expires_at,
                        refreshed_at)
                   VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
                   ON CONFLICT (lock_key) DO UPDATE SET
                       agent_id = excluded.agent_id, agent_type = excluded.agent_type,
                       session_id = excluded.session_id, reason = excluded.reason,
                       fencing_token = excluded.fencing_token, locked_at = excluded.locked_at,
                       expires_at = excluded.expires_at, refreshed_at = excluded.refreshed_at";
        sqlx::query(sql)
            .bind(lock.lock_key.as_str())
            .bind(&lock.agent_id)
            .bind(&lock.agent_type)
            .bind(&lock.session_id)
            .bind(&lock.reason)
            .bind(lock.fencing_token)
            .bind(lock.locked_at.as_micros())
            .bind(lock.expires_at.as_micros())
            .bind(self.now().as_micros())
            .execute(&mut *self.conn)
            .await?;
        self.changed("file_locks", lock.lock_key.as_str(), lock.fencing_token);
        Ok(())
    }

    pub(super) async fn lock_delete(&mut self, lock: &Lock) -> Result<(), sqlx::Error> {
        sqlx::query("DELETE FROM file_locks WHERE lock_key = ?1")
            .bind(lock.lock_key.as_str())
            .execute(&mut *self.conn)
            .await?;
        self.changed("file_locks", lock.lock_key.as_str(), serde_json::Value::Null);
        Ok(())
    }

    async fn fence_get(&mut self, key: &LockKey) -> Result<i64, sqlx::Error> {
        let sql = "SELECT coalesce(max(last_token), 0) FROM lock_fences WHERE lock_key = ?1";
        sqlx::query_scalar(sql).bind(key.as_str()).fetch_one(&mut *self.conn).await
    }

    async fn fence_put(&mut self, key: &LockKey, token: i64) -> Result<(), sqlx::Error> {
        let sql = "INSERT INTO lock_fences (lock_key, last_token) VALUES (?1, ?2)
                   ON CONFLICT (lock_key) DO UPDATE SET last_token = excluded.last_token";
        sqlx::query(sql).bind(key.as_str()).bind(token).execute(&mut *self.conn).await?;
        self.changed("lock_fences", key.as_str(), token);
        Ok(())
    }

    async fn locks_held(&mut self, agent_id: &str) -> Result<i64, sqlx::Error> {
        let sql = "SELECT count(*) FROM file_locks WHERE agent_id = ?1 AND expires_at > ?2";
        let now = self.now().as_micros();
        sqlx::query_scalar(sql).bind(agent_id).bind(now).fetch_one(&mut *self.conn).await
    }

    async fn check_room(&mut self, agent_id: &str, most: Option<u32>) -> Result<(), Rejected> {
        let Some(most) = most else { return Ok(()) };
        if self.locks_held(agent_id).await? < i64::from(most) {
            return Ok(());
        }
        Err(Rejected::Limit {
            reason: "lock_limit_reached",
            detail: format!("the profile allows {most} locks at once, and {agent_id} holds that many"),
            remedy: "release a lock first, or ask an admin for a profile with a higher limit".to_owned(),
        })
    }
}

fn check_ttl(ttl_minutes: i64, most: Option<u32>) -> Result<(), Rejected> {
    match most {
        Some(most) if ttl_minutes > i64::from(most) => Err(Rejected::Invalid(Error::field(
            "ttl_minutes",
            "ttl_out_of_range",
            format!("{ttl_minutes} is more than the {most} minutes that the profile allows"),
        ))),
        _ => Ok(()),
    }
}

impl Apply for LockAcquire {
    async fn apply(self, tx: &mut Tx<'_>, permit: &Permit<Self>) -> Result<LockGrant, Rejected> {
        check_ttl(self.ttl_minutes, permit.obligations().max_ttl_minutes)?;
        let current = tx.lock_get(&self.lock_key).await?;
        let last_token = tx.fence_get(&self.lock_key).await?;
        let who = Claimant {
            agent_id: permit.who().agent_id().to_owned(),
            agent_type: permit.who().agent_type().to_owned(),
            session_id: self.session_id,
            reason: self.reason,
        };
        let expires_at = tx.now().plus_minutes(self.ttl_minutes);
        match lock::acquire(current, last_token, &self.lock_key, who, tx.now(), expires_at) {
            Acquired::Blocked(lock) => Ok(LockGrant { waits: !self.is_last, ..LockGrant::blocked(lock) }),
            Acquired::Refreshed(lock) => {
                tx.lock_put(&lock).await?;
                Ok(LockGrant::held("refreshed", lock))
            }
            Acquired::Granted(lock) => {
                tx.check_room(&lock.agent_id, permit.obligations().max_locks_held).await?;
                tx.fence_put(&self.lock_key, lock.fencing_token).await?;
                tx.lock_put(&lock).await?;
                Ok(LockGrant::held("acquired", lock))
            }
        }
    }
}

impl Apply for LockRenew {
    async fn apply(self, tx: &mut Tx<'_>, permit: &Permit<Self>) -> Result<LockGrant, Rejected> {
        check_ttl(self.ttl_minutes, permit.obligations().max_ttl_minutes)?;
        let (agent_id, now) = (permit.who().agent_id(), tx.now());
        let current = tx.lock_get(&self.lock_key).await?;
        let Some(held) = current.filter(|lock| lock.is_held_by(agent_id, Some(self.fencing_token), now)) else {
            return Ok(LockGrant::not_owner(&self.lock_key));
        };
        let lock = Lock { expires_at: now.plus_minutes(self.ttl_minutes), ..held };
        tx.lock_put(&lock).await?;
        Ok(LockGrant::held("refreshed", lock))
    }
}

impl Apply for LockRelease {
    async fn apply(self, tx: &mut Tx<'_>, permit: &Permit<Self>) -> Result<LockReleased, Rejected> {
        let (agent_id, now) = (permit.who().agent_id(), tx.now());
        let current = tx.lock_get(&self.lock_key).await?;
        let file_path = self.lock_key.to_string();
        let Some(held) = current.filter(|lock| lock.is_held_by(agent_id, self.fencing_token, now)) else {
            return Ok(LockReleased {
                success: false,
                action: "none",
                file_path,
                reason: Some(NOT_FOUND_OR_NOT_OWNER),
            });
        };
        tx.lock_delete(&held).await?;
        Ok(LockReleased { success: true, action: "released", file_path, reason: None })
    }
}

impl Apply for LockForceRelease {
    async fn apply(self, tx: &mut Tx<'_>, _permit: &Permit<Self>) -> Result<LockForced, Rejected> {
        let now = tx.now();
        let Some(held) = tx.lock_get(&self.lock_key).await?.filter(|lock| lock.is_live(now)) else {
            return Ok(LockForced {
                released: false,
                prior_holder_agent_id: None,
                prior_acquired_at: None,
                file_path: self.lock_key.to_string(),
            });
        };
        tx.lock_delete(&held).await?;
        Ok(LockForced {
            released: true,
            prior_acquired_at: Some(held.locked_at),
            prior_holder_agent_id: Some(held.agent_id),
            file_path: self.lock_key.to_string(),
        })
    }
}

impl View {
    pub(in crate::store) async fn lock(&self, key: &LockKey) -> Result<Seen<Option<Lock>>, StoreError> {
        // The clock first: a row that was read before it may have ended by then and been renewed in between.
        let now = self.now();
        let row = sqlx::query("SELECT * FROM file_locks WHERE lock_key = ?1")
            .bind(key.as_str())
            .fetch_optional(self.pool())
            .await?;
        Ok(Seen { what: row.as_ref().map(read_lock).transpose()?, now })
    }

    pub(in crate::store) async fn locks(&self, query: &LockList) -> Result<Page<Lock>, StoreError> {
        let sql = "SELECT * FROM file_locks
                   WHERE expires_at > ?1 AND (?2 IS NULL OR agent_id = ?2)
                     AND (?3 IS NULL OR substr(lock_key, 1, length(?3)) = ?3)
                     AND (?4 IS NULL OR lock_key IN (SELECT value FROM json_each(?4)))
                   ORDER BY lock_key LIMIT ?5";
        let rows = sqlx::query(sql)
            .bind(self.now().as_micros())
            .bind(&query.agent_id)
            .bind(&query.prefix)
            .bind(&query.file_paths)
            .bind(query.limit.saturating_add(1))
            .fetch_all(self.lists())
            .await?;
        let locks = rows.iter().map(read_lock).collect::<Result<Vec<_>, _>>()?;
        Ok(Page::cut(locks, query.limit))
    }
}
