//! What every command and query is made of.

use std::future::Future;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::input::{Field, Input};
use crate::authn::Principal;
use crate::engine::PolicyComponent;
use crate::engine::types::{Manifest, Target, Text};
use crate::error::Result;
use crate::store::View;

/// What policy is asked about: the resource and every text that comes with it.
#[derive(Debug, Clone)]
pub struct Subject {
    /// The resource.
    pub target: Target,
    /// Texts that the guardrails read, whole.
    pub texts: Vec<Text>,
}

impl Subject {
    /// A resource without texts.
    #[must_use]
    pub const fn of(target: Target) -> Self {
        Self { target, texts: Vec::new() }
    }
}

/// What may be looked at beside the decision: the store, without its write methods, and the active component.
#[derive(Debug, Clone, Copy)]
pub struct Lookout<'a> {
    /// The store, for reading.
    pub view: &'a View,
    /// The component that decides.
    pub component: &'a Arc<PolicyComponent>,
}

impl Lookout<'_> {
    /// What the active component says of itself.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        self.component.manifest()
    }
}

/// What a change may have set free for those who wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wakes {
    /// Nothing.
    Nothing,
    /// Tasks.
    Tasks,
    /// The lock of this key.
    Lock(String),
    /// Locks and tasks, whichever.
    All,
}

impl Wakes {
    /// Tasks, if so.
    #[must_use]
    pub const fn tasks_if(so: bool) -> Self {
        if so { Self::Tasks } else { Self::Nothing }
    }
}

/// One thing that an agent may ask for.
pub trait Action: Clone + Send + Sync + 'static {
    /// Its name in the catalogue: noun first, for instance `lock_acquire`.
    const NAME: &'static str;
    /// The policy operation it asks for, for instance `acquire_lock`.
    const OPERATION: &'static str;
    /// What it takes.
    const INPUT: &'static [Field];
    /// What it answers.
    type Output: Serialize + JsonSchema + Send + 'static;

    /// Makes it from a verified input.
    ///
    /// # Errors
    /// [`crate::error::Error::Invalid`] for what no single field shows.
    fn parse(input: &Input, who: &Principal) -> Result<Self>;

    /// What policy is asked about.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn subject(&self, at: Lookout<'_>) -> impl Future<Output = Result<Subject>> + Send;

    /// The resource when the texts do not matter: a repeat under an `Idempotency-Key`.
    fn resource(&self) -> Target;
}

/// An action that changes state. What it does to the store is its `Apply`, one per backend.
pub trait Command: Action {
    /// Fields of the answer that are shown once and never stored.
    const SECRETS: &'static [&'static str] = &[];

    /// Checks the input against what the policy and the store say, once the caller is known to be allowed to ask.
    ///
    /// # Errors
    /// [`crate::error::Error::Invalid`]; the audit row says that it failed.
    fn check(&self, _at: Lookout<'_>) -> impl Future<Output = Result<()>> + Send {
        async { Ok(()) }
    }

    /// Whether the answer is a business refusal: `success: false`.
    fn is_refused(output: &Self::Output) -> bool;

    /// Whether the output is the answer, to be given again to a repeat; false for a round that is tried anew.
    fn is_answer(_output: &Self::Output) -> bool {
        true
    }

    /// What may have become free, so that those who wait for it are worth waking.
    fn wakes(_output: &Self::Output) -> Wakes {
        Wakes::Nothing
    }
}

/// An action that only reads.
pub trait Query: Action {
    /// Reads.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn read(
        &self,
        at: Lookout<'_>,
        permit: &crate::gate::Permit<Self>,
    ) -> impl Future<Output = Result<Self::Output>> + Send;

    /// What the audit row keeps of the answer.
    fn audit(_output: &Self::Output) -> Value {
        Value::Null
    }
}
