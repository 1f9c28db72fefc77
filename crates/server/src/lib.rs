//! Granary over the wire: gRPC, and HTTP beside it.
//!
//! An rpc is decode, call, encode. What it calls is in `granary-serving`,
//! `granary-ingest` and `granary-catalog`; this crate makes the caller, keeps
//! the bounds, counts, and turns errors into statuses in one table
//! ([`status`]). It constructs no component and reads no environment: see
//! [`serve()`] for what it is given.

// Whether the future of a read may go to another thread is a question of all types
// that DataFusion's plans are made of.
#![recursion_limit = "256"]

mod admission;
#[cfg(test)]
mod allocations;
mod answer;
mod background;
mod beside;
mod bodies;
mod catalog;
mod connections;
mod edge;
mod features;
mod historical;
mod http;
mod items;
mod materialization;
mod metrics;
mod read_log;
mod runs;
mod scheduling;
mod serve;
pub mod settings;
mod short;
pub mod status;
mod streams;
mod unread;
mod wire;
mod work;

pub use connections::transport;
pub use scheduling::answer_soon;
pub use serve::{Components, Listeners, ServerError, serve};
pub use settings::ServerSettings;
