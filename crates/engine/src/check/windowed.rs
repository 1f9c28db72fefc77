//! The form of a windowed view: one table, the keys, and expressions over
//! aggregates OVER windows that are partitioned by the keys and ordered by the
//! event time. Each rule that fails is told.

use std::ops::ControlFlow;

use datafusion::execution::SessionState;
use datafusion::sql::sqlparser::ast::{
    Expr, Function, GroupByExpr, NamedWindowDefinition, NamedWindowExpr, Select, SelectItem,
    SetExpr, Spanned, TableFactor, Visit, Visitor, WindowFrameBound, WindowFrameUnits, WindowSpec,
    WindowType, visit_expressions,
};
use datafusion::sql::sqlparser::tokenizer;
use granary_model::Diagnostic;
use granary_model::definitions::Column;
use granary_model::statement::{CreateFeatureView, Ident, ObjectSort};

use super::Check;
use super::query::{Query, folded, last_part};
use super::relations::time_column;

/// Window functions that number rows instead of adding them up.
const NO_AGGREGATES: [&str; 8] = [
    "row_number",
    "rank",
    "dense_rank",
    "percent_rank",
    "cume_dist",
    "ntile",
    "lead",
    "lag",
];

/// Whether the query has an aggregate OVER a window in its SELECT list.
pub(super) fn has_windows(query: &Query<'_>) -> bool {
    let Some(ast) = query.ast() else {
        return false;
    };
    let SetExpr::Select(select) = ast.body.as_ref() else {
        return false;
    };
    select.projection.iter().any(|item| {
        visit_expressions(item, |expression: &Expr| match expression {
            Expr::Function(function) if function.over.is_some() => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        })
        .is_break()
    })
}

/// A view whose query has windows and whose output lacks the event time.
pub(super) struct Windowed<'a> {
    pub(super) create: &'a CreateFeatureView,
    pub(super) query: &'a Query<'a>,
    pub(super) event_time: &'a Ident,
    pub(super) keys: &'a [Column],
}

impl Windowed<'_> {
    /// The rules that the view breaks; none where it is windowed.
    pub(super) fn wrong(&self, check: &Check<'_>) -> Vec<Diagnostic> {
        let Some(ast) = self.query.ast() else {
            return Vec::new();
        };
        let SetExpr::Select(select) = ast.body.as_ref() else {
            return vec![self.rule(ast.body.span(), "UNION and the like", "write one SELECT")];
        };
        let mut errors = Vec::new();
        if let Some(with) = &ast.with {
            errors.push(self.rule(with.span(), "WITH", "make it a plain view and read that"));
        }
        if let Some(order) = &ast.order_by {
            errors.push(self.rule(order.span(), "ORDER BY", "leave it out"));
        }
        if ast.limit_clause.is_some() || ast.fetch.is_some() {
            errors.push(self.rule(ast.span(), "LIMIT", "leave it out"));
        }
        errors.extend(self.clauses(select));
        errors.extend(self.from(select, check));
        let partition = self.partition(select);
        for item in &select.projection {
            errors.extend(self.item(select, item, &partition, &check.state));
        }
        errors
    }

    fn rule(&self, span: tokenizer::Span, what: &str, help: &str) -> Diagnostic {
        let name = &self.create.name.value;
        let message = format!("{name} would be a windowed view, which allows no {what}");
        Diagnostic::new(&self.query.span(span), message).help(help)
    }

    fn clauses(&self, select: &Select) -> Vec<Diagnostic> {
        let mut errors = Vec::new();
        if select.distinct.is_some() {
            errors.push(self.rule(select.span(), "DISTINCT", "leave it out"));
        }
        if let GroupByExpr::Expressions(groups, _) = &select.group_by
            && let Some(first) = groups.first()
        {
            let help = "the windows are partitioned by the keys already: leave GROUP BY out";
            errors.push(self.rule(first.span(), "GROUP BY", help));
        }
        for (clause, name) in [(&select.having, "HAVING"), (&select.qualify, "QUALIFY")] {
            if let Some(clause) = clause {
                errors.push(self.rule(
                    clause.span(),
                    name,
                    "filter with WHERE, or in a plain view",
                ));
            }
        }
        errors
    }

    /// FROM one table, stream or plain view, which has the event time.
    fn from(&self, select: &Select, check: &Check<'_>) -> Vec<Diagnostic> {
        let help = "join and combine in a plain view, and read that";
        let [from] = select.from.as_slice() else {
            return vec![self.rule(select.span(), "FROM of several tables", help)];
        };
        if !from.joins.is_empty() {
            return vec![self.rule(from.span(), "join", help)];
        }
        let TableFactor::Table { name, .. } = &from.relation else {
            return vec![self.rule(from.span(), "subquery", help)];
        };
        let relation = last_part(name).unwrap_or_default();
        if check.is_sort(&relation, ObjectSort::FeatureView) {
            return vec![self.rule(from.span(), "feature view in FROM", "read its sources")];
        }
        let Some(schema) = check.relations.get(&relation).map(|table| table.schema()) else {
            return Vec::new();
        };
        let times = [
            (Some(self.event_time), "event time"),
            (self.create.created_time.as_ref(), "created time"),
        ];
        times
            .into_iter()
            .filter_map(|(column, what)| time_column(&relation, &schema, column?, what))
            .collect()
    }

    /// The expressions that give the keys, as text.
    fn partition(&self, select: &Select) -> Vec<String> {
        let mut partition: Vec<String> = select
            .projection
            .iter()
            .filter(|item| self.is_key(item))
            .filter_map(|item| expression_of(item).map(without_qualifier))
            .collect();
        partition.sort();
        partition
    }

    fn is_key(&self, item: &SelectItem) -> bool {
        output_name(item).is_some_and(|name| self.keys.iter().any(|key| key.name == name))
    }

    fn item(
        &self,
        select: &Select,
        item: &SelectItem,
        partition: &[String],
        state: &SessionState,
    ) -> Vec<Diagnostic> {
        if self.is_key(item) {
            return Vec::new();
        }
        let Some(expression) = expression_of(item) else {
            let help = "list the keys and the aggregates";
            return vec![self.rule(item.span(), "*", help)];
        };
        if let ControlFlow::Break(span) = visit_expressions(expression, subquery) {
            let help = "read it in a plain view, and that view here";
            return vec![self.rule(span, "subquery in SELECT", help)];
        }
        let mut walk = Walk {
            view: self,
            select,
            partition,
            state,
            errors: Vec::new(),
        };
        walk.expression(expression);
        walk.errors
    }
}

