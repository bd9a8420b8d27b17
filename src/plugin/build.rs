//! Compiles the protobuf definitions of Nomad's and go-plugin's wire, in pure Rust.
fn main() {}
