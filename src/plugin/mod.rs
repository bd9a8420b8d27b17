//! The front door that Nomad uses: go-plugin's process contract and Nomad's two gRPC services.
//!
//! Decode, ask through [`Doors`](crate::messages::doors::Doors), map the answer. This room holds no state of tasks and
//! takes no decision over time; it may not name an actor, containerd or a file of a task. Generated protobuf types
//! stay inside it.
//!
//! | file | holds |
//! |---|---|
//! | [`handshake`] | what the host's environment asks for, and the line that answers it |
//! | [`serve`], `socket` | gRPC server, its socket, hard stop |
//! | [`hclog`] | log lines as the host parses them |
//! | `controller`, `stdio`, `broker` | go-plugin's auxiliary services |
//! | `base`, `schema` | Nomad's base service: identity, configuration |
//! | `driver`, `tasks`, `convert`, `streams`, `exec`, `stats` | Nomad's driver service |
//! | `status` | our errors as gRPC status and Nomad's recoverable flag |
//! | `rpc` | the span around every call |

mod base;
mod broker;
mod codec;
mod controller;
mod convert;
mod driver;
mod exec;
#[cfg(test)]
mod fake;
pub mod handshake;
pub mod hclog;
mod rpc;
mod schema;
pub mod serve;

mod socket;
mod stats;
mod status;
mod stdio;
mod streams;
mod tasks;

pub use handshake::{Launch, Refused};
pub use serve::{Plugin, ServeError};

/// Name of the driver in jobs, and of the logger at the host.
pub const DRIVER_NAME: &str = "containerd-driver";

/// Generated from `proto/`.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    reason = "generated code"
)]
mod wire {
    include!(concat!(env!("OUT_DIR"), "/wire.rs"));
}

/// Short names for the generated packages.
mod pb {
    pub(super) use super::wire::google::rpc;
    pub(super) use super::wire::hashicorp::nomad::plugins::base::proto as base;
    pub(super) use super::wire::hashicorp::nomad::plugins::drivers::proto as driver;
    pub(super) use super::wire::hashicorp::nomad::plugins::shared::{hclspec, structs};
    pub(super) use super::wire::plugin as go_plugin;
}
