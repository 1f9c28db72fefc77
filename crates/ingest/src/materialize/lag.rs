//! Whether the runs of a view reach what another view's run reads of them.

use std::fmt;

use granary_engine::{Engine, OfflineTable};
use granary_model::UtcMicros;
use granary_model::definitions::FeatureView;

use crate::error::IngestError;

/// How a view's runs fall short of a time; its words follow "the view ..".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lag {
    NeverRun,
    /// Of a view whose value is that of a run at or before the time.
    RunsLaterOnly {
        first: UtcMicros,
    },
    /// Of an incremental view: rows after this are missing.
    RunsUpTo(UtcMicros),
}

impl fmt::Display for Lag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeverRun => f.write_str("was never materialised"),
            Self::RunsLaterOnly { first } => {
                write!(
                    f,
                    "has no run at or before that (the first is as of {first})"
                )
            }
            Self::RunsUpTo(watermark) => write!(f, "is materialised up to {watermark} only"),
        }
    }
}

/// The first of some ascending times at which a view's rows are not all there,
/// and why; `None` if they are at each.
pub(crate) async fn lag(
    engine: &Engine,
    view: &FeatureView,
    times: &[UtcMicros],
) -> Result<Option<(UtcMicros, Lag)>, IngestError> {
    let Some(first) = times.first().copied() else {
        return Ok(None);
    };
    let Some(table) = OfflineTable::open(engine, view).await? else {
        return Ok(Some((first, Lag::NeverRun)));
    };
    if view.is_incremental() {
        let watermark = table.watermark();
        let late = times.iter().find(|t| **t > watermark);
        return Ok(late.map(|t| (*t, Lag::RunsUpTo(watermark))));
    }
    Ok(match table.run_times().await?.first().copied() {
        None => Some((first, Lag::NeverRun)),
        Some(run) if run > first => Some((first, Lag::RunsLaterOnly { first: run })),
        Some(_) => None,
    })
}
