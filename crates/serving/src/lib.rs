//! Every online read: compile a read plan, fetch, answer.
//!
//! One read follows this path: [`Reader::answer`] takes the current state (one
//! `Arc`, swapped whole by [`Reader::refresh`]), finds the target's plan in it,
//! binds the request's key columns to it, fetches each group of views that
//! share a key, and has columns in the order that was asked for. So one
//! catalog snapshot and one set of pinned generations answer a read from start
//! to end.
//!
//! This crate never writes; it knows nothing of gRPC.

pub mod answer;
mod elements;
pub mod error;
mod fetch;
mod keys;
mod live;
pub mod plan;
mod query;
mod query_cache;
pub mod read;
pub mod reader;
mod request_events;
mod state;
pub mod training;
pub mod verify;

pub use answer::{Answer, AnswerColumn, ColumnValues};
pub use error::ServingError;
pub use read::{AsOf, FeatureColumn, ReadRequest, ReadResponse, ReadTarget, ViewAsOf};
pub use reader::{Reader, ReaderCounts, ServingSettings};
