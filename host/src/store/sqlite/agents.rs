//! Agents and keys in SQLite.

use serde_json::json;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::tx::{Apply, Rejected, Tx};
use super::view::View;
use crate::authn::{AgentFacts, SYSTEM, StoredKey};
use crate::clock::Time;
use crate::command::agents::{
    AGENT_EXISTS, AGENT_NOT_FOUND, AgentChanged, AgentCreate, AgentCreated, AgentEntry, AgentKeyCreate,
    AgentKeyCreated, AgentKeyRevoke, AgentList, AgentProfile, AgentSuspend, KEY_EXISTS, KEY_NOT_FOUND, KEY_REVOKED,
    KeyDraft, KeyEntry, OWN_ACCOUNT, SYSTEM_AGENT,
};
use crate::gate::Permit;
use crate::store::{Page, StoreError};

fn read_facts(row: &SqliteRow) -> Result<AgentFacts, sqlx::Error> {
    Ok(AgentFacts {
        agent_id: row.try_get("agent_id")?,
        agent_type: row.try_get("agent_type")?,
        profile: row.try_get("profile")?,
        archetype: row.try_get("archetype")?,
        suspended: row.try_get::<Option<i64>, _>("suspended_at")?.is_some(),
        facts_version: row.try_get("facts_version")?,
    })
}

/// The agent that has a key.
struct Holder {
    key_id: String,
    agent_id: String,
    is_live: bool,
}

impl Tx<'_> {
    async fn key_insert(&mut self, agent_id: &str, key: &KeyDraft, by: &str) -> Result<(), sqlx::Error> {
        let sql = "INSERT INTO api_keys (key_id, agent_id, lookup, key_hash, label, created_at, created_by)
                   VALUES (?, ?, ?, ?, ?, ?, ?)";
        sqlx::query(sql)
            .bind(&key.key_id)
            .bind(agent_id)
            .bind(&key.hashes.lookup)
            .bind(&key.hashes.key_hash)
            .bind(&key.label)
            .bind(self.now().as_micros())
            .bind(by)
            .execute(&mut *self.conn)
            .await?;
        self.changed("api_keys", key.key_id.as_str(), "live");
        Ok(())
    }

    /// Who has a key already. One that was revoked keeps its row, so that it never comes back under another.
    async fn key_holder(&mut self, key: &KeyDraft) -> Result<Option<Holder>, sqlx::Error> {
        let sql = "SELECT key_id, agent_id, revoked_at IS NULL AS is_live FROM api_keys
                   WHERE lookup = ?1 AND key_hash = ?2 ORDER BY is_live DESC LIMIT 1";
        let hashes = &key.hashes;
        let row = sqlx::query(sql).bind(&hashes.lookup).bind(&hashes.key_hash).fetch_optional(&mut *self.conn).await?;
        let read = |row: SqliteRow| {
            Ok(Holder {
                key_id: row.try_get("key_id")?,
                agent_id: row.try_get("agent_id")?,
                is_live: row.try_get("is_live")?,
            })
        };
        row.map(read).transpose()
    }

    /// Why an agent may not be changed, if it may not. Whoever changes profiles and suspends is an admin; since it
    /// cannot do that to itself, one admin always remains.
    async fn agent_changeable_by(&mut self, by: &str, agent_id: &str) -> Result<Result<(), &'static str>, sqlx::Error> {
        if by == agent_id { Ok(Err(OWN_ACCOUNT)) } else { self.agent_changeable(agent_id).await }
    }

    /// Why an agent may not be changed, if it may not.
    async fn agent_changeable(&mut self, agent_id: &str) -> Result<Result<(), &'static str>, sqlx::Error> {
        if agent_id == SYSTEM {
            return Ok(Err(SYSTEM_AGENT));
        }
        let sql = "SELECT count(*) FROM agents WHERE agent_id = ?1";
        let found: i64 = sqlx::query_scalar(sql).bind(agent_id).fetch_one(&mut *self.conn).await?;
        Ok(if found > 0 { Ok(()) } else { Err(AGENT_NOT_FOUND) })
    }

    /// Moves the facts version: decisions made before no longer commit.
    async fn facts_moved(&mut self, agent_id: &str) -> Result<(), sqlx::Error> {
        let sql = "UPDATE agents SET facts_version = facts_version + 1 WHERE agent_id = ?1 RETURNING facts_version";
        let version: i64 = sqlx::query_scalar(sql).bind(agent_id).fetch_one(&mut *self.conn).await?;
        self.changed("agents", agent_id, json!({ "facts_version": version }));
        Ok(())
    }
}

