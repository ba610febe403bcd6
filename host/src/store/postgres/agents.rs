//! Agents and keys in PostgreSQL.

use std::collections::HashMap;

use sqlx::Row;
use sqlx::postgres::PgRow;

use super::body::{Body, Unreadable};
use super::call::Call;
use super::decision::{Args, call};
use super::view::View;
use crate::authn::{AgentFacts, SYSTEM, StoredKey};
use crate::clock::Time;
use crate::command::agents::{
    AGENT_EXISTS, AGENT_NOT_FOUND, AgentChanged, AgentCreate, AgentCreated, AgentEntry, AgentKeyCreate,
    AgentKeyCreated, AgentKeyRevoke, AgentList, AgentProfile, AgentSuspend, KEY_EXISTS, KEY_NOT_FOUND, KEY_REVOKED,
    KeyDraft, KeyEntry, OWN_ACCOUNT, SYSTEM_AGENT,
};
use crate::store::{Page, StoreError};

fn read_facts(row: &PgRow) -> Result<AgentFacts, sqlx::Error> {
    Ok(AgentFacts {
        agent_id: row.try_get("agent_id")?,
        agent_type: row.try_get("agent_type")?,
        profile: row.try_get("profile")?,
        archetype: row.try_get("archetype")?,
        suspended: row.try_get::<Option<Time>, _>("suspended_at")?.is_some(),
        facts_version: row.try_get("facts_version")?,
    })
}

fn read_changed(body: &Body) -> Result<AgentChanged, Unreadable> {
    Ok(AgentChanged {
        success: body.flag("success")?,
        agent_id: body.text("agent_id")?,
        reason: body.opt_word("reason", &[AGENT_NOT_FOUND, KEY_NOT_FOUND, OWN_ACCOUNT, SYSTEM_AGENT])?,
    })
}

fn bind_key<'q>(args: Args<'q>, key: Option<&KeyDraft>) -> Args<'q> {
    args.bind(key.map(|key| &key.key_id))
        .bind(key.map(|key| &key.hashes.lookup))
        .bind(key.map(|key| &key.hashes.key_hash))
        .bind(key.and_then(|key| key.label.as_ref()))
}

impl Call for AgentCreate {
    const SQL: &'static str = call!("agent_create", "$32, $33, $34, $35, $36::uuid, $37, $38, $39");

    fn bind<'q>(&self, args: Args<'q>) -> Args<'q> {
        let args = args.bind(&self.agent_id).bind(&self.agent_type).bind(&self.profile).bind(&self.archetype);
        bind_key(args, self.key.as_ref())
    }

    fn read(self, body: &Body) -> Result<AgentCreated, Unreadable> {
        let success = body.flag("success")?;
        Ok(AgentCreated {
            success,
            agent_id: body.text("agent_id")?,
            agent_type: body.text("agent_type")?,
            profile: body.text("profile")?,
            key_id: body.opt_text("key_id")?,
            // The database never had it.
            key: self.key.filter(|_| success).and_then(|key| key.secret()),
            reason: body.opt_word("reason", &[AGENT_EXISTS])?,
        })
    }
}

impl Call for AgentKeyCreate {
    const SQL: &'static str = call!("agent_key_create", "$32, $33::uuid, $34, $35, $36");

    fn bind<'q>(&self, args: Args<'q>) -> Args<'q> {
        bind_key(args.bind(&self.agent_id), Some(&self.key))
    }

    fn read(self, body: &Body) -> Result<AgentKeyCreated, Unreadable> {
        let success = body.flag("success")?;
        Ok(AgentKeyCreated {
            success,
            agent_id: body.text("agent_id")?,
            key_id: body.opt_text("key_id")?,
            key: if success { self.key.secret() } else { None },
            reason: body.opt_word("reason", &[AGENT_NOT_FOUND, SYSTEM_AGENT, KEY_EXISTS, KEY_REVOKED])?,
        })
    }
}

impl Call for AgentKeyRevoke {
    const SQL: &'static str = call!("agent_key_revoke", "$32, $33::uuid");

    fn bind<'q>(&self, args: Args<'q>) -> Args<'q> {
        args.bind(&self.agent_id).bind(&self.key_id)
    }

    fn read(self, body: &Body) -> Result<AgentChanged, Unreadable> {
        read_changed(body)
    }
}

impl Call for AgentProfile {
    const SQL: &'static str = call!("agent_profile", "$32, $33");

    fn bind<'q>(&self, args: Args<'q>) -> Args<'q> {
        args.bind(&self.agent_id).bind(&self.profile)
    }

    fn read(self, body: &Body) -> Result<AgentChanged, Unreadable> {
        read_changed(body)
    }
}

impl Call for AgentSuspend {
    const SQL: &'static str = call!("agent_suspend", "$32, $33, $34");

    fn bind<'q>(&self, args: Args<'q>) -> Args<'q> {
        args.bind(&self.agent_id).bind(self.suspended).bind(&self.reason)
    }

    fn read(self, body: &Body) -> Result<AgentChanged, Unreadable> {
        read_changed(body)
    }
}

