//! What would change, and what that costs.

use granary_model::definitions::Definitions;

use crate::snapshot::Snapshot;

/// The difference between a snapshot and the desired definitions.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The snapshot it was made from; 0: none.
    pub base: u64,
    pub changes: Vec<Change>,
    /// The desired definitions, with version numbers.
    pub next: Definitions,
    /// Version history after the commit.
    pub versions: std::collections::BTreeMap<String, Vec<crate::snapshot::VersionRecord>>,
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
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

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Change {
    pub action: ChangeAction,
    pub object: ObjectKind,
    pub name: String,
    /// What differs: "query", "TTL", "column amount_30d added", ...
    pub details: Vec<String>,
    /// Of a feature view: the version that it will have.
    pub version: Option<u32>,
    /// "needs a backfill", "nothing to compute", ...
    pub cost: Option<String>,
}

impl Plan {
    pub fn new(_base: Option<&Snapshot>, _desired: Definitions) -> Self {
        todo!()
    }

    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}
