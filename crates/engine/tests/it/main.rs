//! Tests of the engine through its public interface.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod aggregates;
mod asof;
mod check;
mod copy;
mod cuts;
mod distinct;
mod lender_functions;
mod lookups;
mod memory;
mod outputs;
mod preceding;
mod project;
mod rules;
mod runs;
mod training;
mod types;
mod values;
