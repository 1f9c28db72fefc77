//! The logical node: window expressions of one PARTITION BY and ORDER BY.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::datatypes::FieldRef;
use datafusion::common::{DFSchema, DFSchemaRef, TableReference};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::expr::WindowFunction;
use datafusion::logical_expr::{Expr, LogicalPlan, UserDefinedLogicalNodeCore};

/// A window expression with the column that it makes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct NamedWindow {
    pub(super) function: WindowFunction,
    pub(super) qualifier: Option<TableReference>,
    pub(super) field: FieldRef,
}

/// The input's columns, then one a window. All windows have the same PARTITION BY
/// and ORDER BY, and a [`super::Frame`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PrecedingWindows {
    pub(super) input: Arc<LogicalPlan>,
    pub(super) windows: Vec<NamedWindow>,
    schema: DFSchemaRef,
}

impl PrecedingWindows {
    pub(super) fn try_new(input: Arc<LogicalPlan>, windows: Vec<NamedWindow>) -> Result<Self> {
        let of_input = input.schema().iter();
        let of_input = of_input.map(|(qualifier, field)| (qualifier.cloned(), field.clone()));
        let of_windows = windows.iter();
        let of_windows = of_windows.map(|window| (window.qualifier.clone(), window.field.clone()));
        let fields = of_input.chain(of_windows).collect();
        let mut dependencies = input.schema().functional_dependencies().clone();
        dependencies.extend_target_indices(input.schema().fields().len() + windows.len());
        let schema = DFSchema::new_with_metadata(fields, input.schema().metadata().clone())?
            .with_functional_dependencies(dependencies)?;
        Ok(Self {
            input,
            windows,
            schema: Arc::new(schema),
        })
    }
}

impl Hash for PrecedingWindows {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.input.hash(state);
        self.windows.hash(state);
    }
}

impl PartialOrd for PrecedingWindows {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        if self == other {
            return Some(Ordering::Equal);
        }
        match self.input.partial_cmp(&other.input)? {
            Ordering::Equal => {}
            unequal => return Some(unequal),
        }
        let functions = |node: &Self| -> Vec<WindowFunction> {
            node.windows.iter().map(|w| w.function.clone()).collect()
        };
        let ordering = functions(self).partial_cmp(&functions(other))?;
        ordering.is_ne().then_some(ordering)
    }
}

impl UserDefinedLogicalNodeCore for PrecedingWindows {
    fn name(&self) -> &'static str {
        "PrecedingWindows"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        let windows = self.windows.iter();
        windows
            .map(|window| Expr::from(window.function.clone()))
            .collect()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let windows: Vec<String> = self.expressions().iter().map(ToString::to_string).collect();
        write!(f, "PrecedingWindows: [{}]", windows.join(", "))
    }

    fn with_exprs_and_inputs(&self, exprs: Vec<Expr>, inputs: Vec<LogicalPlan>) -> Result<Self> {
        let internal = |message: &str| DataFusionError::Internal(message.into());
        let [input]: [_; 1] = inputs
            .try_into()
            .map_err(|_| internal("PrecedingWindows has one input"))?;
        let windows = self.windows.iter().zip(exprs).map(|(window, expr)| {
            // A rewritten expression bears its old name as an alias.
            let Expr::WindowFunction(function) = expr.unalias_nested().data else {
                return Err(internal("PrecedingWindows has window functions only"));
            };
            Ok(NamedWindow {
                function: *function,
                ..window.clone()
            })
        });
        Self::try_new(Arc::new(input), windows.collect::<Result<_>>()?)
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let input = self.input.schema().fields().len();
        let of_input = output_columns.iter().copied();
        Some(vec![of_input.filter(|column| *column < input).collect()])
    }
}
