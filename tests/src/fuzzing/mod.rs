//! Inputs that anybody may send, and what has to be true of each, whatever it is.
//!
//! A target is a function from bytes. It returns whether they were accepted or refused, and panics when something does not
//! hold that has to hold of all bytes. libFuzzer calls it to look for such bytes (`tests/fuzzing/run`), and a plain test calls
//! it with those that are kept (`corpora.rs`), so both ask for the same.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "an input that breaks a promise has to be heard of"
)]

mod bundle;
mod command;
mod component;
mod decision;
mod guardrail;
mod lock_key;
mod service;

use std::path::PathBuf;
use std::sync::OnceLock;

pub use bundle::bundle_file;
pub use command::command_input;
pub use component::component_bytes;
pub use decision::decision_request;
pub use guardrail::guardrail_text;
pub use lock_key::lock_key;
pub use service::{http_request, mcp_frame};

/// What became of an input that broke no promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was understood, and nothing stood against it.
    Accepted,
    /// It was refused, in the way that inputs are.
    Refused,
}

impl Outcome {
    fn accepted_if(accepted: bool) -> Self {
        if accepted { Self::Accepted } else { Self::Refused }
    }
}

/// One kind of input.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name: of the corpus, and of the program that libFuzzer is linked to.
    pub name: &'static str,
    /// Tries an input.
    pub run: fn(&[u8]) -> Outcome,
}

/// All of them.
pub const TARGETS: [Target; 8] = [
    Target { name: "bundle_file", run: bundle_file },
    Target { name: "command_input", run: command_input },
    Target { name: "component_bytes", run: component_bytes },
    Target { name: "decision_request", run: decision_request },
    Target { name: "guardrail_text", run: guardrail_text },
    Target { name: "http_request", run: http_request },
    Target { name: "lock_key", run: lock_key },
    Target { name: "mcp_frame", run: mcp_frame },
];

static CACHE: OnceLock<PathBuf> = OnceLock::new();

/// Where compiled components are kept, if it is said before the first input; else where `PORTREEVE_CACHE` says.
pub fn keep_components_in(folder: PathBuf) {
    CACHE.get_or_init(|| folder);
}

fn cache() -> PathBuf {
    let named = || std::env::var_os("PORTREEVE_CACHE").map(PathBuf::from);
    CACHE.get_or_init(|| named().unwrap_or_else(|| std::env::temp_dir().join("portreeve-fuzzing-cache"))).clone()
}
