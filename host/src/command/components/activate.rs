//! Putting a stored component in force.

use std::sync::{Arc, Mutex, PoisonError};

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};

use super::{DIGEST, digest_in, known};
use crate::authn::Principal;
use crate::command::action::{Action, Command, Lookout, Subject};
use crate::command::input::{AGENT_ID, AGENT_TYPE, Field, Input, Kind};
use crate::crash;
use crate::engine::PolicyComponent;
use crate::engine::types::Target;
use crate::error::Result;
use crate::vetting::{Refused, Tested, Vetting};

/// Business reason: another activation came first.
pub const EPOCH_MOVED: &str = "epoch_moved";

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
    weighed: Arc<Mutex<Option<Weight>>>,
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
            weighed: Arc::new(Mutex::new(Some(weight))),
        }
    }

    /// Has it weighed by the service's gates once policy allowed to activate it.
    #[must_use]
    pub(in crate::command) fn vetted_by(mut self, vetting: &Arc<Vetting>) -> Self {
        self.vetting = Some(Arc::clone(vetting));
        self
    }

    fn weight(&self) -> Option<Weight> {
        self.weighed.lock().unwrap_or_else(PoisonError::into_inner).clone()
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
        *self.weighed.lock().unwrap_or_else(PoisonError::into_inner) = Some(weight);
        crash::point!("component.weighed");
        Ok(())
    }

    fn is_refused(output: &ComponentActivated) -> bool {
        !output.success
    }
}
