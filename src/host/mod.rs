//! Room `host`.

pub mod liveness;
pub mod rootfs;
