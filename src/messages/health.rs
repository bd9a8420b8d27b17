//! The conversation with `HealthProbe`: what state containerd is in.

use super::Request;
use tokio::sync::watch;

/// The verdict on containerd, as Nomad's fingerprint wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Never seen on this machine.
    Undetected,
    /// Seen, but not able to run tasks now.
    Unhealthy,
    /// Serving.
    Healthy,
}

/// What the fingerprint says. Descriptions and attributes are stable: no counters, no times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// See [`Health`].
    pub health: Health,
    /// One sentence for a human.
    pub description: String,
    /// Node attributes (`driver.containerd-driver.…`), sorted by key.
    pub attributes: Vec<(String, Attribute)>,
}

/// A typed node attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attribute {
    /// Text.
    Text(String),
    /// Truth value.
    Bool(bool),
}

/// Subscribe to the verdict: the receiver holds the latest and wakes on change.
#[derive(Debug, Clone, Copy)]
pub struct SubscribeHealth;

impl Request for SubscribeHealth {
    type Reply = watch::Receiver<Verdict>;
    const NAME: &'static str = "SubscribeHealth";
}

/// Something suggests that the verdict is out of date (the event stream broke): probe now.
#[derive(Debug, Clone, Copy)]
pub struct ProbeNow;

impl super::Fact for ProbeNow {
    const NAME: &'static str = "ProbeNow";
}
