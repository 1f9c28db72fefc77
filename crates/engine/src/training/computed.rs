//! On-demand views in a training set: the expressions of reads, over the
//! columns of the chain.

use std::sync::Arc;

use arrow::datatypes::Field;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::Result as PlanResult;
use datafusion::logical_expr::lit;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{CastExpr, Column};
use datafusion::physical_plan::projection::ProjectionExpr;
use granary_model::FeatureStatus;

use super::chain::{Chain, Found, T, WORKING, failed, plain_columns, status_name};
use crate::error::EngineError;
use crate::expression::{Argument, Computed};

impl<'a> Chain<'a> {
    /// Whether everything that the expressions read is there.
    pub(super) fn can_compute(&self, computed: &Computed) -> bool {
        let mut arguments = computed.expressions.arguments().iter();
        arguments.all(|argument| match argument {
            Argument::Feature { alias, .. } => self.has_found(alias),
            Argument::Input(_) | Argument::AsOf => true,
        })
    }

    /// Puts the values of an on-demand view behind the chain.
    pub(super) fn compute(&mut self, computed: &'a Computed) -> Result<(), EngineError> {
        let expressions = &computed.expressions;
        let arguments = expressions.arguments().iter();
        let arguments = arguments
            .zip(expressions.schema().fields())
            .map(|(argument, field)| self.argument(computed, argument, field));
        let arguments = arguments.collect::<Result<Vec<_>, _>>()?;
        let schema = self.plan.schema();
        let mut columns = plain_columns(&schema, 0..schema.fields().len());
        let mut found = Found {
            status: status_name(&computed.alias),
            ..Found::default()
        };
        let outputs = expressions.outputs().iter();
        for (output, expression) in outputs.zip(expressions.physical()) {
            let alias = format!("{WORKING}{}.{}", computed.alias, output.name);
            let over = over(expression, &arguments).map_err(failed(&computed.view))?;
            found.values.insert(output.name.clone(), alias.clone());
            columns.push(ProjectionExpr { expr: over, alias });
        }
        self.project(columns)?;
        // The expression decides: what it gives is there, or it is NULL.
        self.add(vec![(
            found.status.clone(),
            lit(FeatureStatus::Present as i8),
        )])?;
        self.give(&computed.alias, found);
        Ok(())
    }

    /// An argument as an expression over the chain's columns.
    fn argument(
        &self,
        computed: &Computed,
        argument: &Argument,
        field: &Field,
    ) -> Result<Arc<dyn PhysicalExpr>, EngineError> {
        let given = match argument {
            Argument::AsOf => self.column(T)?,
            Argument::Feature { alias, feature } => {
                let column = self.found_value(alias, feature);
                let column = column.ok_or_else(|| {
                    EngineError::Refused(format!("{}: {alias} has no {feature}", computed.view))
                })?;
                self.column(column)?
            }
            Argument::Input(name) => self.input(name).ok_or_else(|| {
                EngineError::Refused(format!("{}: no input {name}", computed.view))
            })?,
        };
        let schema = self.plan.schema();
        let is = given.data_type(&schema).map_err(failed(&computed.view))?;
        Ok(match is == *field.data_type() {
            true => given,
            false => Arc::new(CastExpr::new(given, field.data_type().clone(), None)),
        })
    }
}

/// An expression over positions as one over what stands there.
fn over(
    expression: &Arc<dyn PhysicalExpr>,
    arguments: &[Arc<dyn PhysicalExpr>],
) -> PlanResult<Arc<dyn PhysicalExpr>> {
    let replaced = Arc::clone(expression).transform_up(|e| {
        let argument = e
            .downcast_ref::<Column>()
            .and_then(|column| arguments.get(column.index()));
        Ok(match argument {
            Some(argument) => Transformed::yes(Arc::clone(argument)),
            None => Transformed::no(e),
        })
    })?;
    Ok(replaced.data)
}
