//! Reads over the in-memory store and definitions made by hand.

mod answers;
mod refusals;
mod versions;
