//! Components, which of them decides, and which is asked beside it, in SQLite.

use serde_json::json;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::tx::{Apply, Rejected, Tx};
use super::view::View;
use crate::clock::Time;
use crate::command::components::{
    ComponentActivate, ComponentActivated, ComponentShadow, ComponentShadowed, ComponentUpload, ComponentUploaded,
    EPOCH_MOVED, NOT_THE_SHADOW,
};
use crate::gate::Permit;
use crate::store::{Activation, Page, ShadowChoice, StoreError, StoredComponent};

const ACTIVATIONS: &str = "SELECT epoch, digest, activated_by FROM activations ORDER BY epoch DESC LIMIT ?1";

const SHADOW: &str = "SELECT choice, digest FROM component_shadows ORDER BY choice DESC LIMIT 1";

/// Components with the last time that each decided.
macro_rules! components {
    ($rest:literal) => {
        concat!(
            "SELECT c.digest, c.manifest, length(c.bytes) AS bytes, c.stored_at, c.stored_by, c.signed_by, c.signed_version,
                    v.epoch, v.activated_at, v.activated_by
             FROM components c LEFT JOIN activations v
             ON v.epoch = (SELECT max(last.epoch) FROM activations last WHERE last.digest = c.digest) ",
            $rest
        )
    };
}

impl Apply for ComponentUpload {
    async fn apply(self, tx: &mut Tx<'_>, permit: &Permit<Self>) -> Result<ComponentUploaded, Rejected> {
        let signed = self.signed();
        let stored = sqlx::query(
            "INSERT INTO components (digest, bytes, manifest, stored_at, stored_by, signed_by, signed_version)
             VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (digest) DO NOTHING",
        )
        .bind(&self.digest)
        .bind(&*self.bytes)
        .bind(self.manifest())
        .bind(tx.now().as_micros())
        .bind(permit.who().agent_id())
        .bind(signed.as_ref().map(|(by, _)| by))
        .bind(signed.as_ref().map(|(_, version)| version))
        .execute(&mut *tx.conn)
        .await?;
        if stored.rows_affected() == 0 {
            return Ok(self.uploaded("present"));
        }
        tx.changed("components", self.digest.as_str(), "stored");
        Ok(self.uploaded("stored"))
    }
}

impl Apply for ComponentActivate {
    async fn apply(self, tx: &mut Tx<'_>, permit: &Permit<Self>) -> Result<ComponentActivated, Rejected> {
        let now: i64 =
            sqlx::query_scalar("SELECT coalesce(max(epoch), 0) FROM activations").fetch_one(&mut *tx.conn).await?;
        if let Some((reason, detail)) = self.refusal() {
            return Ok(self.refused(now, reason, detail));
        }
        if let Some(expected) = self.expected.filter(|expected| *expected != now) {
            return Ok(self.refused(now, EPOCH_MOVED.to_owned(), Self::moved(now, expected)));
        }
        let epoch: i64 = sqlx::query_scalar(
            "INSERT INTO activations (epoch, digest, activated_at, activated_by)
             VALUES ((SELECT coalesce(max(epoch), 0) + 1 FROM activations), ?, ?, ?) RETURNING epoch",
        )
        .bind(&self.digest)
        .bind(tx.now().as_micros())
        .bind(permit.who().agent_id())
        .fetch_one(&mut *tx.conn)
        .await?;
        tx.changed("activations", self.digest.as_str(), epoch);
        Ok(self.activated(epoch))
    }
}

