//! What there is to read.

use std::collections::BTreeMap;

use granary_model::UtcMicros;
use granary_proto as pb;

use crate::client::Client;
use crate::error::ClientError;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ObjectKind {
    Entity,
    Table,
    View,
    Stream,
    FeatureView,
    OnDemandFeatureView,
    FeatureService,
    /// Of a server that is newer than this client.
    Other,
}

impl ObjectKind {
    fn decode(kind: pb::ObjectKind) -> Self {
        match kind {
            pb::ObjectKind::Entity => Self::Entity,
            pb::ObjectKind::Table => Self::Table,
            pb::ObjectKind::View => Self::View,
            pb::ObjectKind::Stream => Self::Stream,
            pb::ObjectKind::FeatureView => Self::FeatureView,
            pb::ObjectKind::OnDemandFeatureView => Self::OnDemandFeatureView,
            pb::ObjectKind::FeatureService => Self::FeatureService,
            pb::ObjectKind::Unspecified => Self::Other,
        }
    }

    fn encode(self) -> pb::ObjectKind {
        match self {
            Self::Entity => pb::ObjectKind::Entity,
            Self::Table => pb::ObjectKind::Table,
            Self::View => pb::ObjectKind::View,
            Self::Stream => pb::ObjectKind::Stream,
            Self::FeatureView => pb::ObjectKind::FeatureView,
            Self::OnDemandFeatureView => pb::ObjectKind::OnDemandFeatureView,
            Self::FeatureService => pb::ObjectKind::FeatureService,
            Self::Other => pb::ObjectKind::Unspecified,
        }
    }
}

/// An object in one line; what is empty is not said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectListing {
    pub name: String,
    pub kind: ObjectKind,
    pub owner: String,
    pub comment: String,
    /// Of feature views; else 0.
    pub version: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnInfo {
    pub name: String,
    pub data_type: String,
    pub comment: String,
    /// key, event time, feature, ...
    pub role: String,
    /// Of a feature of a service: `view.feature`.
    pub source: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunInfo {
    pub as_of: UtcMicros,
    pub committed_at: UtcMicros,
    pub rows: u64,
    pub mode: String,
}

/// An object in full.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    pub snapshot: u64,
    pub listing: ObjectListing,
    pub columns: Vec<ColumnInfo>,
    pub properties: BTreeMap<String, String>,
    pub depends_on: Vec<String>,
    pub used_by: Vec<String>,
    pub sql: String,
    /// Newest first.
    pub runs: Vec<RunInfo>,
}

fn decode_listing(summary: pb::ObjectSummary) -> ObjectListing {
    ObjectListing {
        kind: ObjectKind::decode(summary.kind()),
        name: summary.name,
        owner: summary.owner,
        comment: summary.comment,
        version: summary.version,
    }
}

impl Client {
    /// Every object of some kinds, or of all if none is named, by name.
    pub async fn list(&self, kinds: &[ObjectKind]) -> Result<Vec<ObjectListing>, ClientError> {
        let request = pb::ListObjectsRequest {
            kinds: kinds.iter().map(|k| k.encode().into()).collect(),
        };
        let answer = self.catalog().list_objects(self.bounded(request)).await?;
        let objects = answer.into_inner().objects.into_iter();
        Ok(objects.map(decode_listing).collect())
    }

    pub async fn describe(&self, name: &str) -> Result<ObjectInfo, ClientError> {
        let request = pb::DescribeObjectRequest {
            name: name.to_owned(),
        };
        let answer = self
            .catalog()
            .describe_object(self.bounded(request))
            .await?;
        let answer = answer.into_inner();
        let columns = answer.columns.into_iter().map(|c| ColumnInfo {
            name: c.name,
            data_type: c.r#type,
            comment: c.comment,
            role: c.role,
            source: c.source,
        });
        let runs = answer.runs.into_iter().map(|r| RunInfo {
            as_of: UtcMicros(r.as_of),
            committed_at: UtcMicros(r.committed_at),
            rows: r.rows,
            mode: r.mode,
        });
        Ok(ObjectInfo {
            snapshot: answer.snapshot,
            listing: decode_listing(answer.object.unwrap_or_default()),
            columns: columns.collect(),
            properties: answer.properties.into_iter().collect(),
            depends_on: answer.depends_on,
            used_by: answer.used_by,
            sql: answer.sql,
            runs: runs.collect(),
        })
    }
}
