//! A history's name in a session: its rows, opened when it is read. Before the
//! first flush there are none, which is no error.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Result;
use datafusion::datasource::TableType;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use granary_model::definitions::Stream;

use super::HistoryTable;
use crate::engine::Engine;

/// See [`Stream::history_schema`] for the columns.
#[derive(Debug)]
pub(crate) struct HistoryRelation {
    engine: Engine,
    stream: Stream,
    schema: SchemaRef,
    /// What is read; `None`: the table as it is at each scan.
    opened: Option<HistoryTable>,
}

impl HistoryRelation {
    /// Of a stream that has a history.
    pub(crate) fn new(engine: &Engine, stream: &Stream) -> Self {
        Self {
            engine: engine.clone(),
            stream: stream.clone(),
            schema: stream.history_schema(),
            opened: None,
        }
    }

    pub(super) fn opened(table: &HistoryTable) -> Self {
        Self {
            opened: Some(table.clone()),
            ..Self::new(&table.engine, &table.stream)
        }
    }
}

#[async_trait]
impl TableProvider for HistoryRelation {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        // The optimizer of physical plans hands them to the Parquet source.
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let opened = match &self.opened {
            Some(table) => Ok(Some(table.clone())),
            None => HistoryTable::open(&self.engine, &self.stream).await,
        };
        match opened.map_err(|e| DataFusionError::External(Box::new(e)))? {
            Some(table) => table.scan(&state.task_ctx(), projection.cloned(), None, limit),
            None => {
                let schema = match projection {
                    Some(columns) => Arc::new(self.schema.project(columns)?),
                    None => self.schema.clone(),
                };
                Ok(Arc::new(EmptyExec::new(schema)))
            }
        }
    }
}
