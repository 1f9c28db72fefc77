//! The data of `granary demo`: a lender's year, made from a seed.
//!
//! Everything is a pure function of (seed, number of customers, end), so that
//! two runs write the same files. Two frauds are planted and known: a village
//! that borrows together, and a farm of phone numbers that nobody calls. What is
//! made knows nothing of definitions or of how features come about; the tables
//! are those of `sql/canonical.sql`, the events that of `sql/streams.sql`.

mod events;
mod facts;
pub(crate) mod frauds;
mod people;
pub(crate) mod project;
mod table;
pub(crate) mod tour;

pub(crate) use facts::write_tables;
pub(crate) use people::World;
