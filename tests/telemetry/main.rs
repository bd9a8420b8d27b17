//! What can be observed from outside: spans and metrics over real OTLP, one connected tree per request, trace context on
//! its way in and on to containerd, and nothing at all when nobody asked for it.
//!
//! Needs `CD_DRIVER_BIN` and a containerd; `CD_KIND` is `1.6` (default) or `2.4`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on panics")]

mod catalogue;
mod containerd;
mod metrics;
mod scene;
mod silence;
mod trees;
