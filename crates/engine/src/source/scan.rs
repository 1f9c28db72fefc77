//! A source as a table of a session: the recorded schema, files opened at the scan.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Constraints;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;

use super::{Source, SourceFormat, delta, files};
use crate::error::EngineError;

/// See the module.
pub(crate) struct RecordedSource {
    source: Source,
    schema: SchemaRef,
}

impl RecordedSource {
    pub(super) fn new(source: Source, schema: SchemaRef) -> Self {
        Self { source, schema }
    }

    async fn scan_delta(
        &self,
        state: &SessionState,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let name = &self.source.name;
        let table = delta::open(&self.source, state)
            .await
            .map_err(|fault| fault.into_datafusion(name))?;
        let actual = table.schema();
        if let Some(difference) = files::named_difference(&self.schema, &actual, true) {
            return Err(changed(name, difference));
        }
        // Columns may have been added since, so that the places have moved.
        let mut places = Vec::new();
        for (place, field) in self.schema.fields().iter().enumerate() {
            if projection.is_none_or(|wanted| wanted.contains(&place)) {
                places.push((place, actual.index_of(field.name())?));
            }
        }
        if let Some(wanted) = projection {
            places.sort_by_key(|(place, _)| wanted.iter().position(|w| w == place));
        }
        let moved: Vec<usize> = places.iter().map(|(_, at)| *at).collect();
        let plan = table.scan(state, Some(&moved), filters, limit).await?;
        for ((place, _), field) in places.iter().zip(plan.schema().fields()) {
            let was = self.schema.field(*place);
            if !was.data_type().equals_datatype(field.data_type()) {
                let (column, from, to) = (was.name(), was.data_type(), field.data_type());
                return Err(changed(
                    name,
                    format!("column {column} was {from}, is {to}"),
                ));
            }
        }
        Ok(plan)
    }
}

fn changed(object: &str, difference: String) -> DataFusionError {
    DataFusionError::External(Box::new(EngineError::SchemaChanged {
        object: object.to_owned(),
        difference,
    }))
}

impl fmt::Debug for RecordedSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordedSource")
            .field("name", &self.source.name)
            .field("schema", &self.schema)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl TableProvider for RecordedSource {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn constraints(&self) -> Option<&Constraints> {
        Some(&self.source.command.constraints)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn get_table_definition(&self) -> Option<&str> {
        self.source.command.definition.as_deref()
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let state = state
            .as_any()
            .downcast_ref::<SessionState>()
            .ok_or_else(|| DataFusionError::Internal("a source needs a SessionState".into()))?;
        if self.source.format == SourceFormat::Delta {
            return self.scan_delta(state, projection, filters, limit).await;
        }
        let table = files::open_recorded(&self.source, state, &self.schema)
            .await
            .map_err(|error| DataFusionError::External(Box::new(error)))?;
        table.scan(state, projection, filters, limit).await
    }

    /// A scan prunes by filters and, in Parquet, evaluates them; none is left
    /// out of the plan above on the word of the scan.
    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }
}
