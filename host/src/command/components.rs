//! Components: store one, look at them, put one in force, ask one beside the one in force.

use std::sync::{Arc, OnceLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};

use super::Listing;
use super::action::{Action, Command, Lookout, Query, Subject, Wakes};
use super::input::{AGENT_ID, AGENT_TYPE, Field, Input, Kind, LIMIT, Preset};
use crate::authn::Principal;
use crate::clock::Time;
use crate::engine::types::{Manifest, Target};
use crate::engine::{PolicyComponent, digest_of};
use crate::error::{Error, Result};
use crate::gate::{Permit, ShadowSeen};
use crate::signature::Signature;
use crate::store::{StoredComponent, View};
use crate::vetting::{Refused, Tested, Vetting};

/// Largest component that is stored.
pub const COMPONENT_BYTES_MAX: usize = 48 << 20;

/// Business reason: another activation came first.
pub const EPOCH_MOVED: &str = "epoch_moved";
/// Business reason: that component is not the one beside the policy in force.
pub const NOT_THE_SHADOW: &str = "not_the_shadow";

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

// ------------------------------------------------------------------ upload

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
    pub(super) fn vetted_by(mut self, vetting: &Arc<Vetting>) -> Self {
        self.vetting = Some(Arc::clone(vetting));
        self
    }

    /// What the audit log keeps of the input.
    pub(super) fn parameters(&self) -> Value {
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
        let Some(vetting) = self.vetting.as_ref().filter(|_| self.admitted.get().is_none()) else { return Ok(()) };
        let component = vetting.admit(Arc::clone(&self.bytes)).await.map_err(|flaw| {
            if flaw.is_ours() {
                tracing::error!(error = %flaw, "a component could not be looked at");
                return Error::PolicyUnavailable { code: flaw.code().to_owned(), decision_id: String::new() };
            }
            Error::field("component", flaw.code(), flaw.to_string())
        })?;
        // Looked at once, however often it is decided.
        drop(self.admitted.set(component));
        Ok(())
    }

    fn is_refused(_output: &ComponentUploaded) -> bool {
        false
    }
}

// -------------------------------------------------------------------- look

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

// ---------------------------------------------------------------- activate

/// Makes a stored component the one that decides, under the next epoch.
#[derive(Debug, Clone)]
pub struct ComponentActivate {
    /// Digest of the component.
    pub digest: String,
    /// The epoch that has to be in force; any where the service itself activates.
    pub expected: Option<i64>,
    accept_changes: u64,
    vetting: Option<Arc<Vetting>>,
    /// What the gates said, for the component in force that they compared it with.
    weighed: Arc<std::sync::Mutex<Option<Weight>>>,
}

/// What the gates said.
#[derive(Debug, Clone)]
struct Weight {
    against: String,
    outcome: Result<Value, Refused>,
}

impl ComponentActivate {
    /// An activation by the service itself, of a component that was tried.
    #[must_use]
    pub(crate) fn of_start(component: &PolicyComponent, tested: &Tested, why: &Value) -> Self {
        let evidence = json!({"tests": tested, "at_start": true, "why": why});
        let weight = Weight { against: String::new(), outcome: Ok(evidence) };
        Self {
            digest: component.digest().to_owned(),
            expected: None,
            accept_changes: 0,
            vetting: None,
            weighed: Arc::new(std::sync::Mutex::new(Some(weight))),
        }
    }

    /// Has it weighed by the service's gates once policy allowed to activate it.
    #[must_use]
    pub(super) fn vetted_by(mut self, vetting: &Arc<Vetting>) -> Self {
        self.vetting = Some(Arc::clone(vetting));
        self
    }

