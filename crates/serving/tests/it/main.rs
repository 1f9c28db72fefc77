//! Reads over the in-memory store and definitions made by hand.

mod answers;
mod project;
mod refusals;
mod versions;
