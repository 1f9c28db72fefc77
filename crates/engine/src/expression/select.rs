//! A SELECT of scalar expressions over views and inputs, planned. Aggregates
//! over views that are read for each element of a list are scalar too.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{Field, Schema};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column as Name, DFSchema, ExprSchema, TableReference, plan_err};
use datafusion::datasource::empty::EmptyTable;
use datafusion::error::Result;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan};
use datafusion::prelude::SessionContext;
use granary_model::FeatureType;
use granary_model::definitions::Column;

use super::fold::{Fold, list_field};
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
    /// Aliases that are read for each element of a list: only aggregates of
    /// their features may be selected.
    pub(crate) each: BTreeSet<String>,
    pub(crate) inputs: Vec<Column>,
}

impl Shapes {
    /// A session in which the shapes are tables, and what to write behind FROM to
    /// its end.
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
        Ok((context, format!("{from}{}", self.group_by())))
    }

    /// What is the same for all elements of a list may stand beside aggregates.
    fn group_by(&self) -> String {
        if self.each.is_empty() {
            return String::new();
        }
        let views = self
            .views
            .iter()
            .filter(|(alias, _)| !self.each.contains(alias));
        let views = views.map(|(alias, columns)| (alias.as_str(), columns));
        let columns = views
            .chain([(INPUT, &self.inputs)])
            .flat_map(|(alias, columns)| {
                let of = move |c: &Column| format!("{}.{}", quoted(alias), quoted(&c.name));
                columns.iter().map(of)
            });
        let columns: Vec<String> = columns.collect();
        match columns.is_empty() {
            true => String::new(),
            false => format!("\nGROUP BY {}", columns.join(", ")),
        }
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Names as FROM lists them.
fn from_tables<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.map(quoted).collect::<Vec<_>>().join(", ")
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
        let outputs = planned_outputs(&state, shapes, &plan).map_err(failed)?;
        Ok(Self { state, outputs })
    }
}

/// The expressions of a plan that [`is_scalar`].
pub(crate) fn planned_outputs(
    state: &SessionState,
    shapes: &Shapes,
    plan: &LogicalPlan,
) -> Result<Vec<PlannedOutput>> {
    let LogicalPlan::Projection(select) = plan else {
        return plan_err!("no SELECT of expressions");
    };
    let (input, folds) = match select.input.as_ref() {
        LogicalPlan::Aggregate(aggregate) => {
            (aggregate.input.schema(), folds(state, shapes, aggregate)?)
        }
        input => (input.schema(), Vec::new()),
    };
    let fields = plan.schema().fields().iter();
    let planned = select.expr.iter().zip(fields).map(|(expression, field)| {
        let Some(data_type) = FeatureType::from_arrow(field.data_type()) else {
            return plan_err!("{} is {}", field.name(), field.data_type());
        };
        let expression = with_as_of_column(expression.clone().unalias())?;
        let expression = with_folds(expression, &folds)?;
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
                field: match &column.relation {
                    Some(table) if shapes.each.contains(table.table()) => {
                        list_field(input.field_from_column(column)?)
                    }
                    _ => input.field_from_column(column)?.as_ref().clone(),
                },
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

/// The aggregates of a plan, by the columns that they are, as functions of lists.
fn folds(
    state: &SessionState,
    shapes: &Shapes,
    aggregate: &Aggregate,
) -> Result<Vec<(Name, Expr)>> {
    let outputs = aggregate.schema.columns();
    let outputs = outputs.into_iter().skip(aggregate.group_expr.len());
    let folds = aggregate
        .aggr_expr
        .iter()
        .zip(outputs)
        .map(|(expression, output)| {
            let expression = with_as_of_column(expression.clone().unalias())?;
            let Expr::AggregateFunction(call) = &expression else {
                return plan_err!("{expression} is no aggregate");
            };
            let columns = element_columns(shapes, &expression, aggregate.input.schema())?;
            Ok((output, Fold::call(state, call, columns)?))
        });
    folds.collect()
}

/// What an aggregate reads: columns that are lists first.
fn element_columns(
    shapes: &Shapes,
    aggregate: &Expr,
    input: &DFSchema,
) -> Result<Vec<(Name, Field, bool)>> {
    let mut read: Vec<Name> = aggregate.column_refs().into_iter().cloned().collect();
    read.sort();
    let is_each = |column: &Name| {
        let relation = column.relation.as_ref();
        relation.is_some_and(|table| shapes.each.contains(table.table()))
    };
    let (mut lists, others): (Vec<_>, Vec<_>) = read.into_iter().partition(is_each);
    if lists
        .windows(2)
        .any(|two| two[0].relation != two[1].relation)
    {
        return plan_err!("{aggregate} is of two lists: aggregate each of them by itself");
    }
    if lists.is_empty() {
        // count(*): how many elements there are, any feature tells.
        let mut each = shapes
            .views
            .iter()
            .filter(|(alias, _)| shapes.each.contains(alias));
        let (Some((alias, features)), None) = (each.next(), each.next()) else {
            return plan_err!("{aggregate} names no feature that is read for EACH element");
        };
        let feature = features.first().map(|c| c.name.clone()).unwrap_or_default();
        lists.push(Name::new(
            Some(TableReference::bare(alias.as_str())),
            feature,
        ));
    }
    let lists = lists.into_iter().map(|column| (column, true));
    let columns = lists.chain(others.into_iter().map(|column| (column, false)));
    let columns = columns.map(|(column, is_list)| {
        let field = match column.relation {
            None if column.name == AS_OF_COLUMN => as_of_field(),
            _ => input.field_from_column(&column)?.as_ref().clone(),
        };
        Ok((column, field, is_list))
    });
    columns.collect()
}

fn with_folds(expression: Expr, folds: &[(Name, Expr)]) -> Result<Expr> {
    let replaced = expression.transform_up(|e| {
        let fold = match &e {
            Expr::Column(column) => folds.iter().find(|(output, _)| output == column),
            _ => None,
        };
        Ok(match fold {
            Some((_, fold)) => Transformed::yes(fold.clone()),
            None => Transformed::no(e),
        })
    })?;
    Ok(replaced.data)
}

/// Whether a plan is one SELECT of expressions that need one row alone, and the
/// elements that are read for it.
pub(crate) fn is_scalar(shapes: &Shapes, plan: &LogicalPlan) -> bool {
    let mut scalar = true;
    let mut projections = 0;
    let walked = plan.apply_with_subqueries(|node| {
        match node {
            LogicalPlan::Projection(_) => projections += 1,
            LogicalPlan::Aggregate(_) if !shapes.each.is_empty() => {}
            LogicalPlan::Join(_) | LogicalPlan::TableScan(_) | LogicalPlan::EmptyRelation(_) => {}
            _ => scalar = false,
        }
        Ok(TreeNodeRecursion::Continue)
    });
    walked.is_ok() && scalar && projections <= 1
}
