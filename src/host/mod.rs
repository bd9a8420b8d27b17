//! Gateway to the kernel: FIFOs, pump threads, paths, cgroups, facts of the node. No policy, no actor, no containerd.
//!
//! Only this room opens a path. Everything that a task can write to is opened without following links.

pub mod archive;
pub mod begin;
pub mod bundles;
pub mod cdi;
pub mod cgroup;
pub mod credentials;
pub mod devices;
pub mod disk;
pub mod error;
pub mod exec;
pub mod fifo;
pub mod leftovers;
pub mod limits;
pub mod liveness;
pub mod log_files;
pub mod members;
pub mod mounted;
pub mod node;
pub mod oom;
pub mod paths;
pub mod pins;
pub mod pipe_keeper;
pub mod proc;
pub mod pump;
mod pump_files;
mod pump_stream;
mod pump_thread;
pub mod registries;
pub mod rootfs;
pub mod route;
pub mod security;
pub mod selinux;
pub mod session;
pub mod shims;
pub mod survey;
mod unpacked;
pub mod usage;

pub use error::HostError;
pub use fifo::{LogTarget, check_log_path};
pub use pump::{PumpKey, PumpPool, PumpRefused, PumpSink, Report};
