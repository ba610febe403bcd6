//! Components and their activations in PostgreSQL.

use sqlx::Row;

use super::body::{Body, Unreadable};
use super::call::Call;
use super::decision::{Args, call};
use super::view::View;
use crate::command::policy::{ComponentActivate, ComponentActivated};
use crate::store::{Activation, StoreError};

impl Call for ComponentActivate {
    const SQL: &'static str = call!("component_activate", "$32, $33, $34::json");

    fn bind<'q>(&self, args: Args<'q>) -> Args<'q> {
        args.bind(&self.digest).bind(&*self.bytes).bind(&self.manifest)
    }

    fn read(self, body: &Body) -> Result<ComponentActivated, Unreadable> {
        Ok(ComponentActivated { epoch: body.int("epoch")?, digest: self.digest })
    }
}

impl View {
    pub(in crate::store) async fn activation(&self) -> Result<Option<Activation>, StoreError> {
        let sql = "SELECT v.epoch, v.digest FROM portreeve.activations v
                   WHERE v.workspace = portreeve.current_workspace() ORDER BY v.epoch DESC LIMIT 1";
        let rows = self.fetch(|| sqlx::query(sql)).await?;
        let read = |row: &sqlx::postgres::PgRow| {
            Ok(Activation { epoch: row.try_get("epoch")?, digest: row.try_get("digest")? })
        };
        rows.first().map(read).transpose().map_err(|e: sqlx::Error| e.into())
    }

    pub(in crate::store) async fn component_bytes(&self, digest: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let sql = "SELECT c.bytes FROM portreeve.components c
                   WHERE c.workspace = portreeve.current_workspace() AND c.digest = $1";
        let rows = self.fetch_list(|| sqlx::query(sql).bind(digest)).await?;
        Ok(rows.first().map(|row| row.try_get("bytes")).transpose()?)
    }
}
