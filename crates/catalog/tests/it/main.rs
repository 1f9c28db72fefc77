//! The catalog from outside.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod commit;
mod durable;
mod fixtures;
mod plan;
