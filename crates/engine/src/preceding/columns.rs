//! The columns that windows read, beside those of the input.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch};
use arrow::compute::SortOptions;
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::error::{DataFusionError, Result};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;

use super::exec::PrecedingWindowsSpec;

/// Where in extended rows everything is. An extended row is a row of the input
/// with every expression of the windows behind it that is no column itself.
#[derive(Debug)]
pub(super) struct Columns {
    input_count: usize,
    schema: SchemaRef,
    added: Vec<Arc<dyn PhysicalExpr>>,
    partition_by: Vec<usize>,
    order_by: Vec<(usize, SortOptions)>,
    arguments: Vec<Vec<usize>>,
    filters: Vec<Option<usize>>,
}

impl Columns {
    pub(super) fn new(spec: &PrecedingWindowsSpec, input: &SchemaRef) -> Result<Self> {
        let mut columns = Self {
            input_count: input.fields().len(),
            schema: input.clone(),
            added: Vec::new(),
            partition_by: Vec::new(),
            order_by: Vec::new(),
            arguments: Vec::new(),
            filters: Vec::new(),
        };
        let mut fields = input.fields().to_vec();
        let mut place = |expression: &Arc<dyn PhysicalExpr>| -> Result<usize> {
            if let Some(column) = expression.downcast_ref::<Column>() {
                return Ok(column.index());
            }
            let known = columns.added.iter().position(|added| added == expression);
            if let Some(known) = known {
                return Ok(columns.input_count + known);
            }
            let field = expression.return_field(input)?;
            let name = format!("__{}", fields.len());
            fields.push(Arc::new(Field::new(name, field.data_type().clone(), true)));
            columns.added.push(expression.clone());
            Ok(fields.len() - 1)
        };
        for expression in &spec.partition_by {
            columns.partition_by.push(place(expression)?);
        }
        for sort in &spec.order_by {
            columns.order_by.push((place(&sort.expr)?, sort.options));
        }
        for window in &spec.windows {
            let arguments = window.call.arguments.iter().map(&mut place);
            columns.arguments.push(arguments.collect::<Result<_>>()?);
            let filter = window.filter.as_ref().map(&mut place);
            columns.filters.push(filter.transpose()?);
        }
        columns.schema = Arc::new(Schema::new(fields));
        Ok(columns)
    }

    pub(super) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Rows of the input, extended.
    pub(super) fn extend(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let mut columns = batch.columns().to_vec();
        for expression in &self.added {
            columns.push(expression.evaluate(batch)?.into_array(batch.num_rows())?);
        }
        let options =
            arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let batch = RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)?;
        Ok(batch)
    }

    /// The columns of the input.
    pub(super) fn input<'a>(&self, rows: &'a RecordBatch) -> &'a [ArrayRef] {
        &rows.columns()[..self.input_count]
    }

    pub(super) fn partition_by(&self, rows: &RecordBatch) -> Vec<ArrayRef> {
        let columns = self.partition_by.iter();
        columns.map(|column| rows.column(*column).clone()).collect()
    }

    pub(super) fn order_by(&self, rows: &RecordBatch) -> Vec<(ArrayRef, SortOptions)> {
        let columns = self.order_by.iter();
        columns
            .map(|(column, options)| (rows.column(*column).clone(), *options))
            .collect()
    }

    /// Of the window with this number.
    pub(super) fn arguments(&self, window: usize, rows: &RecordBatch) -> Vec<ArrayRef> {
        let columns = self.arguments[window].iter();
        columns.map(|column| rows.column(*column).clone()).collect()
    }

    pub(super) fn filter(&self, window: usize, rows: &RecordBatch) -> Result<Option<BooleanArray>> {
        let Some(column) = self.filters[window] else {
            return Ok(None);
        };
        let column = rows.column(column);
        let filter = column.as_any().downcast_ref::<BooleanArray>().cloned();
        let not_boolean = || {
            let found = column.data_type();
            DataFusionError::Internal(format!("FILTER of a window is a {found}, not a BOOLEAN"))
        };
        filter.map(Some).ok_or_else(not_boolean)
    }
}
