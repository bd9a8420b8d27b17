//! The process entry: hand over to the composition root.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    containerd_driver::app::main()
}
