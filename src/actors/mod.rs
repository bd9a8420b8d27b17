//! Room `actors`.

pub mod image_puller;
