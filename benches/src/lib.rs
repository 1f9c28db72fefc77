//! Benchmarks of whole jobs, each against a named peer or bound in the same run.
//!
//! Machines are shared and noisy, so the two sides alternate, in processes of
//! their own, and the medians and their ratio are what counts. The binaries:
//!
//! - `materialize`: a view of 10 M rows, against reading, sorting and writing
//!   the same Parquet;
//! - `read`: online reads over gRPC, against a bare tonic service and one over
//!   Redis, and under load, change, overload and restarts; also a bench, small;
//! - `training`: training sets, against DuckDB and Polars;
//! - `restart`: time until ready with 5 M entities, and the first cold reads.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "benchmarks report on standard output"
)]

use mimalloc::MiMalloc;

/// As in the command.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

pub mod data;
pub mod process;
pub mod training;
pub mod wire;
