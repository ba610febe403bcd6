//! Storing a component.

use std::sync::{Arc, OnceLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};

use crate::authn::Principal;
use crate::command::action::{Action, Command, Lookout, Subject};
use crate::command::input::{AGENT_ID, AGENT_TYPE, Field, Input, Kind};
use crate::crash;
use crate::engine::types::{Manifest, Target};
use crate::engine::{PolicyComponent, digest_of};
use crate::error::{Error, Result};
use crate::signature::Signature;
use crate::vetting::Vetting;

/// Largest component that is stored.
pub const COMPONENT_BYTES_MAX: usize = 48 << 20;

/// Stores a component, after it was looked at. It decides nothing by that.
#[derive(Debug, Clone)]
pub struct ComponentUpload {
    /// Digest of the bytes.
    pub digest: String,
    /// The bytes.
    pub bytes: Arc<[u8]>,
    /// What makes sure that it is fit; none where that was done already.
    vetting: Option<Arc<Vetting>>,
    admitted: Arc<OnceLock<Arc<PolicyComponent>>>,
}

impl ComponentUpload {
    /// A component that was loaded and tried already.
    #[must_use]
    pub(crate) fn of(component: &Arc<PolicyComponent>) -> Self {
        Self {
            digest: component.digest().to_owned(),
            bytes: Arc::clone(component.bytes()),
            vetting: None,
            admitted: Arc::new(OnceLock::from(Arc::clone(component))),
        }
    }

    /// Has it looked at once policy allowed to store it.
    #[must_use]
    pub(in crate::command) fn vetted_by(mut self, vetting: &Arc<Vetting>) -> Self {
        self.vetting = Some(Arc::clone(vetting));
        self
    }

    /// What the audit log keeps of the input.
    pub(in crate::command) fn parameters(&self) -> Value {
        json!({"digest": self.digest, "bytes": self.bytes.len()})
    }

    /// What the component says of itself, as JSON text.
    #[must_use]
    pub fn manifest(&self) -> String {
        let manifest = self.admitted.get().map(|component| serde_json::to_string(component.manifest()));
        manifest.and_then(|text| text.ok()).unwrap_or_default()
    }

    /// Whose signature is over it, and under which version; whether anybody trusts it is asked when it is activated.
    #[must_use]
    pub fn signed(&self) -> Option<(String, i64)> {
        let (by, version) = Signature::signer(&self.bytes)?;
        Some((by, i64::try_from(version).ok()?))
    }

    /// The answer.
    #[must_use]
    pub fn uploaded(self, action: &'static str) -> ComponentUploaded {
        let signed = self.signed();
        let manifest = self.admitted.get().map(|component| component.manifest().clone());
        ComponentUploaded {
            success: true,
            digest: self.digest,
            action,
            bytes: self.bytes.len(),
            signed_by: signed.as_ref().map(|(by, _)| by.clone()),
            signed_version: signed.map(|(_, version)| version),
            manifest,
        }
    }
}

/// What storing a component answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ComponentUploaded {
    /// Whether it is stored now.
    pub success: bool,
    /// What it is called from now on.
    pub digest: String,
    /// `stored`, or `present` where it was stored before.
    pub action: &'static str,
    /// Its size.
    pub bytes: usize,
    /// Whose signature is over it, if it is signed.
    pub signed_by: Option<String>,
    /// The signature's version.
    pub signed_version: Option<i64>,
    /// What it says of itself.
    pub manifest: Option<Manifest>,
}

impl Action for ComponentUpload {
    const NAME: &'static str = "component_upload";
    const OPERATION: &'static str = "upload_component";
    const INPUT: &'static [Field] = &[
        Field::new(
            "component",
            // In base64.
            Kind::Text(COMPONENT_BYTES_MAX / 3 * 4 + 4),
            "The component's bytes in base64; or send the bytes themselves as `application/wasm`",
        )
        .required()
        .secret(),
        AGENT_ID,
        AGENT_TYPE,
    ];
    type Output = ComponentUploaded;

    fn parse(input: &Input, _who: &Principal) -> Result<Self> {
        let bytes = STANDARD.decode(input.text("component").trim()).map_err(|error| {
            let msg = format!("the component's bytes are expected in base64: {error}");
            Error::field("component", "invalid_base64", msg)
        })?;
        let (digest, bytes) = (digest_of(&bytes), bytes.into());
        Ok(Self { digest, bytes, vetting: None, admitted: Arc::default() })
    }

    async fn subject(&self, _at: Lookout<'_>) -> Result<Subject> {
        Ok(Subject::of(self.resource()))
    }

    fn resource(&self) -> Target {
        Target::Component(self.digest.clone())
    }
}

impl Command for ComponentUpload {
    async fn check(&self, _at: Lookout<'_>) -> Result<()> {
        if self.admitted.get().is_some() {
            return Ok(());
        }
        // Without anybody to look at it, it is not stored.
        let Some(vetting) = &self.vetting else {
            tracing::error!("a component came without anybody to look at it");
            return Err(Error::PolicyUnavailable { code: "not_examined".to_owned(), decision_id: String::new() });
        };
        let component = vetting.admit(Arc::clone(&self.bytes)).await.map_err(|flaw| {
            if flaw.is_ours() {
                tracing::error!(error = %flaw, "a component could not be looked at");
                return Error::PolicyUnavailable { code: flaw.code().to_owned(), decision_id: String::new() };
            }
            Error::field("component", flaw.code(), flaw.to_string())
        })?;
        crash::point!("component.admitted");
        // Looked at once, however often it is decided.
        drop(self.admitted.set(component));
        Ok(())
    }

    fn is_refused(_output: &ComponentUploaded) -> bool {
        false
    }
}
