//! The wire types of the protocol, generated from this crate's own files under `proto/`.

#[allow(clippy::all, clippy::pedantic, missing_docs)]
mod tree {
    include!(concat!(env!("OUT_DIR"), "/wire_tree.rs"));
}

pub use tree::google::rpc;
pub use tree::grpc::health::v1 as health;
pub use tree::hashicorp::nomad::plugins::base::proto as base;
pub use tree::hashicorp::nomad::plugins::drivers::proto as driver;
pub use tree::hashicorp::nomad::plugins::shared::{hclspec, structs};
pub use tree::plugin;
