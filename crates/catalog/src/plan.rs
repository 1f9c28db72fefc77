//! What would change, and what that costs.
//!
//! A plan is made of definitions alone: it knows which versions there were,
//! and nothing of what has been materialised.

use std::collections::BTreeMap;
use std::fmt;

use granary_model::UtcMicros;
use granary_model::definitions::Definitions;
use granary_model::fingerprint::Fingerprint;

use crate::difference;
use crate::snapshot::{Snapshot, VersionRecord};

/// The difference between a snapshot and the desired definitions.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The snapshot it was made from; 0: none.
    pub base: u64,
    /// First what is made or changed, in the order in which objects build on
    /// each other, then what is dropped, the other way round; by name within.
    pub changes: Vec<Change>,
    /// The desired definitions, with version numbers.
    pub next: Definitions,
    /// Version history after the commit.
    pub versions: BTreeMap<String, Vec<VersionRecord>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeAction {
    Create,
    /// Owner, comment, tags, TTL, grants, ...: no new version.
    Alter,
    /// A new version.
    Replace,
    Drop,
}

/// In the order in which objects build on each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ObjectKind {
    Entity,
    Table,
    View,
    Stream,
    FeatureView,
    OnDemandView,
    FeatureService,
    Grant,
}

impl ObjectKind {
    /// In words: `feature view`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Entity => "entity",
            Self::Table => "table",
            Self::View => "view",
            Self::Stream => "stream",
            Self::FeatureView => "feature view",
            Self::OnDemandView => "on-demand feature view",
            Self::FeatureService => "feature service",
            Self::Grant => "grant",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Change {
    pub action: ChangeAction,
    pub object: ObjectKind,
    /// Of a grant: the object that it is on.
    pub name: String,
    /// What differs: "query changed", "TTL 30 days -> 60 days", "feature amount_30d added", ...
    pub details: Vec<String>,
    /// Of a feature view: the version that it will have.
    pub version: Option<u32>,
    /// "needs a backfill", "nothing to compute", ...
    pub cost: Option<String>,
}

/// `customer_balance: query changed, version 3, needs a backfill`
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.name)?;
        let version = self.version.map(|v| format!("version {v}"));
        let parts = self.details.iter().chain(&version).chain(&self.cost);
        for (i, part) in parts.enumerate() {
            write!(f, "{}{part}", if i == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

impl Plan {
    /// Compares; gives the views of `desired` their version numbers: a
    /// fingerprint that the history knows keeps its number, another gets the
    /// greatest number plus one.
    pub fn new(base: Option<&Snapshot>, desired: Definitions) -> Self {
        let number = base.map_or(0, |s| s.number);
        let mut versions = base.map(|s| s.versions.clone()).unwrap_or_default();
        let mut next = desired;
        for view in next.feature_views.values_mut() {
            let history = versions.entry(view.name.clone()).or_default();
            view.version = version_of(history, &view.fingerprint, number + 1);
        }
        for view in next.on_demand_views.values_mut() {
            let history = versions.entry(view.name.clone()).or_default();
            view.version = version_of(history, &view.fingerprint, number + 1);
        }
        let nothing = Definitions::default();
        let before = base.map_or(&nothing, |s| &s.definitions);
        let known = |view: &str, version: u32| {
            base.and_then(|s| s.versions.get(view))
                .is_some_and(|records| records.iter().any(|r| r.version == version))
        };
        Self {
            base: number,
            changes: difference::changes(before, &next, &known),
            next,
            versions,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

/// The number of a fingerprint, which is added to the history where it is new.
fn version_of(
    history: &mut Vec<VersionRecord>,
    fingerprint: &Fingerprint,
    since_snapshot: u64,
) -> u32 {
    if let Some(record) = history.iter().find(|r| r.fingerprint == *fingerprint) {
        return record.version;
    }
    let version = history.iter().map(|r| r.version).max().unwrap_or(0) + 1;
    history.push(VersionRecord {
        version,
        fingerprint: fingerprint.clone(),
        since_snapshot,
        // The commit sets it: a plan has no time of its own.
        since: UtcMicros::default(),
    });
    version
}