impl Apply for ComponentShadow {
    async fn apply(self, tx: &mut Tx<'_>, permit: &Permit<Self>) -> Result<ComponentShadowed, Rejected> {
        let current = sqlx::query(SHADOW).fetch_optional(&mut *tx.conn).await?;
        let current = current.as_ref().map(choice).transpose()?;
        let last = current.as_ref().map_or(0, |current| current.choice);
        let shadow = current.and_then(|current| current.digest);
        let is_it = shadow.as_deref() == Some(self.digest.as_str());
        if !self.enabled && !is_it {
            return Ok(ComponentShadowed { success: false, shadow, reason: Some(NOT_THE_SHADOW.to_owned()) });
        }
        if self.enabled && is_it {
            return Ok(ComponentShadowed { success: true, shadow, reason: None });
        }
        let wanted = self.enabled.then_some(self.digest);
        let next = last.saturating_add(1);
        sqlx::query("INSERT INTO component_shadows (choice, digest, chosen_at, chosen_by) VALUES (?, ?, ?, ?)")
            .bind(next)
            .bind(&wanted)
            .bind(tx.now().as_micros())
            .bind(permit.who().agent_id())
            .execute(&mut *tx.conn)
            .await?;
        tx.changed("component_shadows", next.to_string(), wanted.clone().unwrap_or_default());
        Ok(ComponentShadowed { success: true, shadow: wanted, reason: None })
    }
}

fn choice(row: &SqliteRow) -> Result<ShadowChoice, sqlx::Error> {
    Ok(ShadowChoice { choice: row.try_get("choice")?, digest: row.try_get("digest")? })
}

fn activation(row: &SqliteRow) -> Result<Activation, sqlx::Error> {
    Ok(Activation { epoch: row.try_get("epoch")?, digest: row.try_get("digest")?, by: row.try_get("activated_by")? })
}

fn component(row: &SqliteRow) -> Result<StoredComponent, sqlx::Error> {
    Ok(StoredComponent {
        digest: row.try_get("digest")?,
        manifest: row.try_get("manifest")?,
        bytes: row.try_get("bytes")?,
        stored_at: Time::from_micros(row.try_get("stored_at")?),
        stored_by: row.try_get("stored_by")?,
        signed_by: row.try_get("signed_by")?,
        signed_version: row.try_get("signed_version")?,
        epoch: row.try_get("epoch")?,
        activated_at: row.try_get::<Option<i64>, _>("activated_at")?.map(Time::from_micros),
        activated_by: row.try_get("activated_by")?,
    })
}

impl View {
    pub(in crate::store) async fn activation(&self) -> Result<Option<Activation>, StoreError> {
        Ok(self.activations(1).await?.pop())
    }

    pub(in crate::store) async fn activations(&self, limit: i64) -> Result<Vec<Activation>, StoreError> {
        let rows = sqlx::query(ACTIVATIONS).bind(limit).fetch_all(self.pool()).await?;
        Ok(rows.iter().map(activation).collect::<Result<_, _>>()?)
    }

    pub(in crate::store) async fn signed_version_max(&self, signers: &[String]) -> Result<Option<i64>, StoreError> {
        let sql = "SELECT max(c.signed_version) FROM components c
                   WHERE c.signed_by IN (SELECT value FROM json_each(?1))
                     AND EXISTS (SELECT 1 FROM activations v WHERE v.digest = c.digest)";
        Ok(sqlx::query_scalar(sql).bind(json!(signers).to_string()).fetch_one(self.pool()).await?)
    }

    pub(in crate::store) async fn shadow(&self) -> Result<Option<ShadowChoice>, StoreError> {
        let row = sqlx::query(SHADOW).fetch_optional(self.pool()).await?;
        Ok(row.as_ref().map(choice).transpose()?)
    }

    pub(in crate::store) async fn components(&self, limit: i64) -> Result<Page<StoredComponent>, StoreError> {
        let sql = components!("ORDER BY v.epoch DESC NULLS LAST, c.stored_at DESC, c.digest LIMIT ?1");
        let rows = sqlx::query(sql).bind(limit.saturating_add(1)).fetch_all(self.pool()).await?;
        let items = rows.iter().map(component).collect::<Result<_, _>>()?;
        Ok(Page::cut(items, limit))
    }

    pub(in crate::store) async fn component(&self, digest: &str) -> Result<Option<StoredComponent>, StoreError> {
        let sql = components!("WHERE c.digest = ?1");
        let row = sqlx::query(sql).bind(digest).fetch_optional(self.pool()).await?;
        Ok(row.as_ref().map(component).transpose()?)
    }

    pub(in crate::store) async fn component_bytes(&self, digest: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let sql = "SELECT bytes FROM components WHERE digest = ?1";
        Ok(sqlx::query_scalar(sql).bind(digest).fetch_optional(self.pool()).await?)
    }
}
