//! One state of all definitions.

use std::collections::BTreeMap;

use granary_model::UtcMicros;
use granary_model::definitions::Definitions;
use granary_model::fingerprint::Fingerprint;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The format that this version writes.
pub const FORMAT: u32 = 1;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    pub format: u32,
    /// 1, 2, ...
    pub number: u64,
    /// Random: tells the committer whether an uncertain put was its own.
    pub commit_id: Uuid,
    pub committed_at: UtcMicros,
    pub committed_by: String,
    pub definitions: Definitions,
    /// Every version a view ever had, by its number; dropped views too.
    pub versions: BTreeMap<String, Vec<VersionRecord>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionRecord {
    pub version: u32,
    pub fingerprint: Fingerprint,
    /// The first snapshot that had it.
    pub since_snapshot: u64,
    pub since: UtcMicros,
}
