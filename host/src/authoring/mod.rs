//! For authors of policy: what a bundle means, before it decides anything.
//!
//! Here, and nowhere else in the host, policy is read natively ([`policy_core`]) and policies are Cedar's own types:
//! proofs are about the text. Nothing here decides about a request of an agent; that is the component's alone.

pub mod diff;
pub mod solver;
pub mod source;
