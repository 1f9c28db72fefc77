//! Runs the built binary in folders of its own, as a person or a script would.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test that cannot go on has failed, and one that is skipped says so"
)]

mod consume;
mod demo;
mod get_historical;
mod golden;
mod history;
mod no_loss;
mod on_demand;
mod options;
mod project;
mod push;
mod races;
mod refusals;
mod retention;
mod serve;
mod verify;
