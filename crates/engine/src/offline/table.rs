//! A feature view's name in a session: its offline table, opened when it is read.
//!
//! Making a session must cost nothing, so nothing is opened before a query
//! scans the name; then a view that was never run is an error, since no rows
//! would be taken for an answer.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Result;
use datafusion::datasource::{TableType, provider_as_source};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, LogicalPlanBuilder, TableProviderFilterPushDown};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::ident;
use granary_model::{FeatureView, UtcMicros};

use super::OfflineTable;
use super::log::table_schema;
use crate::engine::Engine;
use crate::error::EngineError;

/// See [`OfflineTable::table_provider`] for what it shows.
#[derive(Debug)]
pub(crate) struct FeatureViewTable {
    engine: Engine,
    view: FeatureView,
    as_of: Option<UtcMicros>,
    schema: SchemaRef,
}

impl FeatureViewTable {
    pub(crate) fn new(engine: &Engine, view: &FeatureView, as_of: Option<UtcMicros>) -> Self {
        let schema = match as_of {
            Some(_) => view.row_schema(),
            None => table_schema(view),
        };
        Self {
            engine: engine.clone(),
            view: view.clone(),
            as_of,
            schema,
        }
    }

    fn never_run(&self) -> EngineError {
        let FeatureView { name, version, .. } = &self.view;
        EngineError::NotRun {
            view: name.clone(),
            reason: format!(
                "version {version} was never materialised: run `granary materialize {name}`"
            ),
        }
    }
}

#[async_trait]
impl TableProvider for FeatureViewTable {
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
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = match projection {
            Some(columns) => Arc::new(self.schema.project(columns)?),
            None => self.schema.clone(),
        };
        let opened = OfflineTable::open(&self.engine, &self.view).await;
        let opened = opened.and_then(|table| table.ok_or_else(|| self.never_run()));
        let rows = opened
            .and_then(|table| table.table_provider(self.as_of))
            .map_err(|e| DataFusionError::External(Box::new(e)))?;
        // A plan of its own, so that the filters reach the files through
        // whatever stands between them and the rows as of t.
        let source = provider_as_source(rows);
        let mut plan = LogicalPlanBuilder::scan(self.view.name.as_str(), source, None)?;
        if let Some(filter) = conjunction(filters.iter().cloned()) {
            plan = plan.filter(filter)?;
        }
        let columns = schema.fields().iter().map(|f| ident(f.name()));
        let plan = plan.project(columns)?.limit(0, limit)?.build()?;
        state.create_physical_plan(&plan).await
    }
}
