//! What a generation lacks of its offline table.

use granary_engine::{RunMode, RunRecord};
use granary_model::definitions::FeatureView;
use granary_model::{UtcMicros, ViewKind};
use granary_store::Coverage;

/// What has to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    Nothing,
    /// Every row, into a new generation.
    All,
    /// The rows of the commits after an offline version.
    Added {
        since: u64,
    },
    /// No row: runs were committed that are not the newest.
    Coverage,
}

/// The offline table, as it is now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Offline<'a> {
    pub version: u64,
    pub watermark: UtcMicros,
    /// Runs after the published offline version; `None`: not all are known.
    pub missing: Option<&'a [RunRecord]>,
}

/// Whether the view's online rows have an event time of their own.
pub(super) fn has_event_time(view: &FeatureView) -> bool {
    view.kind == ViewKind::Timestamped
}

/// Rows are only ever added by joins, so whatever may take rows away (a
/// replaced range, another whole run) needs a new generation.
pub(super) fn need(view: &FeatureView, online: Option<&Coverage>, offline: &Offline<'_>) -> Need {
    let Some(online) = online else {
        return Need::All;
    };
    // An offline table that went back was made anew under the same name.
    if online.offline_version > offline.version || outgrown(view, online, offline.watermark) {
        return Need::All;
    }
    if online.offline_version == offline.version {
        return Need::Nothing;
    }
    let Some(missing) = offline.missing else {
        return Need::All;
    };
    if view.is_incremental() {
        return match missing.iter().any(|run| run.mode == RunMode::Replace) {
            true => Need::All,
            false => Need::Added {
                since: online.offline_version,
            },
        };
    }
    // Older whole runs never take the place of the newest.
    match missing.iter().any(|run| run.as_of >= online.as_of) {
        true => Need::All,
        false => Need::Coverage,
    }
}

/// Whether rows are asked for that were left out when the TTL was shorter.
fn outgrown(view: &FeatureView, online: &Coverage, watermark: UtcMicros) -> bool {
    match (online.ttl, view.ttl) {
        (None, _) => false,
        (Some(_), None) => has_event_time(view),
        (Some(old), Some(new)) => {
            has_event_time(view) && new.before(watermark) < old.before(watermark)
        }
    }
}

#[cfg(test)]
mod tests;
