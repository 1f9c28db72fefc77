//! Materialisation from outside.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test that cannot go on fails, and one that is skipped says so"
)]

mod bundles;
mod claims;
mod consumer;
mod crash;
mod full;
mod full_disk;
mod history;
mod online;
mod project;
mod refresh;
mod runs;
mod streams;
mod windowed;
