//! What Portreeve's policy means: pure functions from a request and a bundle to
//! a decision.
//!
//! No I/O, no clock, no randomness. The same source is built natively and into
//! the policy component, and both give the same bytes. [`Policy::load`] reads a
//! bundle of text files, [`Policy::decide`] answers.
//!
//! There is no default allow. No bundle, no profile, an error or a panic-free
//! dead end: deny. The lints below forbid what could panic, because a trap denies
//! too, but says nothing to whoever asked.

#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::unreachable,
    clippy::todo
)]
#![cfg_attr(test, expect(clippy::indexing_slicing, reason = "a test that panics has found something"))]

mod bundle;
mod cedar;
mod compare;
mod decide;
mod decision;
mod explain;
mod guardrail;
mod native;
mod network;
mod operation;
mod paths;
mod problem;
mod profile;
pub mod reason;
mod request;
mod resolve;
mod sample;
mod tables;

pub use compare::{CedarScope, Expressions, OperationRules};
pub use decide::{Policy, no_policy};
pub use decision::{
    Decision, Effect, EngineMode, Manifest, NetworkRuleInfo, Obligations, OperationClass, OperationInfo, PatternInfo,
    PolicyInfo, ProfileInfo, Severity, Violation,
};
pub use problem::{BundleFile, Problem, TestFailure, TestReport};
pub use request::{Principal, Request, Target, TargetKind, TaskTarget, Text, TextFormat};
pub use resolve::{MAX_IDENTIFIER_BYTES, MAX_TEXT_BYTES, MAX_TEXTS};
pub use tables::{Case, Difference, Expect};
