//! A `SERVE QUERY` view's name in a session: its query, planned as of the
//! session's time when the name is scanned, one row a key.
//!
//! Such a view has no offline table: whatever reads it computes it.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Result;
use datafusion::datasource::TableType;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{
    Expr, LogicalPlan, LogicalPlanBuilder, ScalarUDF, TableProviderFilterPushDown,
};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::{SessionContext, ident};
use granary_model::{Definitions, FeatureView, ViewKind};

use crate::engine::{AsOf, Engine, Joins, OnlyRow};
use crate::error::EngineError;
use crate::offline::read::{ROW_NUMBER, greatest_as_of, numbered};
use crate::run::{EventTimes, view_rows};

pub(crate) struct QueryViewTable {
    engine: Engine,
    definitions: Arc<Definitions>,
    view: FeatureView,
    as_of: AsOf,
    joins: Joins,
    schema: SchemaRef,
}

impl QueryViewTable {
    pub(crate) fn new(
        engine: &Engine,
        definitions: Arc<Definitions>,
        view: &FeatureView,
        as_of: AsOf,
        joins: Joins,
    ) -> Self {
        Self {
            engine: engine.clone(),
            definitions,
            schema: view.row_schema(),
            view: view.clone(),
            as_of,
            joins,
        }
    }

    async fn rows(&self) -> Result<(SessionContext, LogicalPlan), EngineError> {
        let context = self
            .engine
            .session_for(&self.definitions, &self.view, self.as_of, self.joins)
            .await?;
        let rows = view_rows(&context, &self.view, EventTimes::up_to(self.as_of.last())).await?;
        let one_a_key = self
            .one_a_key(rows.into_unoptimized_plan())
            .map_err(|error| EngineError::from_query(&self.view.name, error))?;
        Ok((context, one_a_key))
    }

    /// Rows without a NULL in their key, of a timestamped view the greatest of
    /// each key; of any other a second row of a key is an error.
    fn one_a_key(&self, rows: LogicalPlan) -> Result<LogicalPlan> {
        let view = &self.view;
        let mut rows = LogicalPlanBuilder::from(rows);
        for key in &view.keys {
            rows = rows.filter(ident(&key.name).is_not_null())?;
        }
        rows = match (view.kind, &view.event_time) {
            (ViewKind::Timestamped, Some(event_time)) => {
                greatest_as_of(rows, view, event_time, self.as_of.last())?
            }
            _ => {
                let only = ScalarUDF::from(OnlyRow::new(view, self.as_of.t));
                let keys = || view.keys.iter().map(|key| ident(&key.name));
                let order = keys().map(|key| key.sort(true, true)).collect();
                let arguments = std::iter::once(ident(ROW_NUMBER)).chain(keys());
                numbered(rows, view, order)?.filter(only.call(arguments.collect()))?
            }
        };
        rows.build()
    }
}

impl fmt::Debug for QueryViewTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueryViewTable")
            .field("view", &self.view.name)
            .field("as_of", &self.as_of)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl TableProvider for QueryViewTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let (context, rows) = self
            .rows()
            .await
            .map_err(|error| DataFusionError::External(Box::new(error)))?;
        let mut plan = LogicalPlanBuilder::from(rows);
        if let Some(filter) = conjunction(filters.iter().cloned()) {
            plan = plan.filter(filter)?;
        }
        let schema = match projection {
            Some(columns) => self.schema.project(columns)?,
            None => self.schema.as_ref().clone(),
        };
        let columns = schema.fields().iter().map(|field| ident(field.name()));
        let plan = plan.project(columns)?.limit(0, limit)?.build()?;
        context.state().create_physical_plan(&plan).await
    }
}
