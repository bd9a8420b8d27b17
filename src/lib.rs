//! containerd-driver: a Nomad task driver for containerd, written as a supervised, event-driven actor system.
//!
//! A map of the rooms:
//!
//! | room | holds |
//! |---|---|
//! | [`spec`] | what a container looks like and is called: pure |
//! | [`messages`] | what may be said: requests, facts, errors |
//! | [`actors`] | what happens when: all state and all decisions over time |
//! | [`containerd`] | gateway to containerd: no policy |
//! | [`host`] | gateway to the kernel: FIFOs, pump threads, paths, mounts |
//! | [`plugin`] | go-plugin and Nomad wire: no state |
//! | [`cli`] | the other front door: `run`, `config`, `version` |
//! | [`telemetry`] | names, context, exporters |
//! | [`app`] | the only file that knows every room |
#![forbid(unsafe_code)]

pub mod actors;
pub mod app;
pub mod cli;
pub mod containerd;
pub mod host;
pub mod messages;
pub mod plugin;
pub mod spec;
pub mod telemetry;
