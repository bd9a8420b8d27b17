//! Every option of a task as its processes see it, every gate closed and open: through the plugin protocol, against a
//! real containerd, with runc and with crun.
//!
//! Needs what `lifecycle` needs, and `crun` and `tini`. `CD_CASE` runs only the cases with this in their name, and
//! `CD_RUNTIME` (`runc` or `crun`) only those of one runtime.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a broken bench ends the test, which is what a test is for"
)]

#[path = "../lifecycle/bench.rs"]
#[allow(dead_code, reason = "each suite uses its part of the bench")]
mod bench;
mod device;
mod files;
mod gates;
mod isolation;
mod limits;
mod look;
mod mounts;
mod process;
mod refusals;
mod security;
