//! One scan of a relation for several queries over it.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use datafusion::common::{Column, DFSchema, DFSchemaRef};
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
    /// Of the rows as queries see them.
    schema: DFSchemaRef,
    /// The column that says which row of a spine an event is for.
    row: Option<Expr>,
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
        let rows = state.optimize(&rows)?;
        Ok(Self {
            schema: Arc::clone(rows.schema()),
            row: None,
            rows,
            filtered: pushed.is_some_and(|filters| filters.len() == 1),
        })
    }

    /// Of the rows, with the relation's qualifiers.
    pub(crate) fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    /// The scan where every event is for one row of a spine: a column of that
    /// name, BIGINT, stands behind the others.
    pub(crate) fn numbered(mut self, row: &str) -> Result<Self> {
        let fields = self.schema.iter();
        let mut fields: Vec<_> = fields
            .map(|(qualifier, field)| (qualifier.cloned(), field.clone()))
            .collect();
        fields.push((None, Arc::new(Field::new(row, DataType::Int64, true))));
        self.schema = Arc::new(DFSchema::new_with_metadata(fields, Default::default())?);
        self.row = Some(Expr::Column(Column::new_unqualified(row)));
        Ok(self)
    }

    pub(crate) fn row(&self) -> Option<&Expr> {
        self.row.as_ref()
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
