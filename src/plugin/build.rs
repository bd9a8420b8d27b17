//! Compiles the protobuf definitions of Nomad's and go-plugin's wire, in pure Rust: no `protoc` on the build machine.
//!
//! The files in `proto/` are written by hand from the field tables of the protocol. Maps become `BTreeMap`, so that
//! equal messages have equal bytes (the host compares schemas of successive launches).

use std::error::Error;
use std::path::Path;

const FILES: [&str; 6] = [
    "base.proto",
    "driver.proto",
    "go_plugin.proto",
    "hcl_spec.proto",
    "rpc_status.proto",
    "structs.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    let dir = Path::new("src/plugin/proto");
    println!("cargo:rerun-if-changed={}", dir.display());
    println!("cargo:rerun-if-changed=src/plugin/build.rs");
    for file in FILES {
        println!("cargo:rerun-if-changed={}", dir.join(file).display());
    }
    let descriptors = protox::compile(FILES, [dir])?;
    tonic_prost_build::configure()
        .build_client(false)
        .build_transport(false)
        .emit_rerun_if_changed(false)
        .btree_map(".")
        .codec_path("crate::plugin::codec::Frugal")
        // Doc links and line lengths of generated text are not ours to fix.
        .disable_comments(["."])
        .include_file("wire.rs")
        .compile_fds(descriptors)?;
    Ok(())
}
