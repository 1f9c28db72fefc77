//! A stream as a relation: its events, wherever they are kept.
//!
//! The engine knows no event store: whoever has the events gives those that are
//! kept as a [`StreamSource`], with the sequence up to which events are in the
//! history; these the engine reads itself (see [`crate::history`]). Of a stream
//! that nobody gives, names and types stand, and a scan is an error.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, Result};
use datafusion::datasource::TableType;
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{
    Boundedness, EmissionType, ReplaceChildrenOptions,
};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties,
};
use datafusion::prelude::{SessionConfig, ident};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use granary_model::UtcMicros;
use granary_model::definitions::Stream;

use crate::engine::Engine;
use crate::error::EngineError;
use crate::history::{HistoryRows, rows};
use crate::live::LiveTime;
use crate::retention::{KeptEvents, Retention};

/// Events of a scan, batch by batch.
pub type EventBatches = BoxStream<'static, std::result::Result<RecordBatch, EngineError>>;

/// What a source has of a stream, both at one moment.
pub struct StreamEvents {
    /// Events up to this sequence are in the history, and not in `kept`; 0 for a
    /// stream without HISTORY.
    pub flushed: u64,
    pub lost: Option<Lost>,
    /// All others that are acknowledged, each once, in any order.
    pub kept: EventBatches,
}

/// Which events a stream had and has no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// Some of those before this time are gone.
    pub before: UtcMicros,
    /// From when on whoever looks finds the newest events of each key,
    pub newest_from: UtcMicros,
    /// and by index how many of them for certain.
    pub newest_kept: BTreeMap<String, usize>,
}

impl Lost {
    /// Whether what is needed for an answer at a time is none of it.
    pub fn spares(&self, needed: &Retention, time: LiveTime) -> bool {
        let newest = |index: &str| self.newest_kept.get(index).copied().unwrap_or(0);
        let kept = KeptEvents {
            from: self.before,
            newest_from: Some(self.newest_from),
            newest: &newest,
        };
        needed.is_kept(kept, time)
    }
}

/// What the streams that a session scanned lost, by their names. Every session
/// has one among its configuration's extensions.
#[derive(Debug, Default)]
pub(crate) struct LostEvents(Mutex<BTreeMap<String, Lost>>);

impl LostEvents {
    /// What was found so far.
    pub(crate) fn of(config: &SessionConfig) -> BTreeMap<String, Lost> {
        let streams = config.get_extension::<Self>();
        streams
            .map(|found| found.lock().clone())
            .unwrap_or_default()
    }

    /// The same, only before when.
    pub(crate) fn times_of(config: &SessionConfig) -> BTreeMap<String, UtcMicros> {
        let streams = Self::of(config).into_iter();
        streams.map(|(name, lost)| (name, lost.before)).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Lost>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for StreamEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamEvents")
            .field("flushed", &self.flushed)
            .finish_non_exhaustive()
    }
}

/// Where the events of streams are.
#[async_trait]
pub trait StreamSource: fmt::Debug + Send + Sync {
    /// The events that are acknowledged now; of each the columns at
    /// `projection` in [`Stream::row_schema`], in that order. Of no columns the
    /// batches still have their numbers of rows.
    async fn scan(
        &self,
        stream: &Stream,
        projection: &[usize],
    ) -> std::result::Result<StreamEvents, EngineError>;
}

/// See [`Stream::row_schema`] for the columns.
#[derive(Debug)]
pub(crate) struct StreamTable {
    engine: Engine,
    stream: Arc<Stream>,
    source: Option<Arc<dyn StreamSource>>,
    schema: SchemaRef,
}

impl StreamTable {
    pub(crate) fn new(
        engine: &Engine,
        stream: &Stream,
        source: Option<Arc<dyn StreamSource>>,
    ) -> Self {
        Self {
            engine: engine.clone(),
            stream: Arc::new(stream.clone()),
            source,
            schema: stream.row_schema(),
        }
    }

    /// What the filters are of a row of the history, for those that it can be
    /// pruned by; `None` where there is nothing to prune.
    fn predicate(
        &self,
        state: &dyn Session,
        filters: &[Expr],
    ) -> Result<Option<Arc<dyn PhysicalExpr>>> {
        let schema = DFSchema::try_from(self.stream.history_schema())?;
        let unqualified = |filter: &Expr| {
            let bare = |expr| match expr {
                Expr::Column(column) => Ok(Transformed::yes(ident(column.name))),
                other => Ok(Transformed::no(other)),
            };
            filter.clone().transform(bare).map(|bare| bare.data)
        };
        match conjunction(
            filters
                .iter()
                .map(unqualified)
                .collect::<Result<Vec<_>>>()?,
        ) {
            Some(filter) => state.create_physical_expr(filter, &schema).map(Some),
            None => Ok(None),
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

    /// Kept events come unfiltered; the history is pruned.
    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        let pushed = match self.stream.history {
            Some(_) => TableProviderFilterPushDown::Inexact,
            None => TableProviderFilterPushDown::Unsupported,
        };
        Ok(vec![pushed; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let all = || (0..self.schema.fields().len()).collect();
        let projection: Vec<usize> = projection.cloned().unwrap_or_else(all);
        let schema = Arc::new(self.schema.project(&projection)?);
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Ok(Arc::new(StreamExec {
            engine: self.engine.clone(),
            stream: Arc::clone(&self.stream),
            source: self.source.clone(),
            read: HistoryRows {
                projection,
                schema,
                predicate: self.predicate(state, filters)?,
            },
            properties: Arc::new(properties),
        }))
    }
}

/// Reads the events when it is executed, not when it is planned: kept ones
/// first, since what they pin cannot be freed meanwhile, then the history.
#[derive(Debug)]
struct StreamExec {
    engine: Engine,
    stream: Arc<Stream>,
    source: Option<Arc<dyn StreamSource>>,
    read: HistoryRows,
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
        )?;
        match &self.read.predicate {
            Some(predicate) => write!(f, " predicate={predicate}"),
            None => Ok(()),
        }
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
        visit: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        match &self.read.predicate {
            Some(predicate) => visit(predicate),
            None => Ok(TreeNodeRecursion::Continue),
        }
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

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        if partition != 0 {
            return Err(DataFusionError::Internal(format!(
                "StreamExec has one partition, {partition} was asked for"
            )));
        }
        let (engine, stream) = (self.engine.clone(), Arc::clone(&self.stream));
        let (source, read) = (self.source.clone(), self.read.clone());
        let opened = async move {
            let source = source.ok_or_else(|| no_source(&stream.name))?;
            let scanned = source.scan(&stream, &read.projection).await?;
            let StreamEvents {
                flushed,
                lost,
                kept,
            } = scanned;
            let found = context.session_config().get_extension::<LostEvents>();
            if let (Some(found), Some(lost)) = (found, lost) {
                found.lock().insert(stream.name.clone(), lost);
            }
            let history = async move { rows(&engine, &stream, read, flushed, context).await };
            let history = futures::stream::once(history).try_flatten();
            Ok::<_, EngineError>(kept.chain(history))
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
