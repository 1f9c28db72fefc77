//! A stream as a relation: its events, wherever they are kept.
//!
//! The engine knows no event store: whoever has the events gives them as a
//! [`StreamSource`]. Of a stream that nobody gives, names and types stand, and
//! a scan is an error.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Result;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::TableType;
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::Expr;
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{
    Boundedness, EmissionType, ReplaceChildrenOptions,
};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties,
};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use granary_model::definitions::Stream;

use crate::error::EngineError;

/// Events of a scan, batch by batch.
pub type EventBatches = BoxStream<'static, std::result::Result<RecordBatch, EngineError>>;

/// Where the events of streams are.
#[async_trait]
pub trait StreamSource: fmt::Debug + Send + Sync {
    /// Every event that is acknowledged now, each once, in any order; of each
    /// the columns at `projection` in [`Stream::row_schema`], in that order.
    /// Of no columns the batches still have their numbers of rows.
    async fn scan(
        &self,
        stream: &Stream,
        projection: &[usize],
    ) -> std::result::Result<EventBatches, EngineError>;
}

/// See [`Stream::row_schema`] for the columns.
#[derive(Debug)]
pub(crate) struct StreamTable {
    stream: Arc<Stream>,
    source: Option<Arc<dyn StreamSource>>,
    schema: SchemaRef,
}

impl StreamTable {
    pub(crate) fn new(stream: &Stream, source: Option<Arc<dyn StreamSource>>) -> Self {
        Self {
            stream: Arc::new(stream.clone()),
            source,
            schema: stream.row_schema(),
        }
    }
}

#[async_trait]
impl TableProvider for StreamTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let all = || (0..self.schema.fields().len()).collect();
        let projection: Vec<usize> = projection.cloned().unwrap_or_else(all);
        let schema = Arc::new(self.schema.project(&projection)?);
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Ok(Arc::new(StreamExec {
            stream: Arc::clone(&self.stream),
            source: self.source.clone(),
            projection,
            properties: Arc::new(properties),
        }))
    }
}

/// Reads the events when it is executed, not when it is planned.
#[derive(Debug)]
struct StreamExec {
    stream: Arc<Stream>,
    source: Option<Arc<dyn StreamSource>>,
    projection: Vec<usize>,
    properties: Arc<PlanProperties>,
}

impl DisplayAs for StreamExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let schema = self.schema();
        let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
        write!(
            f,
            "StreamExec: {} columns=[{}]",
            self.stream.name,
            names.join(", ")
        )
    }
}

impl ExecutionPlan for StreamExec {
    fn name(&self) -> &'static str {
        "StreamExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn with_new_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, partition: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        if partition != 0 {
            return Err(DataFusionError::Internal(format!(
                "StreamExec has one partition, {partition} was asked for"
            )));
        }
        let (stream, projection) = (Arc::clone(&self.stream), self.projection.clone());
        let source = self.source.clone();
        let opened = async move {
            let source = source.ok_or_else(|| no_source(&stream.name))?;
            source.scan(&stream, &projection).await
        };
        let batches = futures::stream::once(opened)
            .try_flatten()
            .map_err(|error| DataFusionError::External(Box::new(error)));
        let adapter = RecordBatchStreamAdapter::new(self.schema(), batches.boxed());
        Ok(Box::pin(adapter))
    }
}

fn no_source(stream: &str) -> EngineError {
    EngineError::Refused(format!(
        "{stream}: the events of streams cannot be read here"
    ))
}
