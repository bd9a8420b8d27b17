//! Supervision: the only place that contains a panic, restarts an actor or gives up on one.
//!
//! The ladder: an actor that panics is restarted in place behind the same address, with back-off ([`guard`],
//! [`policy`]); one that panics too often, or was aborted, ends, and [`root`] puts a fresh one behind the same door
//! ([`book`]); when that happens too often, the process exits and Nomad relaunches the plugin and recovers every task.

pub mod book;
#[cfg(feature = "chaos")]
pub mod chaos;
pub mod front;
pub mod guard;
pub mod policy;
pub mod root;
pub mod tasks;
pub mod tree;
