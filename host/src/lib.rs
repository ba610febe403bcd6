//! Portreeve coordinates fleets of coding agents on the same repositories:
//! file leases with fencing, a work queue, and one gate that every change passes.
//!
//! Start at `ARCHITECTURE.md`; in code, at [`gate`]. A request goes
//! `http` → [`command`] → [`gate`] → [`engine`] (the policy component) and, with
//! the permit that the gate minted, into [`store`].

pub mod app;
pub mod authn;
pub mod authoring;
pub mod bounds;
pub mod cli;
pub mod client;
pub mod clock;
pub mod command;
pub mod crash;
pub mod domain;
pub mod engine;
pub mod error;
pub mod gate;
pub mod http;
pub mod mcp;
pub mod replay;
pub mod signature;
pub mod store;
pub mod telemetry;
pub mod trace;
pub mod vetting;
