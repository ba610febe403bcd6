//! The MCP surface: the catalogue's entries as tools, a few lists as resources, and prompts. No rules, no SQL.
//!
//! One handler serves all three ways: over stdio on a data folder, over stdio before a running server, and at `/mcp` of
//! a server. They differ only in the [`Client`] that a call goes through; each call passes the gate as its caller.
//!
//! Nothing is kept between requests: no session table that could leak, be hijacked or outlive a key. The one thing that
//! must be found again is a call that its client cancels, see [`calls`].

mod calls;
mod handler;
mod http;
mod prompts;
mod resources;
mod stdio;
mod tools;

pub use http::{Caller, Endpoint, Response};
pub use stdio::{StdioError, serve_stdio};