    fn weight(&self) -> Option<Weight> {
        self.weighed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// The gate's refusal, if there is one: code and words.
    #[must_use]
    pub fn refusal(&self) -> Option<(String, String)> {
        match self.weight() {
            // Nobody weighed it: it does not pass.
            None => Some(("not_weighed".to_owned(), "the component was not looked at".to_owned())),
            Some(Weight { outcome: Ok(_), .. }) => None,
            Some(Weight { outcome: Err(refused), .. }) => Some((refused.reason.to_owned(), refused.detail)),
        }
    }

    /// What was found on the way.
    #[must_use]
    pub fn evidence(&self) -> Value {
        self.weight().map_or(Value::Null, |weight| match weight.outcome {
            Ok(evidence) => evidence,
            Err(refused) => refused.evidence,
        })
    }

    /// The answer when it stays as it is.
    #[must_use]
    pub fn refused(self, epoch: i64, reason: String, detail: String) -> ComponentActivated {
        let evidence = self.evidence();
        ComponentActivated {
            success: false,
            epoch,
            digest: self.digest,
            reason: Some(reason),
            detail: Some(detail),
            evidence,
        }
    }

    /// The answer when it decides from now on.
    #[must_use]
    pub fn activated(self, epoch: i64) -> ComponentActivated {
        let evidence = self.evidence();
        ComponentActivated { success: true, epoch, digest: self.digest, reason: None, detail: None, evidence }
    }

    /// What is said when another epoch is in force than the one that was expected.
    #[must_use]
    pub fn moved(epoch: i64, expected: i64) -> String {
        format!("epoch {epoch} is in force, not {expected}: look at what was activated meanwhile")
    }
}

/// What an activation answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ComponentActivated {
    /// Whether the component decides from now on.
    pub success: bool,
    /// The epoch from now on; where it was refused, the one that stays.
    pub epoch: i64,
    /// The component that was to decide.
    pub digest: String,
    /// Why it does not, as a code.
    pub reason: Option<String>,
    /// Why it does not, in words.
    pub detail: Option<String>,
    /// What was found of it: tests, signature, comparison, replay. The audit log keeps it.
    pub evidence: Value,
}

impl Action for ComponentActivate {
    const NAME: &'static str = "component_activate";
    const OPERATION: &'static str = "activate_component";
    const INPUT: &'static [Field] = &[
        DIGEST,
        Field::new(
            "expected_epoch",
            Kind::Int(0, i64::MAX),
            "The epoch that is in force: where another was activated meanwhile, nothing happens",
        )
        .required(),
        Field::new(
            "accept_changes",
            Kind::Int(0, i64::MAX),
            "So many changed decisions of the service's replay of the log are accepted, where it requires one",
        )
        .default(0),
        AGENT_ID,
        AGENT_TYPE,
    ];
    type Output = ComponentActivated;

    fn parse(input: &Input, _who: &Principal) -> Result<Self> {
        Ok(Self {
            digest: digest_in(input)?,
            expected: Some(input.int("expected_epoch")),
            accept_changes: u64::try_from(input.int("accept_changes")).unwrap_or_default(),
            vetting: None,
            weighed: Arc::default(),
        })
    }

    async fn subject(&self, _at: Lookout<'_>) -> Result<Subject> {
        Ok(Subject::of(self.resource()))
    }

    fn resource(&self) -> Target {
        Target::Component(self.digest.clone())
    }
}

impl Command for ComponentActivate {
    async fn check(&self, at: Lookout<'_>) -> Result<()> {
        let Some(vetting) = &self.vetting else { return Ok(()) };
        let against = at.component.digest();
        if self.weight().is_some_and(|weight| weight.against == against) {
            return Ok(());
        }
        known(at.view, &self.digest).await?;
        let candidate = vetting.policy().stored(at.view, &self.digest).await;
        let outcome = match candidate {
            Ok(candidate) => vetting.weigh(&candidate, at.component, self.accept_changes, at.view).await,
            Err(error) => {
                tracing::error!(error = %error, component = self.digest, "a stored component cannot be used");
                Err(Refused {
                    reason: "unusable",
                    detail: "this host cannot use the component; see its log".to_owned(),
                    evidence: Value::Null,
                })
            }
        };
        let weight = Weight { against: against.to_owned(), outcome: outcome.map(|weighed| weighed.evidence) };
        *self.weighed.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(weight);
        Ok(())
    }

