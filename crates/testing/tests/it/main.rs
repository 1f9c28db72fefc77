//! Tests of the whole: the repository's own rules, and real data from files to gRPC.

mod lender;
mod repository;
