//! How things are named when they are observed, and how that leaves the process.
//!
//! Closed sets of names ([`names`], [`counters`], [`gauges`]), the trace context on its way in and out ([`propagate`]) and the
//! export ([`export`]) of spans ([`lazy`]) and metrics ([`meters`]). Anyone may import this room; it imports nothing of ours. Nothing here is done per byte, per
//! line or per poll.

pub mod aside;
pub mod catalogue;
pub mod counters;
pub mod export;
pub mod gauges;
pub mod lazy;
pub mod meters;
pub mod names;
pub mod propagate;
pub mod steps;

pub use counters::Counter;
pub use export::{LogLayer, Options, Signal, Telemetry, TelemetryError};
pub use gauges::Gauge;
