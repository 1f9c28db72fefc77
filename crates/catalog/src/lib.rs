//! The catalog: definitions as numbered, immutable snapshots on object storage.
//!
//! It knows what is defined and which versions there were, and nothing of data.
//!
//! # Format
//!
//! `catalog/<20-digit number>.json` under the root, one object a snapshot,
//! committed by conditional put. See [`snapshot`].

pub mod catalog;
pub mod describe;
mod difference;
pub mod durable;
pub mod error;
pub mod plan;
pub mod snapshot;

pub use catalog::Catalog;
pub use describe::{
    ColumnDescription, ColumnRole, ObjectDescription, ObjectSummary, describe, summaries,
};
pub use durable::DurableLocal;
pub use error::{CatalogError, storage_kind};
pub use plan::{Change, ChangeAction, ObjectKind, Plan};
pub use snapshot::Snapshot;
