//! Any actor may die, hang or vanish at any moment: no line, no exit code and no answer is lost, and nothing is left.
//!
//! Needs a driver built with the feature `chaos` (`CD_DRIVER_CHAOS_BIN`) and a containerd; `CD_KIND` is `1.6` (default) or `2.4`.
//! `CHAOS_SEED` repeats a random run.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on panics")]

mod actors;
mod adopted;
mod canary;
mod commands;
mod control;
mod escalation;
mod field;
mod killloop;
mod lives;
mod mix;
mod one_task;
mod own_logs;
mod pulls;
mod states;
mod stats;
mod steps;
mod steps_life;
mod steps_recover;
mod steps_start;
