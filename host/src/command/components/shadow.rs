//! Asking a stored component beside the one in force, and what it said.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};

use super::{DIGEST, digest_in, known};
use crate::authn::Principal;
use crate::clock::Time;
use crate::command::action::{Action, Command, Lookout, Query, Subject};
use crate::command::input::{AGENT_ID, AGENT_TYPE, Field, Input, Kind, Preset};
use crate::engine::types::Target;
use crate::error::Result;
use crate::gate::{Permit, ShadowSeen};

/// Business reason: that component is not the one beside the policy in force.
pub const NOT_THE_SHADOW: &str = "not_the_shadow";

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
    pub(in crate::command) fn with(mut self, found: Option<(String, Time, ShadowSeen)>) -> Self {
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
