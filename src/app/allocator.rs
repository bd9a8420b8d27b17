//! How the C library gives memory back.
//!
//! glibc keeps what was freed in an arena for each thread, up to 64 MiB each, and raises the size from which it asks the kernel
//! directly with the first large buffer that is freed (`M_MMAP_THRESHOLD` in mallopt(3)): after a few pulls most of the plugin's
//! memory is what nobody uses any more. It reads how it is to behave from the environment and only when a process starts, so the
//! plugin starts once more, in the same process.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// Few arenas, and what is free at the end of one goes back; the threshold as it is at first, and no more raised.
const TUNING: [(&str, &str); 3] = [
    ("MALLOC_ARENA_MAX", "2"),
    ("MALLOC_TRIM_THRESHOLD_", "131072"),
    ("MALLOC_MMAP_THRESHOLD_", "131072"),
];

/// Starts this program anew with the tuning, unless any of it is in the environment: then somebody has decided, or it has been
/// done. Comes back only in these cases, and if it cannot be done, which costs no more than memory.
pub(super) fn settle(env: &impl Fn(&str) -> Option<String>) {
    if TUNING.iter().any(|(name, _)| env(name).is_some()) {
        return;
    }
    // By its own path: by that of `/proc` the process would be called `exe`.
    let Ok(program) = std::env::current_exe() else {
        return;
    };
    let mut again = Command::new(program);
    let mut args = std::env::args_os();
    if let Some(name) = args.next() {
        again.arg0(name);
    }
    let error = again.args(args).envs(TUNING).exec();
    super::say(&format!("the allocator is left as it is: {error}"));
}
