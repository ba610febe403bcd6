//! Tests of the policy against the default bundle, in one binary.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that panics has found something")]

mod common;
mod equiv;
mod guardrails;
mod loader;
mod nesting;
mod requests;
mod speed;
mod spellings;
mod strict;
