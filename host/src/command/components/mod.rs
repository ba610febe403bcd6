//! Components: store one, look at them, put one in force, ask one beside the one in force.

mod activate;
mod shadow;
mod upload;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

pub use activate::{ComponentActivate, ComponentActivated, EPOCH_MOVED};
pub use shadow::{ComponentReport, ComponentReported, ComponentShadow, ComponentShadowed, NOT_THE_SHADOW};
pub use upload::{COMPONENT_BYTES_MAX, ComponentUpload, ComponentUploaded};

use super::Listing;
use super::action::{Action, Lookout, Query, Subject};
use super::input::{Field, Input, Kind, LIMIT};
use crate::authn::Principal;
use crate::clock::Time;
use crate::engine::types::Target;
use crate::error::{Error, Result};
use crate::gate::Permit;
use crate::store::{StoredComponent, View};

const DIGEST: Field = Field::new("digest", Kind::Text(80), "`sha256:` and the digest of the component").required();

/// A digest as it is written: `sha256:` and 64 hexadecimal digits in small letters.
fn digest_in(input: &Input) -> Result<String> {
    let text = input.text("digest");
    let hex = text.strip_prefix("sha256:").unwrap_or_default();
    if hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)) {
        return Ok(text);
    }
    let msg = "a digest is `sha256:` and 64 hexadecimal digits in small letters, as `component_list` shows it";
    Err(Error::field("digest", "invalid_digest", msg))
}

async fn known(view: &View, digest: &str) -> Result<StoredComponent> {
    view.component(digest).await?.ok_or_else(|| unknown(digest))
}

fn unknown(digest: &str) -> Error {
    let msg = format!("there is no component `{digest}`; it has to be stored first");
    Error::field("digest", "unknown_component", msg)
}

/// What is stored of a component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ComponentEntry {
    /// What it is called.
    pub digest: String,
    /// The name in its bundle.
    pub name: String,
    /// The version in its bundle.
    pub version: String,
    /// Its size.
    pub bytes: i64,
    /// Whether it decides now.
    pub active: bool,
    /// Whether it is asked beside the one that decides.
    pub shadow: bool,
    /// The last epoch in which it decided.
    pub epoch: Option<i64>,
    /// Since when it decides, or began to for the last time.
    pub activated_at: Option<Time>,
    /// Who activated it then.
    pub activated_by: Option<String>,
    /// When it was stored.
    pub stored_at: Time,
    /// By whom.
    pub stored_by: String,
    /// Whose signature is over it, if it is signed.
    pub signed_by: Option<String>,
    /// The signature's version.
    pub signed_version: Option<i64>,
}

impl ComponentEntry {
    fn of(stored: StoredComponent, active: &str, shadow: Option<&str>) -> Self {
        let manifest: Value = serde_json::from_str(&stored.manifest).unwrap_or_default();
        let text = |name: &str| manifest.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        Self {
            active: stored.digest == active,
            shadow: Some(stored.digest.as_str()) == shadow,
            name: text("name"),
            version: text("version"),
            digest: stored.digest,
            bytes: stored.bytes,
            epoch: stored.epoch,
            activated_at: stored.activated_at,
            activated_by: stored.activated_by,
            stored_at: stored.stored_at,
            stored_by: stored.stored_by,
            signed_by: stored.signed_by,
            signed_version: stored.signed_version,
        }
    }
}

/// Lists the components that are stored.
#[derive(Debug, Clone)]
pub struct ComponentList {
    limit: i64,
}

/// Components.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ComponentListing {
    /// The components, the one that decided last first.
    pub components: Vec<ComponentEntry>,
    /// The epoch in force: what an activation expects.
    pub epoch: i64,
    #[serde(flatten)]
    #[expect(missing_docs, reason = "the same for every list")]
    pub listing: Listing,
}

impl Action for ComponentList {
    const NAME: &'static str = "component_list";
    const OPERATION: &'static str = "check_policy";
    const INPUT: &'static [Field] = &[LIMIT];
    type Output = ComponentListing;

    fn parse(input: &Input, _who: &Principal) -> Result<Self> {
        Ok(Self { limit: input.int("limit") })
    }

    async fn subject(&self, _at: Lookout<'_>) -> Result<Subject> {
        Ok(Subject::of(self.resource()))
    }

    fn resource(&self) -> Target {
        Target::Component(String::new())
    }
}

impl Query for ComponentList {
    async fn read(&self, at: Lookout<'_>, permit: &Permit<Self>) -> Result<ComponentListing> {
        let page = at.view.components(self.limit).await?;
        let shadow = at.view.shadow().await?.and_then(|choice| choice.digest);
        let active = at.component.digest();
        let entry = |stored| ComponentEntry::of(stored, active, shadow.as_deref());
        let listing = Listing::of(&page, "raise `limit` to see more");
        Ok(ComponentListing {
            components: page.items.into_iter().map(entry).collect(),
            epoch: permit.evidence().epoch,
            listing,
        })
    }
}

/// Shows one component.
#[derive(Debug, Clone)]
pub struct ComponentGet {
    digest: String,
}

/// A component, with what it says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ComponentFound {
    /// What is stored of it.
    #[serde(flatten)]
    pub component: ComponentEntry,
    /// What it says of itself.
    pub manifest: Value,
}

impl Action for ComponentGet {
    const NAME: &'static str = "component_get";
    const OPERATION: &'static str = "check_policy";
    const INPUT: &'static [Field] = &[DIGEST];
    type Output = ComponentFound;

    fn parse(input: &Input, _who: &Principal) -> Result<Self> {
        Ok(Self { digest: digest_in(input)? })
    }

    async fn subject(&self, _at: Lookout<'_>) -> Result<Subject> {
        Ok(Subject::of(self.resource()))
    }

    fn resource(&self) -> Target {
        Target::Component(self.digest.clone())
    }
}

impl Query for ComponentGet {
    async fn read(&self, at: Lookout<'_>, _permit: &Permit<Self>) -> Result<ComponentFound> {
        let stored = known(at.view, &self.digest).await?;
        let manifest = serde_json::from_str(&stored.manifest).unwrap_or_default();
        let shadow = at.view.shadow().await?.and_then(|choice| choice.digest);
        Ok(ComponentFound { component: ComponentEntry::of(stored, at.component.digest(), shadow.as_deref()), manifest })
    }
}
