//! Room `containerd`.
