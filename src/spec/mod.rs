//! What a container looks like and what it is called. Pure: no I/O, no clock, no actor, no protobuf.
//!
//! Options: `table` declares them, `value` and `types` read them, `options` and `settings` list them, `docs` prints them.
//! Containers: `oci` puts together what `process`, `init`, `env`, `user`, `ulimit`, `capabilities`, `security`, `seccomp`,
//! `resources`, `cgroups`, `devices`, `cdi`, `network`, `namespaces`, `sysctl`, `userns`, `netfiles` and `mounts` (with
//! `volumes`, `tmpfs`, `runtime_mounts`) each know; `node` is what they are told of the machine. `exec` makes one more
//! process of a container. `labels` and `record` are what survives.

mod capabilities;
pub mod cdi;
mod cgroups;
mod device_option;
mod devices;
pub mod docs;
mod env;
pub mod error;
pub mod exec;
mod files;
#[doc(hidden)]
pub mod fuzzing;
pub mod gates;
pub mod go;
mod handle_go;
pub mod identity;
pub mod image;
pub mod init;
pub mod labels;
mod mounts;
mod namespaces;
mod netfiles;
mod network;
pub mod node;
pub mod oci;
pub mod options;
mod path;
mod process;
pub mod record;
pub mod reference;
mod resources;
pub mod runtime;
mod runtime_mounts;
pub mod schema;
pub mod seccomp;
pub mod secret;
mod security;
mod security_opt;
pub mod settings;
pub mod signal;
mod sysctl;
pub mod table;
pub mod task;
mod tmpfs;
mod types;
mod ulimit;
pub mod usage;
mod user;
pub mod userns;
mod value;
mod volumes;

pub use error::SpecError;

#[cfg(test)]
mod decode_test;