fn subquery(expression: &Expr) -> ControlFlow<tokenizer::Span> {
    match expression {
        Expr::Subquery(_) | Expr::InSubquery { .. } | Expr::Exists { .. } => {
            ControlFlow::Break(expression.span())
        }
        _ => ControlFlow::Continue(()),
    }
}

/// Goes through an expression over windowed aggregates.
struct Walk<'a> {
    view: &'a Windowed<'a>,
    select: &'a Select,
    partition: &'a [String],
    state: &'a SessionState,
    errors: Vec<Diagnostic>,
}

impl Walk<'_> {
    /// Looks at every function with a window, and for columns outside of all of them.
    fn expression(&mut self, expression: &Expr) {
        let mut found = Found {
            walk: self,
            windows: Vec::new(),
            inside: 0,
        };
        let _ = expression.visit(&mut found);
        for window in found.windows {
            self.window(&window);
        }
    }

    fn outside(&mut self, expression: &Expr) {
        let error = match expression {
            Expr::Function(function) if self.is_aggregate(function) => {
                let what = format!("{} without OVER", function.name);
                let help = "say over which window: OVER (PARTITION BY .. ORDER BY ..)";
                self.view.rule(expression.span(), &what, help)
            }
            Expr::Identifier(_) | Expr::CompoundIdentifier(_) => {
                let what = format!("bare column {expression}");
                let help = "aggregate it OVER a window, as with last_value(..)";
                self.view.rule(expression.span(), &what, help)
            }
            _ => return,
        };
        self.errors.push(error);
    }

    fn is_aggregate(&self, function: &Function) -> bool {
        let name = last_part(&function.name).unwrap_or_default();
        self.state.aggregate_functions().contains_key(&name)
    }

    fn window(&mut self, function: &Function) {
        let name = last_part(&function.name).unwrap_or_default();
        if NO_AGGREGATES.contains(&name.as_str()) {
            let help = "aggregate instead, as with count(*), last_value(..) or nth_value(..)";
            self.errors
                .push(self.view.rule(function.span(), &name, help));
            return;
        }
        let spec = match &function.over {
            Some(WindowType::WindowSpec(spec)) => Some(spec.clone()),
            Some(WindowType::NamedWindow(name)) => self.named(&folded(name), 0),
            None => None,
        };
        if let Some(spec) = spec {
            self.spec(function, &spec);
        }
    }

    fn named(&self, name: &str, depth: usize) -> Option<WindowSpec> {
        let NamedWindowDefinition(_, definition) = self
            .select
            .named_window
            .iter()
            .find(|NamedWindowDefinition(ident, _)| folded(ident) == name)?;
        match definition {
            NamedWindowExpr::WindowSpec(spec) => Some(spec.clone()),
            NamedWindowExpr::NamedWindow(other) if depth < 8 => {
                self.named(&folded(other), depth + 1)
            }
            NamedWindowExpr::NamedWindow(_) => None,
        }
    }

    fn spec(&mut self, function: &Function, spec: &WindowSpec) {
        let span = function.span();
        let keys: Vec<&str> = self.view.keys.iter().map(|key| key.name.as_str()).collect();
        let keys = keys.join(", ");
        let mut given: Vec<String> = spec.partition_by.iter().map(without_qualifier).collect();
        given.sort();
        if given != self.partition {
            let what = "window that is not partitioned by exactly the keys";
            let help = format!("write PARTITION BY {keys}");
            self.errors.push(self.view.rule(span, what, &help));
        }
        let time = &self.view.event_time.value;
        let ordered = match spec.order_by.as_slice() {
            [order] => {
                name_of(&order.expr).as_deref() == Some(time) && order.options.asc != Some(false)
            }
            _ => false,
        };
        if !ordered {
            let what = if spec.order_by.is_empty() {
                "window without ORDER BY"
            } else {
                "window that is not ordered by the event time alone"
            };
            let help = format!("write ORDER BY {time}");
            self.errors.push(self.view.rule(span, what, &help));
        }
        if let Some(frame) = &spec.window_frame {
            if frame.units == WindowFrameUnits::Groups {
                let help = "write RANGE, or ROWS to count events";
                self.errors.push(self.view.rule(span, "GROUPS", help));
            }
            let bounds = std::iter::once(&frame.start_bound).chain(&frame.end_bound);
            if bounds
                .into_iter()
                .any(|bound| matches!(bound, WindowFrameBound::Following(_)))
            {
                let help = "end the frame with CURRENT ROW or .. PRECEDING: what follows is not known at t";
                self.errors.push(self.view.rule(span, "FOLLOWING", help));
            }
        }
    }
}

