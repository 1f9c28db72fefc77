//! Tests of the engine through its public interface.

mod project;
mod runs;
