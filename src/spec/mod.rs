//! What a container looks like and what it is called. Pure: no I/O, no clock, no actor, no protobuf.
//!
//! Options: `table` declares them, `value` and `types` read them, `options` and `settings` list them, `docs` prints them;
//! `elsewhere` says what is used in place of options that other drivers have, `settings_check` which settings cannot work;
//! `auth` is the block of that name, `registry_auth` reads what Docker keeps.
//! Containers: `oci` puts together what `process`, `init`, `env`, `user`, `ulimit`, `capabilities`, `security`, `seccomp`,
//! `resources`, `cgroups`, `devices`, `cdi`, `network`, `namespaces`, `sysctl`, `userns`, `netfiles` and `mounts` (with
//! `volumes`, `tmpfs`, `runtime_mounts`) each know; `node` is what they are told of the machine. `exec` makes one more
//! process of a container. `hosts` says where images of a registry come from. `blame` finds the option that a runtime complains of. `labels` and `record` are what survives, `owner` tells whose it is. `canary` is the health
//! probe's own task; `pull` says when a registry is asked; `doctor` judges a node. `image_gc` says which images go, `tar` reads the headers of archives of images.

pub mod auth;
pub mod blame;
pub mod canary;
mod capabilities;
pub mod cdi;
mod cgroups;
mod device_option;
mod devices;
pub mod docs;
pub mod doctor;
mod elsewhere;
mod env;
pub mod error;
pub mod exec;
mod files;
#[doc(hidden)]
pub mod fuzzing;
pub mod gates;
pub mod go;
mod handle_go;
pub mod hosts;
pub mod identity;
pub mod image;
pub mod image_gc;
pub mod init;
pub mod labels;
pub mod log_collection;
pub mod log_treatment;
mod mounts;
mod namespaces;
mod netfiles;
mod network;
pub mod node;
pub mod oci;
pub mod options;
pub mod owner;
mod path;
pub mod platform;
mod process;
pub mod pull;
pub mod record;
pub mod reference;
pub mod registry_auth;
mod resources;
pub mod runtime;
mod runtime_mounts;
pub mod schema;
pub mod seccomp;
pub mod secret;
mod security;
mod security_opt;
pub mod settings;
mod settings_check;
pub mod shim_group;
pub mod signal;
pub mod sysctl;
pub mod table;
pub mod tar;
pub mod task;
pub mod timestamp;
mod tmpfs;
mod types;
mod ulimit;
pub mod usage;
mod user;
pub mod userns;
mod value;
mod version;
mod volumes;
pub mod words;

pub use error::SpecError;

#[cfg(test)]
mod decode_test;