impl Apply for AgentCreate {
    async fn apply(self, tx: &mut Tx<'_>, permit: &Permit<Self>) -> Result<AgentCreated, Rejected> {
        let sql = "INSERT INTO agents (agent_id, agent_type, profile, archetype, created_at, created_by)
                   VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (agent_id) DO NOTHING";
        let inserted = sqlx::query(sql)
            .bind(&self.agent_id)
            .bind(&self.agent_type)
            .bind(&self.profile)
            .bind(&self.archetype)
            .bind(tx.now().as_micros())
            .bind(permit.who().agent_id())
            .execute(&mut *tx.conn)
            .await?
            .rows_affected();
        let answer = AgentCreated {
            success: inserted > 0,
            agent_id: self.agent_id,
            agent_type: self.agent_type,
            profile: self.profile,
            key_id: None,
            key: None,
            reason: None,
        };
        if inserted == 0 {
            return Ok(AgentCreated { reason: Some(AGENT_EXISTS), ..answer });
        }
        tx.changed("agents", answer.agent_id.as_str(), json!({"facts_version": 1}));
        let Some(key) = self.key else { return Ok(answer) };
        tx.key_insert(&answer.agent_id, &key, permit.who().agent_id()).await?;
        Ok(AgentCreated { key_id: Some(key.key_id.clone()), key: key.secret(), ..answer })
    }
}

impl Apply for AgentKeyCreate {
    async fn apply(self, tx: &mut Tx<'_>, permit: &Permit<Self>) -> Result<AgentKeyCreated, Rejected> {
        let refused = |agent_id, reason| AgentKeyCreated {
            success: false,
            agent_id,
            key_id: None,
            key: None,
            reason: Some(reason),
        };
        if let Err(reason) = tx.agent_changeable(&self.agent_id).await? {
            return Ok(refused(self.agent_id, reason));
        }
        if let Some(holder) = tx.key_holder(&self.key).await? {
            let reason = if holder.is_live { KEY_EXISTS } else { KEY_REVOKED };
            let answer = refused(holder.agent_id, reason);
            return Ok(AgentKeyCreated { key_id: Some(holder.key_id), ..answer });
        }
        tx.key_insert(&self.agent_id, &self.key, permit.who().agent_id()).await?;
        Ok(AgentKeyCreated {
            success: true,
            agent_id: self.agent_id,
            key_id: Some(self.key.key_id.clone()),
            key: self.key.secret(),
            reason: None,
        })
    }
}

impl Apply for AgentKeyRevoke {
    async fn apply(self, tx: &mut Tx<'_>, permit: &Permit<Self>) -> Result<AgentChanged, Rejected> {
        let sql = "UPDATE api_keys SET revoked_at = ?3, revoked_by = ?4
                   WHERE agent_id = ?1 AND key_id = ?2 AND revoked_at IS NULL";
        let revoked = sqlx::query(sql)
            .bind(&self.agent_id)
            .bind(&self.key_id)
            .bind(tx.now().as_micros())
            .bind(permit.who().agent_id())
            .execute(&mut *tx.conn)
            .await?
            .rows_affected();
        if revoked == 0 {
            return Ok(AgentChanged::refused(&self.agent_id, KEY_NOT_FOUND));
        }
        tx.changed("api_keys", self.key_id.as_str(), "revoked");
        tx.facts_moved(&self.agent_id).await?;
        Ok(AgentChanged::done(&self.agent_id))
    }
}

impl Apply for AgentProfile {
    async fn apply(self, tx: &mut Tx<'_>, permit: &Permit<Self>) -> Result<AgentChanged, Rejected> {
        if let Err(reason) = tx.agent_changeable_by(permit.who().agent_id(), &self.agent_id).await? {
            return Ok(AgentChanged::refused(&self.agent_id, reason));
        }
        sqlx::query("UPDATE agents SET profile = ?2 WHERE agent_id = ?1")
            .bind(&self.agent_id)
            .bind(&self.profile)
            .execute(&mut *tx.conn)
            .await?;
        tx.facts_moved(&self.agent_id).await?;
        Ok(AgentChanged::done(&self.agent_id))
    }
}

