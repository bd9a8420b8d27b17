//! The process entry: hand over to the composition root.
#![forbid(unsafe_code)]

/// A burst of starts needs several times the memory that its tasks need afterwards, in pieces that lie between those that
/// stay. The allocator of glibc keeps such pages for good; this one gives them back (`.cargo/config.toml` says when).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    containerd_driver::app::main()
}
