//! Tests of the whole: the repository's own rules, and real data from files to gRPC.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says why it was skipped"
)]

mod conformance;
mod lender;
mod live;
mod parity;
mod repository;
mod request_events;
mod training;
mod verify;
