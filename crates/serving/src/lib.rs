//! Every online read: compile a read plan, fetch, assemble.
//!
//! One catalog snapshot answers a read from start to end. This crate never
//! writes; it knows nothing of gRPC.

pub mod error;
pub mod plan;
pub mod read;
pub mod reader;

pub use error::ServingError;
pub use read::{FeatureColumn, ReadRequest, ReadResponse, ReadTarget};
pub use reader::{Reader, ServingSettings};
