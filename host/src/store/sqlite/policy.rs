//! Components and their activations in SQLite.

use sqlx::Row;

use super::tx::{Apply, Rejected, Tx};
use super::view::View;
use crate::command::policy::{ComponentActivate, ComponentActivated};
use crate::gate::Permit;
use crate::store::{Activation, StoreError};

impl Apply for ComponentActivate {
    async fn apply(self, tx: &mut Tx<'_>, permit: &Permit<Self>) -> Result<ComponentActivated, Rejected> {
        let by = permit.who().agent_id();
        let stored = sqlx::query(
            "INSERT INTO components (digest, bytes, manifest, stored_at, stored_by) VALUES (?, ?, ?, ?, ?)
             ON CONFLICT (digest) DO NOTHING",
        )
        .bind(&self.digest)
        .bind(&*self.bytes)
        .bind(&self.manifest)
        .bind(tx.now().as_micros())
        .bind(by)
        .execute(&mut *tx.conn)
        .await?;
        if stored.rows_affected() > 0 {
            tx.changed("components", self.digest.as_str(), "stored");
        }
        let epoch: i64 = sqlx::query_scalar(
            "INSERT INTO activations (epoch, digest, activated_at, activated_by)
             VALUES ((SELECT coalesce(max(epoch), 0) + 1 FROM activations), ?, ?, ?) RETURNING epoch",
        )
        .bind(&self.digest)
        .bind(tx.now().as_micros())
        .bind(by)
        .fetch_one(&mut *tx.conn)
        .await?;
        tx.changed("activations", self.digest.as_str(), epoch);
        Ok(ComponentActivated { epoch, digest: self.digest })
    }
}

impl View {
    pub(in crate::store) async fn activation(&self) -> Result<Option<Activation>, StoreError> {
        let sql = "SELECT epoch, digest FROM activations ORDER BY epoch DESC LIMIT 1";
        let row = sqlx::query(sql).fetch_optional(self.pool()).await?;
        let read = |row: sqlx::sqlite::SqliteRow| {
            Ok(Activation { epoch: row.try_get("epoch")?, digest: row.try_get("digest")? })
        };
        row.map(read).transpose().map_err(|e: sqlx::Error| e.into())
    }

    pub(in crate::store) async fn component_bytes(&self, digest: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let sql = "SELECT bytes FROM components WHERE digest = ?1";
        Ok(sqlx::query_scalar(sql).bind(digest).fetch_optional(self.pool()).await?)
    }
}
