//! Room `plugin`.
