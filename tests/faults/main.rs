//! Random sequences of calls to one plugin, with containerd behind a proxy that delays, loses, repeats and cuts: no answer
//! later than its deadline, no panic, nothing left, and no lie.
//!
//! Needs `CD_DRIVER_BIN` and a containerd; `CD_KIND` is `1.6` (default) or `2.4`. `FAULTS_SEED` is a number or `now`,
//! `FAULTS_CASES` how many sequences there are, `FAULTS_CASE` the number of the only one to run.
//!
//! | file | what |
//! |---|---|
//! | `plan` | what a sequence may consist of, and how one is drawn |
//! | `truth` | what may be told of a task, given what was asked of it |
//! | `life` | one sequence, carried out and judged |
//! | `calls` | the calls of a sequence |
//! | `field` | rig and proxy, and what was there before |
//! | `kept` | sequences that found something, and each step of a start spoilt in each way |
//! | `random` | three hundred sequences, and the shortest of one that failed |

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on panics")]

mod calls;
mod field;
mod kept;
mod life;
mod plan;
mod random;
mod truth;
