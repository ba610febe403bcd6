//! The MCP surface: the catalogue's tools, resources and prompts, over streamable HTTP and over stdio.
//!
//! One handler serves every transport. It reaches the service through a [`Client`](crate::client::Client), so a call
//! takes the same way whether it came over HTTP, over stdio beside the data folder, or over stdio to a server
//! elsewhere: the entry of the catalogue, and with it the gate. What MCP adds is said in this module and nowhere else.

mod call;
mod handler;
mod http;
mod prompts;
mod render;
mod resources;
mod running;
mod stdio;
mod tools;

pub use http::{Endpoint, ResponseBody};
pub use stdio::{Ended, serve};

/// What an answer says of its request: the identifier that log and audit row carry.
const META_REQUEST_ID: &str = "portreeve/requestId";

/// With this a caller makes a call repeatable: a repeat gets the first answer.
const META_IDEMPOTENCY_KEY: &str = "portreeve/idempotencyKey";

/// An answer that was given before says so.
const META_REPLAYED: &str = "portreeve/idempotencyReplayed";
