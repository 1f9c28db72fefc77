//! What end-to-end tests and benchmarks stand on: a whole project in one process.

pub mod project;

pub use project::TestProject;