impl Apply for AgentSuspend {
    async fn apply(self, tx: &mut Tx<'_>, permit: &Permit<Self>) -> Result<AgentChanged, Rejected> {
        if let Err(reason) = tx.agent_changeable_by(permit.who().agent_id(), &self.agent_id).await? {
            return Ok(AgentChanged::refused(&self.agent_id, reason));
        }
        let at = self.suspended.then(|| tx.now().as_micros());
        sqlx::query("UPDATE agents SET suspended_at = ?2, suspended_reason = ?3 WHERE agent_id = ?1")
            .bind(&self.agent_id)
            .bind(at)
            .bind(self.reason.filter(|_| self.suspended))
            .execute(&mut *tx.conn)
            .await?;
        tx.facts_moved(&self.agent_id).await?;
        Ok(AgentChanged::done(&self.agent_id))
    }
}

impl View {
    pub(in crate::store) async fn keys_by_lookup(&self, lookup: &[u8]) -> Result<Vec<StoredKey>, StoreError> {
        let sql = "SELECT k.key_id, k.key_hash, a.agent_id, a.agent_type, a.profile, a.archetype, a.suspended_at,
                       a.facts_version
                   FROM api_keys k JOIN agents a USING (agent_id) WHERE k.lookup = ?1 AND k.revoked_at IS NULL";
        let rows = sqlx::query(sql).bind(lookup).fetch_all(self.pool()).await?;
        let read = |row: &SqliteRow| {
            Ok(StoredKey {
                key_id: row.try_get("key_id")?,
                key_hash: row.try_get("key_hash")?,
                facts: read_facts(row)?,
            })
        };
        Ok(rows.iter().map(read).collect::<Result<Vec<_>, sqlx::Error>>()?)
    }

    pub(in crate::store) async fn facts_by_key_id(&self, key_id: &str) -> Result<Option<AgentFacts>, StoreError> {
        let sql = "SELECT a.* FROM api_keys k JOIN agents a USING (agent_id)
                   WHERE k.key_id = ?1 AND k.revoked_at IS NULL";
        let row = sqlx::query(sql).bind(key_id).fetch_optional(self.pool()).await?;
        Ok(row.as_ref().map(read_facts).transpose()?)
    }

    pub(in crate::store) async fn facts_by_agent(&self, agent_id: &str) -> Result<Option<AgentFacts>, StoreError> {
        let sql = "SELECT * FROM agents WHERE agent_id = ?1";
        let row = sqlx::query(sql).bind(agent_id).fetch_optional(self.pool()).await?;
        Ok(row.as_ref().map(read_facts).transpose()?)
    }

    pub(in crate::store) async fn agents(&self, query: &AgentList) -> Result<Page<AgentEntry>, StoreError> {
        let sql = "SELECT * FROM agents WHERE agent_id <> ?1 AND (?2 IS NULL OR agent_id = ?2)
                   ORDER BY agent_id LIMIT ?3";
        let rows = sqlx::query(sql)
            .bind(SYSTEM)
            .bind(&query.agent_id)
            .bind(query.limit.saturating_add(1))
            .fetch_all(self.lists())
            .await?;
        let mut agents = Vec::with_capacity(rows.len());
        for row in &rows {
            let facts = read_facts(row)?;
            agents.push(AgentEntry {
                keys: self.keys_of(&facts.agent_id).await?,
                agent_id: facts.agent_id,
                agent_type: facts.agent_type,
                profile: facts.profile,
                archetype: facts.archetype,
                suspended: facts.suspended,
                suspended_reason: row.try_get("suspended_reason")?,
                facts_version: facts.facts_version,
                created_at: Time::from_micros(row.try_get("created_at")?),
                created_by: row.try_get("created_by")?,
            });
        }
        Ok(Page::cut(agents, query.limit))
    }

    async fn keys_of(&self, agent_id: &str) -> Result<Vec<KeyEntry>, StoreError> {
        let sql = "SELECT * FROM api_keys WHERE agent_id = ?1 ORDER BY created_at, key_id";
        let rows = sqlx::query(sql).bind(agent_id).fetch_all(self.lists()).await?;
        let read = |row: &SqliteRow| {
            Ok(KeyEntry {
                key_id: row.try_get("key_id")?,
                label: row.try_get("label")?,
                created_at: Time::from_micros(row.try_get("created_at")?),
                created_by: row.try_get("created_by")?,
                revoked_at: row.try_get::<Option<i64>, _>("revoked_at")?.map(Time::from_micros),
            })
        };
        Ok(rows.iter().map(read).collect::<Result<Vec<_>, sqlx::Error>>()?)
    }
}
