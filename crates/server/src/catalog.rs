//! The service `Catalog`: what there is to read.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use granary_catalog::{ColumnDescription, ObjectDescription, ObjectKind, ObjectSummary};
use granary_catalog::{Snapshot, describe, summaries};
use granary_engine::{Engine, EngineError, OfflineTable, RunMode, RunRecord};
use granary_model::{Definitions, ErrorKind, did_you_mean};
use granary_proto as pb;
use granary_proto::catalog_server::Catalog;
use granary_serving::Reader;
use tonic::{Request, Response, Status};

use crate::status::status;

/// Runs that a description tells of.
const RUNS_MAX: usize = 10;

#[derive(Debug)]
pub(crate) struct CatalogRpc {
    pub reader: Arc<Reader>,
    pub engine: Engine,
}

#[tonic::async_trait]
impl Catalog for CatalogRpc {
    async fn list_objects(
        &self,
        request: Request<pb::ListObjectsRequest>,
    ) -> Result<Response<pb::ListObjectsResponse>, Status> {
        let kinds: BTreeSet<i32> = request.into_inner().kinds.into_iter().collect();
        let snapshot = self.reader.snapshot();
        let all = summaries(&snapshot.definitions)
            .into_iter()
            .map(encode_summary);
        let asked = |o: &pb::ObjectSummary| kinds.is_empty() || kinds.contains(&o.kind);
        Ok(Response::new(pb::ListObjectsResponse {
            snapshot: snapshot.number,
            objects: all.filter(asked).collect(),
        }))
    }

    async fn describe_object(
        &self,
        request: Request<pb::DescribeObjectRequest>,
    ) -> Result<Response<pb::DescribeObjectResponse>, Status> {
        let name = request.into_inner().name;
        let mut snapshot = self.reader.snapshot();
        let mut described = describe(&snapshot.definitions, &name);
        if described.is_none() && self.reader.look_for_missing(&snapshot).await {
            snapshot = self.reader.snapshot();
            described = describe(&snapshot.definitions, &name);
        }
        let described = described.ok_or_else(|| unknown(&snapshot.definitions, &name))?;
        let runs = self.runs(&snapshot, &name).await;
        Ok(Response::new(encode(&snapshot, described, runs)))
    }
}

impl CatalogRpc {
    /// The newest runs of a feature view.
    async fn runs(&self, snapshot: &Snapshot, name: &str) -> Result<Vec<RunRecord>, EngineError> {
        let Some(view) = snapshot.definitions.feature_views.get(name) else {
            return Ok(Vec::new());
        };
        match OfflineTable::open(&self.engine, view).await? {
            Some(table) => table.runs(RUNS_MAX).await,
            None => Ok(Vec::new()),
        }
    }
}

fn unknown(definitions: &Definitions, name: &str) -> Status {
    let known = summaries(definitions);
    let near = did_you_mean(name, known.iter().map(|o| o.name.as_str()));
    status(
        ErrorKind::NotFound,
        format!("nothing is named {name:?}{near}"),
    )
}

fn encode(
    snapshot: &Snapshot,
    described: ObjectDescription,
    runs: Result<Vec<RunRecord>, EngineError>,
) -> pb::DescribeObjectResponse {
    let mut properties: HashMap<String, String> = described.properties.into_iter().collect();
    let tags = described.tags.into_iter();
    properties.extend(tags.map(|(tag, value)| (format!("tag {tag}"), value)));
    // A description is worth having where the runs cannot be read.
    let runs = runs.unwrap_or_else(|error| {
        tracing::warn!(%error, "runs cannot be read");
        properties.insert("runs cannot be read".into(), error.to_string());
        Vec::new()
    });
    pb::DescribeObjectResponse {
        snapshot: snapshot.number,
        object: Some(encode_summary(described.summary)),
        columns: described.columns.into_iter().map(encode_column).collect(),
        properties,
        depends_on: described.depends_on,
        used_by: described.used_by,
        sql: described.sql,
        runs: runs.iter().map(encode_run).collect(),
    }
}

fn encode_summary(summary: ObjectSummary) -> pb::ObjectSummary {
    let kind = match summary.kind {
        ObjectKind::Entity => pb::ObjectKind::Entity,
        ObjectKind::Table => pb::ObjectKind::Table,
        ObjectKind::View => pb::ObjectKind::View,
        ObjectKind::Stream => pb::ObjectKind::Stream,
        ObjectKind::FeatureView => pb::ObjectKind::FeatureView,
        ObjectKind::OnDemandView => pb::ObjectKind::OnDemandFeatureView,
        ObjectKind::FeatureService => pb::ObjectKind::FeatureService,
        ObjectKind::Grant => pb::ObjectKind::Unspecified,
    };
    pb::ObjectSummary {
        name: summary.name,
        kind: kind.into(),
        owner: summary.owner.unwrap_or_default(),
        comment: summary.comment.unwrap_or_default(),
        version: summary.version.unwrap_or_default(),
    }
}

fn encode_column(column: ColumnDescription) -> pb::ColumnDescription {
    pb::ColumnDescription {
        name: column.name,
        r#type: column.data_type,
        comment: column.comment.unwrap_or_default(),
        role: column.role.as_str().to_owned(),
        source: column.source.unwrap_or_default(),
    }
}

fn encode_run(run: &RunRecord) -> pb::RunSummary {
    let mode = match run.mode {
        RunMode::Append => "append",
        RunMode::Replace => "replace",
    };
    pb::RunSummary {
        as_of: run.as_of.0,
        committed_at: run.committed_at.0,
        rows: run.rows,
        mode: mode.to_owned(),
    }
}
