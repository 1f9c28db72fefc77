//! What end-to-end tests and benchmarks stand on: a whole project in one
//! process, on disk or in memory.

pub mod memory;
pub mod project;

pub use project::TestProject;
