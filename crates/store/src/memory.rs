//! The in-memory store, for tests.

#[derive(Debug, Default)]
pub struct MemoryStore {}
