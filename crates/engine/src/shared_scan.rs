//! One scan of a relation for several queries over it.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::common::{Column, DFSchemaRef};
use datafusion::error::Result;
use datafusion::execution::SessionState;
use datafusion::logical_expr::utils::disjunction;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion::physical_plan::ExecutionPlan;

use crate::asof::AS_OF_COLUMN;

/// The rows and columns of a relation that several queries need together.
pub(crate) struct SharedScan {
    /// Optimised.
    pub(crate) rows: LogicalPlan,
    /// Whether the rows that come pass every query's filter.
    filtered: bool,
}

impl SharedScan {
    /// Plans the scan of those columns that a query reads, and of those rows
    /// that one may take. `filters`: of each query, if it has one.
    pub(crate) fn plan(
        state: &SessionState,
        relation: &LogicalPlan,
        filters: &[Option<&Expr>],
        read: &BTreeSet<Column>,
    ) -> Result<Self> {
        let mut rows = LogicalPlanBuilder::from(relation.clone());
        let known: Option<Vec<&Expr>> = filters.iter().copied().collect();
        let mut pushed = known.filter(|all| !all.iter().any(|f| reads_as_of(f)));
        if let Some(filters) = &mut pushed {
            filters.dedup();
            if let Some(any) = disjunction(filters.iter().map(|f| (*f).clone())) {
                rows = rows.filter(any)?;
            }
        }
        let columns = relation.schema().columns();
        let columns = columns.into_iter().filter(|c| read.contains(c));
        let rows = rows.project(columns.map(Expr::Column))?.build()?;
        Ok(Self {
            rows: state.optimize(&rows)?,
            filtered: pushed.is_some_and(|filters| filters.len() == 1),
        })
    }

    /// Of the rows, with the relation's qualifiers.
    pub(crate) fn schema(&self) -> &DFSchemaRef {
        self.rows.schema()
    }

    pub(crate) async fn physical(&self, state: &SessionState) -> Result<Arc<dyn ExecutionPlan>> {
        let planner = state.query_planner();
        planner.create_physical_plan(&self.rows, state).await
    }

    /// What of a query's filter is left to do.
    pub(crate) fn rest<'f>(&self, filter: Option<&'f Expr>) -> Option<&'f Expr> {
        filter.filter(|_| !self.filtered)
    }
}

fn reads_as_of(filter: &Expr) -> bool {
    let columns = filter.column_refs();
    columns.iter().any(|column| column.name == AS_OF_COLUMN)
}
