//! Everything that proves Portreeve works, in one binary.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test, or a helper of one, that finds something has to fail"
)]
#![expect(clippy::print_stdout, reason = "what a test prints is shown when it fails, its seed above all")]

mod attacks;
mod audit;
mod authoring;
mod bodies;
mod cage;
mod catalogue;
mod cleanup;
mod cli_operations;
mod corpora;
mod crash;
mod crash_points;
mod differential;
mod example;
mod formal;
mod handoffs;
mod harness;
mod histories;
mod idempotency;
mod import;
mod invariants;
mod lock_keys;
mod locks;
mod matrix;
mod mcp;
mod mcp_stdio;
mod mcp_wire;
mod memories;
mod moving;
mod mutants;
mod mutation;
mod no_effect;
mod openapi;
mod policy_diff;
mod postgres;
mod replay;
mod revoke;
mod rules;
mod samples;
mod sessions;
mod setup;
mod stateful;
mod store;
mod surfaces;
mod swap;
mod tidy;
mod trace;
mod trust;
mod waits;
mod watching;
mod work;
mod work_claims;
mod work_leases;
