//! The life of tasks through the plugin protocol, against a real containerd: starts, stops, recovery, outages, refusals.
//!
//! Needs root, `docker-registry`, a static busybox, and
//!
//! | variable | meaning |
//! |---|---|
//! | `CD_DRIVER_BIN` | the plugin under test |
//! | `CD_KIND` | the containerd: `1.6` (default) or `2.4` |
//! | `CD_CONTAINERD_16`, `CD_CONTAINERD_24` | where these are, see `testhost::containerd` |
//! | `CD_SLOW` | factor for all deadlines; a user-mode Linux guest is noticed and has 5 |
//! | `CD_CASE` | run only the cases with this in their name |
//!
//! A `#[test]` is a group of cases that share one containerd, registry and plugin. A case's name is its promise. After
//! each case nothing may be left of it: in containerd, in the kernel, in the file system, in the plugin.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a broken bench ends the test, which is what a test is for"
)]

mod acceptance;
mod allotted;
mod audit;
mod bench;
mod burst;
mod cache;
mod confinement;
mod credentials;
mod density;
mod destroying;
mod disk;
mod doctor;
mod events;
mod exec;
mod exec_bounds;
mod exec_recovery;
mod go_driver;
mod health;
mod inside;
mod limits;
mod load;
mod logs;
mod lost;
mod memory;
mod network;
mod outage;
mod own_logs;
mod pulling;
mod reaper;
mod recovery;
mod refusals;
mod registry;
mod shim_groups;
mod starting;
mod stats;
mod stopping;
mod stuck;
mod waiting;
