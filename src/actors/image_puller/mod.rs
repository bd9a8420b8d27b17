//! Images: resolve, fetch, unpack.

mod ensure;
mod facts;
mod fetch;
mod lease;
mod plan;
mod pull;
mod refusal;
mod registry;
mod transfer;
mod unpack;

pub use ensure::{Progress, PullConfig, PullEvent, ensure};
pub use facts::{FactsMemory, image_facts};
pub use registry::Registries;
