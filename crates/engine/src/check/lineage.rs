//! What the plan of a query tells: whether it works row by row, and from which
//! columns of which relations its event time comes.

use std::collections::{BTreeMap, BTreeSet};

use datafusion::common::Column;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, LogicalPlan};

use crate::engine::AS_OF_FUNCTION;

/// Whether each row comes from one row of one relation: projection, WHERE,
/// UNNEST and UNION ALL only.
pub(crate) fn is_row_wise(plan: &LogicalPlan) -> bool {
    let mut row_wise = true;
    let walked = plan.apply_with_subqueries(|node| {
        row_wise &= match node {
            LogicalPlan::Projection(projection) => !projection.expr.iter().any(has_subquery),
            LogicalPlan::Filter(filter) => !has_subquery(&filter.predicate),
            LogicalPlan::SubqueryAlias(_)
            | LogicalPlan::Union(_)
            | LogicalPlan::Unnest(_)
            | LogicalPlan::TableScan(_)
            | LogicalPlan::EmptyRelation(_)
            | LogicalPlan::Values(_) => true,
            _ => false,
        };
        Ok(if row_wise {
            TreeNodeRecursion::Continue
        } else {
            TreeNodeRecursion::Stop
        })
    });
    walked.is_ok() && row_wise
}

/// Whether the plan calls `as_of()` anywhere, plain views and subqueries included.
pub(crate) fn calls_as_of(plan: &LogicalPlan) -> bool {
    let is_call = |e: &Expr| matches!(e, Expr::ScalarFunction(f) if f.name() == AS_OF_FUNCTION);
    let mut found = false;
    let walked = plan.apply_with_subqueries(|node| {
        for expression in node.expressions() {
            found |= expression.exists(|e| Ok(is_call(e)))?;
        }
        Ok(match found {
            true => TreeNodeRecursion::Stop,
            false => TreeNodeRecursion::Continue,
        })
    });
    // What cannot be walked is taken for the worse.
    found || walked.is_err()
}

pub(crate) fn has_subquery(expression: &Expr) -> bool {
    expression
        .exists(|e| {
            Ok(matches!(
                e,
                Expr::ScalarSubquery(_) | Expr::InSubquery(_) | Expr::Exists(_)
            ))
        })
        .unwrap_or(true)
}

/// The columns of directly read relations that an output column hands through
/// unchanged: the table of a timestamped view is cut by the view's own event
/// time. A relation whose column differs from place to place is left out.
///
/// `reads`: the relations that the query names itself.
pub(crate) fn event_time_origins(
    plan: &LogicalPlan,
    column: &str,
    reads: &BTreeSet<String>,
) -> BTreeMap<String, String> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    if let Some(column) = column_of(plan, column) {
        trace(plan, &column, reads, &mut found);
    }
    found
        .into_iter()
        .filter_map(|(relation, columns)| {
            let mut columns = columns.into_iter();
            match (columns.next(), columns.next()) {
                (Some(column), None) => Some((relation, column)),
                _ => None,
            }
        })
        .collect()
}

fn column_of(plan: &LogicalPlan, name: &str) -> Option<Column> {
    plan.schema()
        .columns()
        .into_iter()
        .find(|column| column.name == name)
}

fn trace(
    plan: &LogicalPlan,
    column: &Column,
    reads: &BTreeSet<String>,
    found: &mut BTreeMap<String, BTreeSet<String>>,
) {
    let mut follow = |plan: &LogicalPlan, column: &Column| trace(plan, column, reads, found);
    match plan {
        LogicalPlan::TableScan(scan) => {
            let name = scan.table_name.table();
            if reads.contains(name) {
                let columns = found.entry(name.to_owned()).or_default();
                columns.insert(column.name.clone());
            }
        }
        LogicalPlan::SubqueryAlias(alias) => {
            let name = alias.alias.table();
            let table_below = matches!(
                alias.input.as_ref(),
                LogicalPlan::TableScan(scan) if reads.contains(scan.table_name.table())
            );
            if reads.contains(name) && !table_below {
                let columns = found.entry(name.to_owned()).or_default();
                columns.insert(column.name.clone());
            } else if let Ok(place) = alias.schema.index_of_column(column) {
                let below = Column::from(alias.input.schema().qualified_field(place));
                follow(&alias.input, &below);
            }
        }
        LogicalPlan::Projection(projection) => {
            if let Ok(place) = projection.schema.index_of_column(column)
                && let Some(below) = plain(&projection.expr[place])
            {
                follow(&projection.input, below);
            }
        }
        LogicalPlan::Aggregate(aggregate) => {
            if let Ok(place) = aggregate.schema.index_of_column(column)
                && let Some(below) = aggregate.group_expr.get(place).and_then(plain)
            {
                follow(&aggregate.input, below);
            }
        }
        LogicalPlan::Union(union) => {
            if let Ok(place) = union.schema.index_of_column(column) {
                for input in &union.inputs {
                    let below = Column::from(input.schema().qualified_field(place));
                    follow(input, &below);
                }
            }
        }
        other => {
            for input in other.inputs() {
                if input.schema().has_column(column) {
                    follow(input, column);
                }
            }
        }
    }
}

/// The column that an expression merely renames.
fn plain(expression: &Expr) -> Option<&Column> {
    match expression {
        Expr::Column(column) => Some(column),
        Expr::Alias(alias) => plain(&alias.expr),
        _ => None,
    }
}
