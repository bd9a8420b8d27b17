//! The conformance checklist of Nomad's driver contract, item by item: a case named after each, through the plugin protocol,
//! against a real containerd.
//!
//! Needs what `lifecycle` needs, and with `CD_RUNTIME=crun` also `crun`. `CD_CASE` runs only the cases with this in their
//! name. With `CD_CONFORMANCE_DIR` each case leaves a line there that says how it ended on this combination of containerd,
//! cgroup version and runtime; `UPDATE_CONFORMANCE=1 cargo test --test conformance the_table` makes `docs/conformance.md`
//! of the lines of all combinations.
//!
//! | module | what |
//! |---|---|
//! | `checklist` | the items |
//! | `elsewhere` | which of them tests of other suites show, and what is not built |
//! | `table` | `docs/conformance.md` |
//! | `field` | a bench for a group of cases |
//! | the others | the cases of a part of the checklist |

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a broken bench ends the test, which is what a test is for"
)]

#[path = "../lifecycle/bench.rs"]
#[allow(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "each suite uses its part of the bench"
)]
mod bench;
mod calls;
mod cfg;
mod checklist;
mod elsewhere;
mod evt;
mod exec;
mod field;
mod img;
mod inside;
mod life;
mod log;
#[path = "../options/look.rs"]
#[allow(dead_code, reason = "each suite uses its part")]
mod look;
mod mnt;
mod net;
mod proc;
mod rec;
#[path = "../lifecycle/registry.rs"]
#[allow(dead_code, reason = "each suite uses its part")]
mod registry;
mod res;
mod sec;
mod stat;
mod stop;
mod table;
mod wire;
