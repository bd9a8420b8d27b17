//! What a container looks like and what it is called. Pure: no I/O, no clock, no actor, no protobuf.
//!
//! Options: `table` declares them, `value` and `types` read them, `options` and `settings` list them, `docs` prints them.
//! Containers: `oci` puts together what `process`, `env`, `user`, `capabilities`, `resources`, `devices`, `network`,
//! `files` and `mounts` each know; `node` is what they are told of the machine.
//! `exec` makes one more process of a container. `labels` and `record` are what survives.

mod capabilities;
mod devices;
pub mod docs;
mod env;
pub mod error;
pub mod exec;
mod files;
pub mod gates;
pub mod go;
pub mod identity;
pub mod image;
pub mod labels;
mod mounts;
mod network;
pub mod node;
pub mod oci;
pub mod options;
mod process;
pub mod record;
pub mod reference;
mod resources;
pub mod runtime;
pub mod schema;
pub mod secret;
pub mod settings;
pub mod signal;
pub mod table;
pub mod task;
mod types;
mod user;
mod value;

pub use error::SpecError;

#[cfg(test)]
mod decode_test;