impl View {
    pub(in crate::store) async fn keys_by_lookup(&self, lookup: &[u8]) -> Result<Vec<StoredKey>, StoreError> {
        let begun = match self.facts().get(lookup) {
            Ok(keys) => return Ok(keys),
            Err(begun) => begun,
        };
        let sql = "SELECT k.key_id::text AS key_id, k.key_hash, a.agent_id, a.agent_type, a.profile, a.archetype,
                       a.suspended_at, a.facts_version
                   FROM portreeve.api_keys k JOIN portreeve.agents a USING (workspace, agent_id)
                   WHERE k.workspace = portreeve.current_workspace() AND k.lookup = $1 AND k.revoked_at IS NULL";
        let rows = self.fetch(|| sqlx::query(sql).bind(lookup)).await?;
        let read = |row: &PgRow| {
            Ok(StoredKey {
                key_id: row.try_get("key_id")?,
                key_hash: row.try_get("key_hash")?,
                facts: read_facts(row)?,
            })
        };
        let keys = rows.iter().map(read).collect::<Result<Vec<_>, sqlx::Error>>()?;
        self.facts().put(begun, lookup, &keys);
        Ok(keys)
    }

    pub(in crate::store) async fn facts_by_key_id(&self, key_id: &str) -> Result<Option<AgentFacts>, StoreError> {
        // Asked after a decision turned out stale.
        self.facts().forget_key(key_id);
        let sql = "SELECT a.* FROM portreeve.api_keys k JOIN portreeve.agents a USING (workspace, agent_id)
                   WHERE k.workspace = portreeve.current_workspace() AND k.key_id = $1::uuid AND k.revoked_at IS NULL";
        let rows = self.fetch(|| sqlx::query(sql).bind(key_id)).await?;
        Ok(rows.first().map(read_facts).transpose()?)
    }

    pub(in crate::store) async fn facts_by_agent(&self, agent_id: &str) -> Result<Option<AgentFacts>, StoreError> {
        self.facts().forget_agent(agent_id);
        let sql = "SELECT a.* FROM portreeve.agents a
                   WHERE a.workspace = portreeve.current_workspace() AND a.agent_id = $1";
        let rows = self.fetch(|| sqlx::query(sql).bind(agent_id)).await?;
        Ok(rows.first().map(read_facts).transpose()?)
    }

    pub(in crate::store) async fn is_repeat(&self, agent_id: &str, key: &str) -> Result<bool, StoreError> {
        let sql = "SELECT EXISTS (SELECT 1 FROM portreeve.idempotency_keys k
                                  WHERE k.workspace = portreeve.current_workspace() AND k.agent_id = $1 AND k.key = $2
                                    AND k.created_at > portreeve.clock_now() - interval '24 hours') AS is_repeat";
        Ok(self.fetch_one(|| sqlx::query(sql).bind(agent_id).bind(key)).await?.try_get("is_repeat")?)
    }

    pub(in crate::store) async fn agents(&self, query: &AgentList) -> Result<Page<AgentEntry>, StoreError> {
        let sql = "SELECT a.* FROM portreeve.agents a
                   WHERE a.workspace = portreeve.current_workspace() AND a.agent_id <> $1
                     AND ($2::text IS NULL OR a.agent_id = $2)
                   ORDER BY a.agent_id COLLATE \"C\" LIMIT $3";
        let most = query.limit.saturating_add(1);
        let rows = self.fetch_list(|| sqlx::query(sql).bind(SYSTEM).bind(&query.agent_id).bind(most)).await?;
        let facts = rows.iter().map(read_facts).collect::<Result<Vec<_>, _>>()?;
        let mut keys = self.keys_of(&facts.iter().map(|facts| facts.agent_id.as_str()).collect::<Vec<_>>()).await?;
        let mut agents = Vec::with_capacity(rows.len());
        for (row, facts) in rows.iter().zip(facts) {
            agents.push(AgentEntry {
                keys: keys.remove(&facts.agent_id).unwrap_or_default(),
                agent_id: facts.agent_id,
                agent_type: facts.agent_type,
                profile: facts.profile,
                archetype: facts.archetype,
                suspended: facts.suspended,
                suspended_reason: row.try_get("suspended_reason")?,
                facts_version: facts.facts_version,
                created_at: row.try_get("created_at")?,
                created_by: row.try_get("created_by")?,
            });
        }
        Ok(Page::cut(agents, query.limit))
    }

    async fn keys_of(&self, agent_ids: &[&str]) -> Result<HashMap<String, Vec<KeyEntry>>, StoreError> {
        let sql = "SELECT k.agent_id, k.key_id::text AS key_id, k.label, k.created_at, k.created_by, k.revoked_at
                   FROM portreeve.api_keys k
                   WHERE k.workspace = portreeve.current_workspace() AND k.agent_id = ANY ($1)
                   ORDER BY k.created_at, k.key_id";
        let mut keys = HashMap::<String, Vec<KeyEntry>>::new();
        for row in self.fetch_list(|| sqlx::query(sql).bind(agent_ids)).await? {
            let key = KeyEntry {
                key_id: row.try_get("key_id")?,
                label: row.try_get("label")?,
                created_at: row.try_get("created_at")?,
                created_by: row.try_get("created_by")?,
                revoked_at: row.try_get("revoked_at")?,
            };
            keys.entry(row.try_get("agent_id")?).or_default().push(key);
        }
        Ok(keys)
    }
}
