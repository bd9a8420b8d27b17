//! What a container looks like and what it is called. Pure: no I/O, no clock, no actor, no protobuf.

pub mod error;
pub mod go;
pub mod identity;
pub mod image;
pub mod options;
pub mod reference;
pub mod record;
pub mod schema;
pub mod secret;
pub mod settings;
pub mod table;
pub mod task;
mod value;

pub use error::SpecError;
