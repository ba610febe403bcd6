//! What tests and tools share: components that misbehave, figures of a run.

pub mod figures;
pub mod hostile;
