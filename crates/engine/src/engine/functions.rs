//! Functions of our own, known in every session: `as_of()`, what a lender needs
//! (a file a family), and aggregates where SQL has none.
//!
//! | function | is |
//! |---|---|
//! | `as_of()` | the T of a run, a read or a session |
//! | `time_since(t [, unit])` | from t to `as_of()` |
//! | `top_k(x, k)` | a list of the k most frequent values, of equally frequent ones the smaller first |
//! | `top_share(x, k)` | the share of the rows that the k most frequent values hold, 0 to 1 |
//! | `entropy(x)` | Shannon's entropy of the values, in bits |
//! | `decayed_sum(x, half_life)` | the sum of x · 2^−(age / half_life) |
//!
//! NULL is counted nowhere, and of no rows each aggregate is NULL. `decayed_sum`
//! needs times, which [`CallPlanner`] takes from where the call stands.

mod arguments;
mod as_of;
mod credit;
mod decayed;
mod entropy;
mod frequencies;
mod geo;
mod h3;
mod keyed_hash;
mod normalize_id;
mod only_row;
mod phone;
mod planner;
mod ranked;
mod similarity;
mod time_since;
mod top_k;
mod top_share;
mod utc_micros;

use std::sync::Arc;

use datafusion::logical_expr::{AggregateUDF, ScalarUDF};
use granary_model::UtcMicros;

use as_of::AsOf;
use credit::{Binned, DaysPastDue};
use decayed::{Decay, DecayedLatest, DecayedSum};
use entropy::Entropy;
use geo::GreatCircleDistance;
use h3::H3;
use keyed_hash::KeyedHash;
use normalize_id::NormalizeId;
use phone::PhoneE164;
use similarity::JaroWinkler;
use time_since::{Elapsed, TimeSince};
use top_k::TopK;
use top_share::TopShare;

pub use as_of::AS_OF_FUNCTION;
pub(super) use keyed_hash::Salt;
pub(crate) use only_row::OnlyRow;
pub(super) use planner::CallPlanner;
pub(crate) use ranked::ranked;
pub(super) use time_since::TakeTimeSinceApart;
pub(crate) use utc_micros::{latest_of, utc_micros, utc_micros_function};

/// `as_of()`, which is T.
pub(super) fn as_of(t: UtcMicros) -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::from(AsOf::new(t)))
}

pub(super) fn scalars(salt: Option<Salt>) -> Vec<Arc<ScalarUDF>> {
    let mut scalars: Vec<ScalarUDF> = vec![
        Decay::new().into(),
        GreatCircleDistance::new().into(),
        PhoneE164::new().into(),
        JaroWinkler::new().into(),
        DaysPastDue::new().into(),
        Binned::new().into(),
        KeyedHash::new(salt).into(),
        NormalizeId::new().into(),
        TimeSince::new().into(),
    ];
    scalars.extend(H3::all().map(ScalarUDF::from));
    scalars.extend(Elapsed::all().map(ScalarUDF::from));
    let scalars = scalars.into_iter().map(Arc::new);
    scalars.chain([utc_micros_function()]).collect()
}

pub(super) fn aggregates() -> Vec<Arc<AggregateUDF>> {
    [
        AggregateUDF::from(TopK::new()),
        AggregateUDF::from(TopShare::new()),
        AggregateUDF::from(Entropy::new()),
        AggregateUDF::from(DecayedSum::new()),
        AggregateUDF::from(DecayedLatest::new()),
    ]
    .map(Arc::new)
    .to_vec()
}
