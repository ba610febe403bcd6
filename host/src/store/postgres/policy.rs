//! Components, which of them decides, and which is asked beside it, in PostgreSQL.

use serde_json::json;
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::body::{Body, Unreadable};
use super::call::Call;
use super::decision::{Args, call};
use super::view::View;
use crate::command::components::{
    ComponentActivate, ComponentActivated, ComponentShadow, ComponentShadowed, ComponentUpload, ComponentUploaded,
};
use crate::store::audit::kept;
use crate::store::{Activation, Page, ShadowChoice, StoreError, StoredComponent};

/// Components with the last time that each decided.
macro_rules! components {
    ($rest:literal) => {
        concat!(
            "SELECT c.digest, c.manifest::text AS manifest, length(c.bytes)::bigint AS bytes, c.stored_at, c.stored_by,
                    c.signed_by, c.signed_version, v.epoch, v.activated_at, v.activated_by
             FROM portreeve.components c LEFT JOIN portreeve.activations v
             ON v.workspace = c.workspace AND v.epoch = (SELECT max(last.epoch) FROM portreeve.activations last
                                                         WHERE last.workspace = c.workspace AND last.digest = c.digest)
             WHERE c.workspace = portreeve.current_workspace() ",
            $rest
        )
    };
}

impl Call for ComponentUpload {
    const SQL: &'static str = call!("component_upload", "$32, $33, $34::json, $35, $36, $37::json");

    fn bind<'q>(&self, args: Args<'q>) -> Args<'q> {
        let signed = self.signed();
        let args = args.bind(self.digest.clone()).bind(self.bytes.to_vec()).bind(self.manifest());
        let args = args.bind(signed.as_ref().map(|(by, _)| by.clone())).bind(signed.map(|(_, version)| version));
        // What the log keeps of the answer, but for the action, which the function knows.
        args.bind(kept(&json!(self.clone().uploaded("stored"))))
    }

    fn read(self, body: &Body) -> Result<ComponentUploaded, Unreadable> {
        Ok(self.uploaded(body.word("action", &["stored", "present"])?))
    }
}

impl Call for ComponentActivate {
    const SQL: &'static str = call!("component_activate", "$32, $33, $34, $35, $36::json");

    fn bind<'q>(&self, args: Args<'q>) -> Args<'q> {
        let (reason, detail) = self.refusal().unzip();
        args.bind(self.digest.clone()).bind(self.expected).bind(reason).bind(detail).bind(self.evidence().to_string())
    }

    fn read(self, body: &Body) -> Result<ComponentActivated, Unreadable> {
        let epoch = body.int("epoch")?;
        if body.flag("success")? {
            return Ok(self.activated(epoch));
        }
        Ok(self.refused(epoch, body.text("reason")?, body.text("detail")?))
    }
}

impl Call for ComponentShadow {
    const SQL: &'static str = call!("component_shadow", "$32, $33");

    fn bind<'q>(&self, args: Args<'q>) -> Args<'q> {
        args.bind(self.digest.clone()).bind(self.enabled)
    }

    fn read(self, body: &Body) -> Result<ComponentShadowed, Unreadable> {
        Ok(ComponentShadowed {
            success: body.flag("success")?,
            shadow: body.opt_text("shadow")?,
            reason: body.opt_text("reason")?,
        })
    }
}

fn activation(row: &PgRow) -> Result<Activation, sqlx::Error> {
    Ok(Activation { epoch: row.try_get("epoch")?, digest: row.try_get("digest")?, by: row.try_get("activated_by")? })
}

fn component(row: &PgRow) -> Result<StoredComponent, sqlx::Error> {
    Ok(StoredComponent {
        digest: row.try_get("digest")?,
        manifest: row.try_get("manifest")?,
        bytes: row.try_get("bytes")?,
        stored_at: row.try_get("stored_at")?,
        stored_by: row.try_get("stored_by")?,
        signed_by: row.try_get("signed_by")?,
        signed_version: row.try_get("signed_version")?,
        epoch: row.try_get("epoch")?,
        activated_at: row.try_get("activated_at")?,
        activated_by: row.try_get("activated_by")?,
    })
}

impl View {
    pub(in crate::store) async fn activation(&self) -> Result<Option<Activation>, StoreError> {
        Ok(self.activations(1).await?.pop())
    }

    pub(in crate::store) async fn activations(&self, limit: i64) -> Result<Vec<Activation>, StoreError> {
        let sql = "SELECT v.epoch, v.digest, v.activated_by FROM portreeve.activations v
                   WHERE v.workspace = portreeve.current_workspace() ORDER BY v.epoch DESC LIMIT $1";
        let rows = self.fetch(|| sqlx::query(sql).bind(limit)).await?;
        Ok(rows.iter().map(activation).collect::<Result<_, _>>()?)
    }

    pub(in crate::store) async fn signed_version_max(&self, signers: &[String]) -> Result<Option<i64>, StoreError> {
        let sql = "SELECT max(c.signed_version) AS version FROM portreeve.components c
                   WHERE c.workspace = portreeve.current_workspace() AND c.signed_by = ANY ($1) AND EXISTS (
                       SELECT 1 FROM portreeve.activations v WHERE v.workspace = c.workspace AND v.digest = c.digest)";
        let rows = self.fetch_list(|| sqlx::query(sql).bind(signers.to_vec())).await?;
        Ok(rows.first().map(|row| row.try_get::<Option<i64>, _>("version")).transpose()?.flatten())
    }

    pub(in crate::store) async fn shadow(&self) -> Result<Option<ShadowChoice>, StoreError> {
        let sql = "SELECT s.choice, s.digest FROM portreeve.component_shadows s
                   WHERE s.workspace = portreeve.current_workspace() ORDER BY s.choice DESC LIMIT 1";
        let rows = self.fetch_list(|| sqlx::query(sql)).await?;
        let read = |row: &PgRow| -> Result<ShadowChoice, sqlx::Error> {
            Ok(ShadowChoice { choice: row.try_get("choice")?, digest: row.try_get("digest")? })
        };
        Ok(rows.first().map(read).transpose()?)
    }

    pub(in crate::store) async fn components(&self, limit: i64) -> Result<Page<StoredComponent>, StoreError> {
        let sql = components!("ORDER BY v.epoch DESC NULLS LAST, c.stored_at DESC, c.digest LIMIT $1");
        let rows = self.fetch_list(|| sqlx::query(sql).bind(limit.saturating_add(1))).await?;
        let items = rows.iter().map(component).collect::<Result<_, _>>()?;
        Ok(Page::cut(items, limit))
    }

    pub(in crate::store) async fn component(&self, digest: &str) -> Result<Option<StoredComponent>, StoreError> {
        let sql = components!("AND c.digest = $1");
        let rows = self.fetch_list(|| sqlx::query(sql).bind(digest)).await?;
        Ok(rows.first().map(component).transpose()?)
    }

    pub(in crate::store) async fn component_bytes(&self, digest: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let sql = "SELECT c.bytes FROM portreeve.components c
                   WHERE c.workspace = portreeve.current_workspace() AND c.digest = $1";
        let rows = self.fetch_list(|| sqlx::query(sql).bind(digest)).await?;
        Ok(rows.first().map(|row| row.try_get("bytes")).transpose()?)
    }
}
