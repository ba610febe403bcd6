//! What tests and tools share: components that misbehave, the checker of concurrent histories, what is true of every input,
//! figures of a run.

pub mod chance;
pub mod figures;
pub mod fuzzing;
pub mod history;
pub mod hostile;