    fn is_refused(output: &ComponentActivated) -> bool {
        !output.success
    }

    fn wakes(_output: &ComponentActivated) -> Wakes {
        Wakes::Nothing
    }
}

// ------------------------------------------------------------------ shadow

/// Has a stored component asked beside the one that decides, or no longer.
#[derive(Debug, Clone)]
pub struct ComponentShadow {
    /// Digest of the component.
    pub digest: String,
    /// Whether it is asked from now on.
    pub enabled: bool,
}

/// What that answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ComponentShadowed {
    /// Whether it is as was asked.
    pub success: bool,
    /// The component that is asked beside the one that decides from now on, if any.
    pub shadow: Option<String>,
    /// Why not.
    pub reason: Option<String>,
}

impl Action for ComponentShadow {
    const NAME: &'static str = "component_shadow";
    const OPERATION: &'static str = "activate_component";
    const INPUT: &'static [Field] =
        &[DIGEST, Field::new("enabled", Kind::Bool, "False ends it").preset(Preset::Bool(true)), AGENT_ID, AGENT_TYPE];
    type Output = ComponentShadowed;

    fn parse(input: &Input, _who: &Principal) -> Result<Self> {
        Ok(Self { digest: digest_in(input)?, enabled: input.opt_bool("enabled").unwrap_or(true) })
    }

    async fn subject(&self, _at: Lookout<'_>) -> Result<Subject> {
        Ok(Subject::of(self.resource()))
    }

    fn resource(&self) -> Target {
        Target::Component(self.digest.clone())
    }
}

impl Command for ComponentShadow {
    async fn check(&self, at: Lookout<'_>) -> Result<()> {
        known(at.view, &self.digest).await.map(drop)
    }

    fn is_refused(output: &ComponentShadowed) -> bool {
        !output.success
    }
}

// ------------------------------------------------------------------ report

/// Shows what a component said beside the one that decides.
#[derive(Debug, Clone)]
pub struct ComponentReport {
    digest: String,
    found: Option<(String, Time, ShadowSeen)>,
}

impl ComponentReport {
    /// With what this host has seen.
    #[must_use]
    pub(super) fn with(mut self, found: Option<(String, Time, ShadowSeen)>) -> Self {
        self.found = found;
        self
    }
}

/// What a component said beside the one that decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ComponentReported {
    /// The component.
    pub digest: String,
    /// Whether this host asks it now; else nothing is known of it here.
    pub shadow: bool,
    /// Since when this host asks it.
    pub since: Option<Time>,
    /// What this host has seen; other hosts on the same database count for themselves.
    #[serde(flatten)]
    pub seen: ShadowSeen,
}

impl Action for ComponentReport {
    const NAME: &'static str = "component_report";
    const OPERATION: &'static str = "check_policy";
    const INPUT: &'static [Field] = &[DIGEST];
    type Output = ComponentReported;

    fn parse(input: &Input, _who: &Principal) -> Result<Self> {
        Ok(Self { digest: digest_in(input)?, found: None })
    }

    async fn subject(&self, _at: Lookout<'_>) -> Result<Subject> {
        Ok(Subject::of(self.resource()))
    }

    fn resource(&self) -> Target {
        Target::Component(self.digest.clone())
    }
}

impl Query for ComponentReport {
    async fn read(&self, at: Lookout<'_>, _permit: &Permit<Self>) -> Result<ComponentReported> {
        known(at.view, &self.digest).await?;
        let found = self.found.clone().filter(|(digest, ..)| *digest == self.digest);
        let (since, seen) = found.map_or_else(Default::default, |(_, since, seen)| (Some(since), seen));
        Ok(ComponentReported { digest: self.digest.clone(), shadow: since.is_some(), since, seen })
    }

    fn audit(output: &ComponentReported) -> Value {
        json!({"compared": output.seen.compared, "differing": output.seen.differing})
    }
}
