//! Expressions that are computed in a read: those of on-demand views.
//!
//! They are planned by DataFusion as a SELECT over empty tables of the shapes
//! of the views in FROM and a table `input`, and compiled to physical
//! expressions over a batch of their [`Argument`]s. Reads evaluate them on the
//! values that they fetched, training sets put the same expressions into their
//! plan. No type of DataFusion leaves this crate by them.

mod expand;
mod fold;
mod select;

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::{DFSchema, TableReference};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SessionState;
use datafusion::logical_expr::cast;
use datafusion::physical_expr::PhysicalExpr;
use granary_model::FeatureType;
use granary_model::definitions::Column;

use crate::asof::AS_OF_COLUMN;
use crate::engine::physical_expr;
use crate::error::EngineError;

pub(crate) use expand::KEY;
pub use expand::{Computed, Expanded, InputColumn, source_of};
pub(crate) use select::PlannedOutput;
use select::PlannedSelect;
pub(crate) use select::{INPUT, Shapes, is_scalar, planned_outputs};

/// What an expression reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Argument {
    /// A feature of a view in FROM. Where it is not PRESENT it is NULL.
    Feature { alias: String, feature: String },
    /// An input of the request.
    Input(String),
    /// The t of the read or of the row.
    AsOf,
}

/// Expressions over the columns of a batch, one column an argument.
#[derive(Debug)]
pub struct CompiledExpressions {
    /// What the expressions are of, for errors.
    object: String,
    arguments: Vec<Argument>,
    schema: SchemaRef,
    outputs: Vec<Column>,
    expressions: Vec<Arc<dyn PhysicalExpr>>,
}

impl CompiledExpressions {
    /// Compiles planned outputs.
    fn new(
        state: &SessionState,
        object: &str,
        outputs: &[&PlannedOutput],
    ) -> Result<Self, EngineError> {
        let failed = |error| EngineError::from_query(object, error);
        let mut read: Vec<(Argument, Option<TableReference>, Arc<Field>)> = Vec::new();
        for reference in outputs.iter().flat_map(|output| &output.references) {
            if read.iter().all(|(known, ..)| *known != reference.argument) {
                read.push((
                    reference.argument.clone(),
                    reference.relation.clone(),
                    Arc::new(reference.field.clone()),
                ));
            }
        }
        let fields = read.iter().map(|(_, table, f)| (table.clone(), f.clone()));
        let qualified = DFSchema::new_with_metadata(fields.collect(), Default::default());
        let qualified = qualified.map_err(failed)?;
        let compiled = outputs.iter().map(|output| {
            let expression = cast(
                output.expression.clone(),
                output.column.data_type.to_arrow(),
            );
            physical_expr(state, expression, &qualified)
        });
        let expressions = compiled.collect::<Result<Vec<_>>>().map_err(failed)?;
        // Positions, not names, tell the columns apart.
        let fields = read.iter().enumerate();
        let fields = fields.map(|(at, (_, _, f))| f.as_ref().clone().with_name(at.to_string()));
        Ok(Self {
            object: object.to_owned(),
            schema: Arc::new(Schema::new(fields.collect::<Vec<_>>())),
            arguments: read.into_iter().map(|(argument, ..)| argument).collect(),
            outputs: outputs.iter().map(|o| o.column.clone()).collect(),
            expressions,
        })
    }

    /// What the expressions read, in the order of the columns of a batch.
    pub fn arguments(&self) -> &[Argument] {
        &self.arguments
    }

    /// What they give.
    pub fn outputs(&self) -> &[Column] {
        &self.outputs
    }

    /// The physical expressions, over columns in the order of the arguments.
    pub(crate) fn physical(&self) -> &[Arc<dyn PhysicalExpr>] {
        &self.expressions
    }

    /// The type of each argument's column.
    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Evaluates all expressions over `rows` rows: one array an output.
    ///
    /// # Errors
    ///
    /// What an expression fails with, by the name of its output: a number that
    /// is divided by an integer 0, a text that is cast and is no number.
    pub fn evaluate(
        &self,
        arguments: Vec<ArrayRef>,
        rows: usize,
    ) -> Result<Vec<ArrayRef>, EngineError> {
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch =
            RecordBatch::try_new_with_options(Arc::clone(&self.schema), arguments, &options);
        let batch = batch.map_err(|e| EngineError::from_query(&self.object, e.into()))?;
        let outputs = self.outputs.iter().zip(&self.expressions);
        let evaluated = outputs.map(|(output, expression)| {
            let values = expression.evaluate(&batch).and_then(|v| v.into_array(rows));
            values.map_err(|error| self.failed(output, error))
        });
        evaluated.collect()
    }

    fn failed(&self, output: &Column, error: DataFusionError) -> EngineError {
        EngineError::from_query(&format!("{}.{}", self.object, output.name), error)
    }
}

/// The field of t.
fn as_of_field() -> Field {
    Field::new(AS_OF_COLUMN, FeatureType::Timestamp.to_arrow(), true)
}
