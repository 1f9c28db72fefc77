//! A SELECT of scalar expressions over views and inputs, planned.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{ExprSchema, TableReference, plan_err};
use datafusion::datasource::empty::EmptyTable;
use datafusion::error::Result;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::prelude::SessionContext;
use granary_model::FeatureType;
use granary_model::definitions::Column;

use super::{Argument, as_of_field};
use crate::asof::AS_OF_COLUMN;
use crate::engine::{Engine, Joins, plan_sql, register};
use crate::error::EngineError;
use crate::windowed::with_as_of_column;

/// The name by which expressions may say that an input is meant.
pub(crate) const INPUT: &str = "input";

/// The views of a FROM by their aliases, each with its features, and the inputs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shapes {
    pub(crate) views: Vec<(String, Vec<Column>)>,
    pub(crate) inputs: Vec<Column>,
}

impl Shapes {
    /// A session in which the shapes are tables, and what to write behind FROM.
    pub(crate) fn session(&self, engine: &Engine) -> Result<(SessionContext, String), EngineError> {
        let context = engine.context(None, Joins::default());
        let mut tables = Vec::new();
        let views = self.views.iter().map(|(name, c)| (name.as_str(), c));
        // Without any view, too, there is something to select from.
        let inputs = !self.inputs.is_empty() || self.views.is_empty();
        for (name, columns) in views.chain(inputs.then_some((INPUT, &self.inputs))) {
            let fields: Vec<_> = columns.iter().map(Column::to_field).collect();
            let table = Arc::new(EmptyTable::new(Arc::new(Schema::new(fields))));
            register(&context, name, table)?;
            tables.push(name);
        }
        let from = from_tables(tables.into_iter());
        Ok((context, from))
    }
}

/// Names as FROM lists them.
fn from_tables<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let quoted = names.map(|name| format!("\"{}\"", name.replace('"', "\"\"")));
    quoted.collect::<Vec<_>>().join(", ")
}

/// A column that an expression reads.
#[derive(Debug, Clone)]
pub(crate) struct Reference {
    pub(super) argument: Argument,
    /// As the expression has it.
    pub(super) relation: Option<TableReference>,
    pub(super) field: Field,
}

/// One expression of a SELECT.
#[derive(Debug, Clone)]
pub(crate) struct PlannedOutput {
    pub(crate) column: Column,
    pub(super) expression: Expr,
    pub(super) references: Vec<Reference>,
}

impl PlannedOutput {
    pub(crate) fn arguments(&self) -> impl Iterator<Item = &Argument> {
        self.references.iter().map(|reference| &reference.argument)
    }
}

/// A SELECT of expressions.
#[derive(Debug)]
pub(crate) struct PlannedSelect {
    pub(super) state: SessionState,
    pub(crate) outputs: Vec<PlannedOutput>,
}

impl PlannedSelect {
    /// Plans `SELECT <select> FROM <shapes>`.
    pub(crate) async fn of(
        engine: &Engine,
        object: &str,
        shapes: &Shapes,
        select: &str,
    ) -> Result<Self, EngineError> {
        let (context, from) = shapes.session(engine)?;
        let state = context.state();
        let sql = format!("SELECT\n{select}\nFROM {from}");
        let failed = |error| EngineError::from_query(object, error);
        let plan = plan_sql(&state, &sql).await.map_err(failed)?;
        let outputs = planned_outputs(&plan).map_err(failed)?;
        Ok(Self { state, outputs })
    }
}

/// The expressions of a plan that [`is_scalar`].
pub(crate) fn planned_outputs(plan: &LogicalPlan) -> Result<Vec<PlannedOutput>> {
    let LogicalPlan::Projection(select) = plan else {
        return plan_err!("no SELECT of expressions");
    };
    let input = select.input.schema();
    let fields = plan.schema().fields().iter();
    let planned = select.expr.iter().zip(fields).map(|(expression, field)| {
        let Some(data_type) = FeatureType::from_arrow(field.data_type()) else {
            return plan_err!("{} is {}", field.name(), field.data_type());
        };
        let expression = with_as_of_column(expression.clone().unalias())?;
        let mut columns: Vec<_> = expression.column_refs().into_iter().collect();
        columns.sort();
        let references = columns.into_iter().map(|column| {
            let argument = match &column.relation {
                None if column.name == AS_OF_COLUMN => {
                    return Ok(Reference {
                        argument: Argument::AsOf,
                        relation: None,
                        field: as_of_field(),
                    });
                }
                Some(table) if table.table() == INPUT => Argument::Input(column.name.clone()),
                Some(table) => Argument::Feature {
                    alias: table.table().to_owned(),
                    feature: column.name.clone(),
                },
                None => return plan_err!("{} is of no view", column.name),
            };
            Ok(Reference {
                argument,
                relation: column.relation.clone(),
                field: input.field_from_column(column)?.as_ref().clone(),
            })
        });
        Ok(PlannedOutput {
            column: Column::new(field.name().clone(), data_type),
            references: references.collect::<Result<_>>()?,
            expression,
        })
    });
    planned.collect()
}

/// Whether a plan is one SELECT of expressions that need one row alone.
pub(crate) fn is_scalar(plan: &LogicalPlan) -> bool {
    let mut scalar = true;
    let mut projections = 0;
    let walked = plan.apply_with_subqueries(|node| {
        match node {
            LogicalPlan::Projection(_) => projections += 1,
            LogicalPlan::Join(_) | LogicalPlan::TableScan(_) | LogicalPlan::EmptyRelation(_) => {}
            _ => scalar = false,
        }
        Ok(TreeNodeRecursion::Continue)
    });
    walked.is_ok() && scalar && projections <= 1
}
