//! Tests of the engine through its public interface.

mod check;
mod cuts;
mod lookups;
mod memory;
mod project;
mod runs;
mod types;
