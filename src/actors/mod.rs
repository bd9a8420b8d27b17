//! Room `actors`.
