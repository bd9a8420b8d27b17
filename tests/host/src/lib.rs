//! A host for task-driver plugins that is not Nomad: it launches a plugin as an agent does, speaks its protocol with types of its own, and
//! looks at containerd, the kernel and the log pipes from the outside.
//!
//! | module | what |
//! |---|---|
//! | [`rig`] | everything bundled for one test; start here |
//! | [`plugin`] | launch, configure, kill, re-attach a plugin process |
//! | [`task`], [`alloc`], [`fifo`] | task configurations, allocation directories, log pipes |
//! | [`schema`], [`types`], [`cty`] | option schemas, their evaluation, msgpack |
//! | [`containerd`], [`registry`], [`image`] | the private back end |
//! | [`census`], [`procfs`], [`sweep`] | what is left behind, and its removal |
//! | [`go_task`] | tasks as the Go driver makes them |
//! | [`otlp`] | a trace collector |
//! | [`within`] | waiting with a deadline and a name |

pub mod alloc;
pub mod census;
pub mod containerd;
pub mod cty;
pub mod daemon;
pub mod fifo;
pub mod go_task;
pub mod http;
pub mod image;
pub mod otlp;
pub mod plugin;
pub mod procfs;
pub mod registry;
pub mod rig;
pub mod schema;
#[cfg(test)]
mod schema_tests;
pub mod status;
pub mod sweep;
pub mod task;
pub mod types;
pub mod wire;
pub mod within;
