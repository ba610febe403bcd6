//! States and transitions, pure: no I/O, no clock, no randomness. What a lock,
//! a task, a session or a memory may become is decided here and nowhere else in the host.

pub mod hidden;
pub mod lock;
pub mod lock_key;
pub mod memory;
pub mod session;
pub mod task;
