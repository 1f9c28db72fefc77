//! Which parts of a query are wrong: those that fail when planned alone.
//!
//! DataFusion stops at the first error and tells of few where they are. So a
//! query that does not plan is taken apart: common table expressions, derived
//! tables and branches of a union first, then the items of the SELECT list one
//! by one, then the clauses. Each part that fails gives its own error.

use std::future::Future;
use std::pin::Pin;

use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::sql::parser::Statement as ParsedStatement;
use datafusion::sql::sqlparser::ast::{
    self, GroupByExpr, Select, SelectItem, SetExpr, Spanned, TableFactor,
};
use datafusion::sql::sqlparser::tokenizer::Span;

use crate::engine::settle_types;

/// A part of a query that does not plan.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) error: DataFusionError,
    /// Of the part.
    pub(super) span: Span,
}

type Faults<'a> = Pin<Box<dyn Future<Output = Vec<Fault>> + Send + 'a>>;

/// The faults of a query that is known not to plan; none where every part of it does.
pub(super) fn blame<'a>(state: &'a SessionState, query: &'a ast::Query) -> Faults<'a> {
    Box::pin(async move {
        let inner = inner_queries(state, query).await;
        if !inner.is_empty() {
            return inner;
        }
        match query.body.as_ref() {
            SetExpr::Select(select) => of_select(state, query, select).await,
            SetExpr::SetOperation { left, right, .. } => {
                let mut faults = Vec::new();
                for side in [left, right] {
                    faults.extend(of_part(state, &with_body(query, side.as_ref().clone())).await);
                }
                faults
            }
            SetExpr::Query(inner) => {
                let inner = under(query, inner);
                of_part(state, &inner).await
            }
            _ => Vec::new(),
        }
    })
}

/// The faults of a part, or the part itself where none smaller can be found.
async fn of_part(state: &SessionState, part: &ast::Query) -> Vec<Fault> {
    let Some(error) = fails(state, part).await else {
        return Vec::new();
    };
    let smaller = blame(state, part).await;
    if smaller.is_empty() {
        let span = part.body.span();
        return vec![Fault { error, span }];
    }
    smaller
}

/// Faults in common table expressions and derived tables: what stands around
/// them fails for their sake.
async fn inner_queries(state: &SessionState, query: &ast::Query) -> Vec<Fault> {
    let mut faults = Vec::new();
    if let Some(with) = query.with.as_ref().filter(|with| !with.recursive) {
        for (place, table) in with.cte_tables.iter().enumerate() {
            let mut inner = table.query.as_ref().clone();
            if inner.with.is_none() && place > 0 {
                let mut earlier = with.clone();
                earlier.cte_tables.truncate(place);
                inner.with = Some(earlier);
                // Their own faults are told already.
                faults.extend(of_body(state, &inner).await);
            } else {
                faults.extend(of_part(state, &inner).await);
            }
        }
    }
    if !faults.is_empty() {
        return faults;
    }
    for subquery in derived_tables(query) {
        faults.extend(of_part(state, &subquery).await);
    }
    faults
}

fn derived_tables(query: &ast::Query) -> Vec<ast::Query> {
    let SetExpr::Select(select) = query.body.as_ref() else {
        return Vec::new();
    };
    let mut derived = Vec::new();
    for from in &select.from {
        let joined = from.joins.iter().map(|join| &join.relation);
        for table in std::iter::once(&from.relation).chain(joined) {
            if let TableFactor::Derived {
                lateral: false,
                subquery,
                ..
            } = table
            {
                derived.push(under(query, subquery));
            }
        }
    }
    derived
}

/// The faults of a query's body; common table expressions are taken as right.
async fn of_body(state: &SessionState, query: &ast::Query) -> Vec<Fault> {
    let Some(error) = fails(state, query).await else {
        return Vec::new();
    };
    let faults = match query.body.as_ref() {
        SetExpr::Select(select) => of_select(state, query, select).await,
        _ => Vec::new(),
    };
    if faults.is_empty() {
        let span = query.body.span();
        return vec![Fault { error, span }];
    }
    faults
}

