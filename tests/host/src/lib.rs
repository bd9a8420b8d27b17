//! A host for task-driver plugins that is not Nomad: it launches a plugin as an agent does, speaks its protocol with types of its own, and
//! looks at containerd, the kernel and the log pipes from the outside.

pub mod alloc;
pub mod containerd;
pub mod cty;
pub mod daemon;
pub mod fifo;
pub mod http;
pub mod image;
pub mod plugin;
pub mod procfs;
pub mod registry;
pub mod schema;
pub mod sweep;
pub mod task;
pub mod types;
pub mod wire;
pub mod within;
