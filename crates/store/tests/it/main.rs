//! The store's integration tests.

mod conformance;
