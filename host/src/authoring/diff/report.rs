//! What a comparison says.

use policy_core::Effect;
use serde::Serialize;
use serde_json::Value;

/// Where a change leads: from the first bundle to the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Nobody may do more or less.
    Neither,
    /// Somebody may do less.
    Narrower,
    /// Somebody may do more.
    Wider,
    /// Nobody can tell whether somebody may do more.
    MayBeWider,
}

/// What all changes come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The bundles allow the same.
    Equivalent,
    /// The second allows less.
    Narrower,
    /// The second allows more.
    Wider,
    /// Each allows something that the other does not.
    Incomparable,
    /// It is not known whether the second allows more.
    NotProven,
}

impl Verdict {
    /// Whether the second bundle surely allows nothing that the first does not.
    #[must_use]
    pub const fn is_not_wider(self) -> bool {
        matches!(self, Self::Equivalent | Self::Narrower)
    }
}

/// One of the two bundles.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Side {
    /// As it was named on the command line.
    pub argument: String,
    /// Name of the bundle.
    pub name: String,
    /// Version of the bundle.
    pub version: String,
    /// Digest of its files.
    pub bundle_digest: String,
}

/// A part of a bundle that is compared item by item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Section {
    /// Name, version, engine, number of its own tests.
    Bundle,
    /// Operations.
    Operation,
    /// Profiles.
    Profile,
    /// Guardrail patterns.
    Pattern,
    /// Network rules.
    Network,
    /// Cedar policies; what they allow is the proof's question.
    Cedar,
}

/// One change, in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// What it is about.
    pub section: Section,
    /// Which item; empty for the bundle itself.
    pub item: String,
    /// What changed.
    pub text: String,
    /// Where it leads.
    pub direction: Direction,
}

/// What a bundle decides, as far as the matrix shows it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Decided {
    /// Allowed or not.
    pub allowed: bool,
    /// The reason.
    pub reason: String,
}

impl Decided {
    pub(super) fn of(decision: policy_core::Decision) -> Self {
        Self { allowed: decision.effect == Effect::Allow, reason: decision.reason }
    }
}

/// A cell of the authorization matrix that changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cell {
    /// The operation.
    pub operation: String,
    /// What it acts on.
    pub target: policy_core::Target,
    /// The profile of whoever asks.
    pub profile: String,
    /// Their agent type.
    pub agent_type: String,
    /// Whether they are suspended.
    pub suspended: bool,
    /// What the first bundle decides.
    pub a: Decided,
    /// What the second one decides.
    pub b: Decided,
}

/// The authorization matrix of both bundles.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Matrix {
    /// How many cells were compared.
    pub cells: usize,
    /// Those that differ.
    pub changed: Vec<Cell>,
}

/// A concrete request, as the solver found it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Witness {
    /// Who asks.
    pub principal: String,
    /// For what.
    pub action: String,
    /// About what.
    pub resource: String,
    /// The request's context.
    pub context: Value,
    /// The entities, with their attributes and parents.
    pub entities: Vec<Value>,
}

/// A policy that cannot be evaluated for some request, which is then denied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Erring {
    /// Its `@id`.
    pub policy: String,
    /// The first bundle has it.
    pub in_a: bool,
    /// The second bundle has it.
    pub in_b: bool,
    /// Such a request.
    pub request: Witness,
}

/// What was found out about one request environment: an operation with the types of who asks and what is acted on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Environment {
    /// The operation.
    pub operation: String,
    /// Type of who asks.
    pub principal: String,
    /// Type of what is acted on.
    pub resource: String,
    /// What the policies of both come to.
    pub verdict: Verdict,
    /// Only one of the bundles has it: the other denies whatever is asked.
    pub only_in: Option<Only>,
    /// A request that the second allows and the first does not.
    pub wider: Option<Witness>,
    /// A request that the first allows and the second does not.
    pub narrower: Option<Witness>,
    /// Policies that may fail.
    pub erring: Vec<Erring>,
    /// Why nothing is proven, or what else is to be known.
    pub notes: Vec<String>,
}

/// One of the two bundles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Only {
    /// The first.
    A,
    /// The second.
    B,
}

/// The whole comparison.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The first bundle: what is in force, say.
    pub a: Side,
    /// The second bundle: what is to come.
    pub b: Side,
    /// What all of it comes to.
    pub verdict: Verdict,
    /// Changes of what can be compared exactly.
    pub changes: Vec<Change>,
    /// Changed decisions on sample requests.
    pub matrix: Matrix,
    /// What was proven of the Cedar policies.
    pub environments: Vec<Environment>,
}

/// What was seen so far, on the way to a verdict.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tally {
    narrower: bool,
    wider: bool,
    unknown: bool,
}

impl Tally {
    pub(super) fn direction(&mut self, direction: Direction) {
        match direction {
            Direction::Neither => {}
            Direction::Narrower => self.narrower = true,
            Direction::Wider => self.wider = true,
            Direction::MayBeWider => self.unknown = true,
        }
    }

    pub(super) fn verdict(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Equivalent => {}
            Verdict::Narrower => self.narrower = true,
            Verdict::Wider => self.wider = true,
            Verdict::Incomparable => (self.narrower, self.wider) = (true, true),
            Verdict::NotProven => self.unknown = true,
        }
    }

    /// What was found counts before what was not.
    pub(super) const fn come_to(self) -> Verdict {
        match (self.wider, self.unknown, self.narrower) {
            (true, _, true) => Verdict::Incomparable,
            (true, _, false) => Verdict::Wider,
            (false, true, _) => Verdict::NotProven,
            (false, false, true) => Verdict::Narrower,
            (false, false, false) => Verdict::Equivalent,
        }
    }
}
