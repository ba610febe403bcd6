//! What tests and tools share: components that misbehave, the checker of concurrent histories, figures of a run.

pub mod chance;
pub mod figures;
pub mod history;
pub mod hostile;
