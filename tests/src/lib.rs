//! What tests and benchmarks share.

pub mod figures;
pub mod hostile;
