//! As-of operators: what was known of a key at a time, for many keys and times.
//!
//! An operator has two inputs: the *spine* (keys, a time t, any further
//! columns), whose rows come out once each, in order and untouched, and the
//! *events* of one source. [`join`] adds the latest event of the key as of t,
//! [`window`] aggregates of the key's events over windows that end at t.
//! [`kernels`] computes aggregates over ranges of sorted events, as [`frame`]
//! gives them, and does no IO.
//!
//! Nothing here knows of feature views, services or statuses of features:
//! whoever plans a training set compiles views into these operators.

pub mod codec;
mod compact;
pub mod frame;
pub mod join;
pub mod kernels;
mod keys;
pub(crate) mod order;
mod parts;
pub mod spine;
mod time;
pub mod window;

pub use codec::AsOfCodec;
pub use frame::{Frame, FrameBounds};
pub use join::{AsOfJoinExec, AsOfJoinSpec, AsOfLookup, Match, Run, Value};
pub use kernels::Call;
pub(crate) use keys::NO_GROUP;
pub(crate) use time::{micros, timestamps};
pub use window::{
    AS_OF_COLUMN, AsOfWindowExec, AsOfWindowSpec, AsOfWindows, EventSet, GroupedEvents,
    MergedAggregates, PartialRows, WindowAggregate, event_schema,
};