/// Tells what is inside of a windowed function from what is not.
struct Found<'w, 'a> {
    walk: &'w mut Walk<'a>,
    windows: Vec<Function>,
    /// Windowed functions, and aggregates that lack a window, around here.
    inside: usize,
}

impl Found<'_, '_> {
    fn encloses(&self, expression: &Expr) -> bool {
        match expression {
            Expr::Function(function) => function.over.is_some() || self.walk.is_aggregate(function),
            _ => false,
        }
    }
}

impl Visitor for Found<'_, '_> {
    type Break = ();

    fn pre_visit_expr(&mut self, expression: &Expr) -> ControlFlow<()> {
        match expression {
            Expr::Function(function) if function.over.is_some() => {
                self.windows.push(function.clone());
            }
            other if self.inside == 0 => self.walk.outside(other),
            _ => {}
        }
        self.inside += usize::from(self.encloses(expression));
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expression: &Expr) -> ControlFlow<()> {
        self.inside -= usize::from(self.encloses(expression));
        ControlFlow::Continue(())
    }
}

fn expression_of(item: &SelectItem) -> Option<&Expr> {
    match item {
        SelectItem::UnnamedExpr(expression)
        | SelectItem::ExprWithAlias {
            expr: expression, ..
        } => Some(expression),
        _ => None,
    }
}

fn output_name(item: &SelectItem) -> Option<String> {
    match item {
        SelectItem::ExprWithAlias { alias, .. } => Some(folded(alias)),
        SelectItem::UnnamedExpr(expression) => name_of(expression),
        _ => None,
    }
}

/// The column that an expression is, its table aside.
fn name_of(expression: &Expr) -> Option<String> {
    match expression {
        Expr::Identifier(ident) => Some(folded(ident)),
        Expr::CompoundIdentifier(parts) => parts.last().map(folded),
        Expr::Nested(inner) => name_of(inner),
        _ => None,
    }
}

/// An expression as text, to compare; of a column the name without its table.
fn without_qualifier(expression: &Expr) -> String {
    name_of(expression).unwrap_or_else(|| expression.to_string())
}
