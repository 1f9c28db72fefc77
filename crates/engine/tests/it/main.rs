//! Tests of the engine through its public interface.

mod check;
mod project;
mod runs;
