//! Room `host`.

pub mod rootfs;