async fn of_select(state: &SessionState, query: &ast::Query, select: &Select) -> Vec<Fault> {
    let bare = Select {
        projection: vec![SelectItem::UnnamedExpr(ast::Expr::value(ast::Value::Null))],
        distinct: None,
        selection: None,
        having: None,
        qualify: None,
        group_by: GroupByExpr::Expressions(Vec::new(), Vec::new()),
        ..select.clone()
    };
    let from = Span::union_iter(select.from.iter().map(Spanned::span));
    let faults = failing(state, query, vec![(bare.clone(), from)]).await;
    if !faults.is_empty() {
        return faults;
    }
    let faults = failing(state, query, items_and_condition(select, &bare)).await;
    if !faults.is_empty() {
        return faults;
    }
    failing(state, query, groups_and_having(select, &bare)).await
}

/// Each item of the SELECT list alone, with the groups that it may refer to, and WHERE.
fn items_and_condition(select: &Select, bare: &Select) -> Vec<(Select, Span)> {
    let item = |item: &SelectItem| {
        let part = Select {
            projection: vec![item.clone()],
            group_by: group_by_columns(select),
            ..bare.clone()
        };
        (part, item.span())
    };
    let mut parts: Vec<_> = select.projection.iter().map(item).collect();
    if let Some(condition) = &select.selection {
        let part = Select {
            selection: select.selection.clone(),
            ..bare.clone()
        };
        parts.push((part, condition.span()));
    }
    parts
}

/// GROUP BY and HAVING refer to items by place and alias: they are tried with all of them.
fn groups_and_having(select: &Select, bare: &Select) -> Vec<(Select, Span)> {
    let grouped = Select {
        projection: select.projection.clone(),
        group_by: select.group_by.clone(),
        ..bare.clone()
    };
    let mut parts = Vec::new();
    if let GroupByExpr::Expressions(expressions, _) = &select.group_by {
        let span = Span::union_iter(expressions.iter().map(Spanned::span));
        parts.push((grouped.clone(), span));
    }
    if let Some(having) = &select.having {
        let part = Select {
            having: select.having.clone(),
            ..grouped
        };
        parts.push((part, having.span()));
    }
    parts
}

/// GROUP BY with its places (`GROUP BY 1`) replaced by the items that they mean.
fn group_by_columns(select: &Select) -> GroupByExpr {
    let GroupByExpr::Expressions(expressions, modifiers) = &select.group_by else {
        return select.group_by.clone();
    };
    let meant = |expression: &ast::Expr| {
        let item = match expression {
            ast::Expr::Value(value) => {
                let place: Option<usize> = value.to_string().parse().ok();
                place.and_then(|place| select.projection.get(place.checked_sub(1)?))
            }
            ast::Expr::Identifier(name) => select.projection.iter().find(
                |item| matches!(item, SelectItem::ExprWithAlias { alias, .. } if alias == name),
            ),
            _ => None,
        };
        match item {
            Some(SelectItem::ExprWithAlias { expr, .. } | SelectItem::UnnamedExpr(expr)) => {
                expr.clone()
            }
            _ => expression.clone(),
        }
    };
    GroupByExpr::Expressions(expressions.iter().map(meant).collect(), modifiers.clone())
}

async fn failing(
    state: &SessionState,
    query: &ast::Query,
    parts: Vec<(Select, Span)>,
) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (part, span) in parts {
        let alone = with_body(query, SetExpr::Select(Box::new(part)));
        if let Some(error) = fails(state, &alone).await {
            faults.push(Fault { error, span });
        }
    }
    faults
}

async fn fails(state: &SessionState, query: &ast::Query) -> Option<DataFusionError> {
    let statement = ast::Statement::Query(Box::new(query.clone()));
    let statement = ParsedStatement::Statement(Box::new(statement));
    match state.statement_to_plan(statement).await {
        Ok(plan) => settle_types(state, plan).err(),
        Err(error) => Some(error),
    }
}

fn with_body(query: &ast::Query, body: SetExpr) -> ast::Query {
    ast::Query {
        body: Box::new(body),
        order_by: None,
        limit_clause: None,
        fetch: None,
        ..query.clone()
    }
}

/// A subquery, with the common table expressions of the query around it.
fn under(outer: &ast::Query, inner: &ast::Query) -> ast::Query {
    let mut inner = inner.clone();
    match (&mut inner.with, &outer.with) {
        (Some(own), Some(around)) => {
            let mut tables = around.cte_tables.clone();
            tables.append(&mut own.cte_tables);
            own.cte_tables = tables;
        }
        (own @ None, Some(around)) => *own = Some(around.clone()),
        _ => {}
    }
    inner
}
