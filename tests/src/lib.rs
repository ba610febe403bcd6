//! x

pub mod hostile;
