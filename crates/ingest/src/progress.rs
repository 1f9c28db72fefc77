//! How whoever started a materialisation follows it.

use granary_model::UtcMicros;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    Queued,
    Computing { rows: u64 },
    Committed { rows: u64 },
    Publishing { rows: u64 },
    Done { rows: u64 },
    Skipped { reason: String },
    Failed { message: String },
}

/// Told of every step; must not block.
pub trait Progress: Send + Sync {
    fn stage(&self, view: &str, as_of: UtcMicros, stage: Stage);
}

/// Tells nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn stage(&self, _view: &str, _as_of: UtcMicros, _stage: Stage) {}
}
