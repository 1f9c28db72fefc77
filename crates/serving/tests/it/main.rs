//! Reads over the in-memory store and definitions made by hand.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "what these tests stand on"
)]

mod answers;
mod bindings;
mod queries;
mod refusals;
mod versions;
mod windowed;
