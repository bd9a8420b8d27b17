//! How things are named when they are observed, and how that leaves the process.
//!
//! Closed sets of names ([`names`], [`counters`]), the trace context on its way in and out ([`propagate`]) and the
//! exporter ([`export`]). Anyone may import this room; it imports nothing of ours. Nothing here is done per byte, per
//! line or per poll.

pub mod catalogue;
pub mod counters;
pub mod export;
pub mod lazy;
pub mod names;
pub mod propagate;

pub use counters::Counter;
pub use export::{LogLayer, Options, Telemetry, TelemetryError};
