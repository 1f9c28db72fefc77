//! Windows that end at or before their row, in the place of DataFusion's own.
//!
//! DataFusion 55 leaves DISTINCT aside in first, last and nth_value over windows,
//! knows no FILTER there, refuses aggregates that cannot retract in frames that
//! move, and where floats can, one NaN stays in the sum for ever. [`rule`] takes
//! such expressions out of DataFusion's window plans, so that SQL, batch and
//! training compute them by the same kernels ([`crate::asof::kernels`]). What a
//! frame is stays plain SQL's.
//!
//! | module | is |
//! |---|---|
//! | [`frame`] | which frames are taken over |
//! | [`rule`] | the optimizer rule: splits a window plan |
//! | [`node`] | the logical node |
//! | [`planner`] | from the logical node to the operator |
//! | [`exec`] | the operator: distribution, order, properties |
//! | [`sorted`], [`axis`] | the rows of each frame, among rows in memory |
//! | [`answers`] | their values |
//! | [`running`] | frames without a start, of partitions too long to hold |
//! | [`stream`] | which rows are in memory, and for how long |
//! | [`codec`] | the operator as bytes |
//!
//! Nothing here knows of features or of t: a row's frame is its own.

mod answers;
mod axis;
mod codec;
mod columns;
mod exec;
mod frame;
mod node;
mod planner;
mod rule;
mod running;
mod sorted;
mod stream;

pub use codec::PrecedingWindowsCodec;
pub use exec::{PrecedingWindowsExec, PrecedingWindowsSpec, Window};
pub(crate) use frame::reaches_no_further;
pub use frame::{Edge, Frame};
pub(crate) use planner::PrecedingWindowsPlanner;
pub(crate) use rule::{TakePrecedingWindows, positional};
