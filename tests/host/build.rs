//! Compiles the hand-written protocol files without `protoc`. Only the stand-in plugin of the self tests uses the servers.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(
        [
            "base.proto",
            "driver.proto",
            "hclspec.proto",
            "structs.proto",
            "go_plugin.proto",
            "health.proto",
            "rpc_status.proto",
        ],
        ["proto"],
    )?;
    tonic_prost_build::configure()
        .build_server(true)
        .build_client(true)
        .include_file("wire_tree.rs")
        .compile_fds(files)?;
    Ok(())
}
