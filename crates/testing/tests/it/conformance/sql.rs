//! Syntax trees of the cases' SQL.

use std::ops::ControlFlow;

use sqlparser::ast::{
    DateTimeField, Expr, Ident, Interval, NamedWindowDefinition, NamedWindowExpr, Query, Select,
    SetExpr, Statement, TableFactor, Value, WindowFrame, WindowFrameBound, WindowSpec,
    visit_expressions_mut,
};
use sqlparser::dialect::GenericDialect;
use sqlparser::parser::Parser;

use super::case::{Bound, Case, Unit};

/// The case's SQL. Where it has windows that standard SQL has no words for, what
/// can be said of them; the case's windows tell the rest.
pub fn text(case: &Case) -> String {
    if let Some(text) = &case.sql_std {
        return text.clone();
    }
    let text = &case.sql_openmldb;
    let window = text.to_lowercase().find(" window ");
    let windows = case.windows.iter().map(|(name, window)| {
        let unit = match window.unit {
            Unit::Rows => "ROWS",
            Unit::RowsRange => "RANGE",
        };
        format!(
            "{name} AS (PARTITION BY {} ORDER BY {} {unit} BETWEEN {} AND {})",
            window.partition_by.join(", "),
            window.order_by.as_deref().unwrap_or("NULL"),
            bound(window.lo, |n| n.saturating_sub(1)),
            bound(window.hi, |n| n + 1),
        )
    });
    let windows: Vec<String> = windows.collect();
    let select = &text[..window.unwrap_or(text.len())];
    format!("{select} WINDOW {}", windows.join(", ")).replace('`', "")
}

fn bound(bound: Bound, without_edge: impl Fn(u64) -> u64) -> String {
    match bound {
        Bound::Unbounded => "UNBOUNDED PRECEDING".into(),
        Bound::Preceding { n, open: false } => format!("{n} PRECEDING"),
        Bound::Preceding { n, open: true } => format!("{} PRECEDING", without_edge(n)),
        Bound::Current => "CURRENT ROW".into(),
    }
}

/// The one statement of a text. What no parser takes is left out: commas
/// before FROM, and frame exclusion, which the case's windows tell of. LIKE
/// escapes by the backslash, since DataFusion takes no other character.
pub fn parse(text: &str) -> Result<Statement, String> {
    let mut text = text.replace(" EXCLUDE CURRENT ROW", "");
    for from in [" FROM ", " from "] {
        text = text.replace(&format!(",{from}"), from);
    }
    let mut statements =
        Parser::parse_sql(&GenericDialect {}, &text).map_err(|error| error.to_string())?;
    let Some(mut statement) = statements.pop().filter(|_| statements.is_empty()) else {
        return Err("not one statement".into());
    };
    let _ = visit_expressions_mut(&mut statement, |expression| {
        escape_by_backslash(expression);
        ControlFlow::<()>::Continue(())
    });
    Ok(statement)
}

fn escape_by_backslash(expression: &mut Expr) {
    let (Expr::Like {
        pattern,
        escape_char,
        ..
    }
    | Expr::ILike {
        pattern,
        escape_char,
        ..
    }) = expression
    else {
        return;
    };
    let Expr::Value(literal) = pattern.as_mut() else {
        return;
    };
    let (Some(escape), Value::SingleQuotedString(text)) = (&escape_char, &literal.value) else {
        return;
    };
    // With ESCAPE '' nothing escapes.
    let escape = escape.value.clone().into_string().unwrap_or_default();
    let escape = escape.chars().next();
    let mut chars = text.chars();
    let mut escaped = String::new();
    while let Some(mut c) = chars.next() {
        let mut literally = c == '\\';
        if Some(c) == escape {
            c = chars.next().unwrap_or(c);
            literally = matches!(c, '%' | '_' | '\\');
        }
        escaped.extend(literally.then_some('\\'));
        escaped.push(c);
    }
    literal.value = Value::SingleQuotedString(escaped);
    *escape_char = None;
}

pub fn query_of(statement: Statement) -> Result<Query, String> {
    match statement {
        Statement::Query(query) => Ok(*query),
        other => Err(format!("no query: {other}")),
    }
}

/// A name as SQL folds it; quoted names of the suite are in lower case anyway.
pub fn folded(ident: &Ident) -> String {
    ident.value.to_lowercase()
}

/// The last part of a column's name.
pub fn column_name(expression: &Expr) -> Option<String> {
    match expression {
        Expr::Identifier(ident) => Some(folded(ident)),
        Expr::CompoundIdentifier(parts) => parts.last().map(folded),
        Expr::Nested(inner) => column_name(inner),
        _ => None,
    }
}

/// Windows of WINDOW clauses, in subqueries of FROM too.
pub fn named_windows(statement: &mut Statement) -> Vec<&mut WindowSpec> {
    let mut found = Vec::new();
    if let Statement::Query(query) = statement {
        in_query(query, &mut found);
    }
    found
}

fn in_query<'a>(query: &'a mut Query, found: &mut Vec<&'a mut WindowSpec>) {
    let SetExpr::Select(select) = query.body.as_mut() else {
        return;
    };
    let Select {
        named_window, from, ..
    } = select.as_mut();
    for NamedWindowDefinition(_, window) in named_window {
        if let NamedWindowExpr::WindowSpec(window) = window {
            found.push(window);
        }
    }
    for table in from {
        let joined = table.joins.iter_mut().map(|join| &mut join.relation);
        for factor in std::iter::once(&mut table.relation).chain(joined) {
            if let TableFactor::Derived { subquery, .. } = factor {
                in_query(subquery, found);
            }
        }
    }
}

/// Bounds that are numbers as intervals of so many milliseconds.
pub fn milliseconds(frame: &mut WindowFrame) {
    wider(frame, 0);
}

/// The same, at both ends wider by so many microseconds.
pub fn wider(frame: &mut WindowFrame, micros: i64) {
    let start = std::iter::once((&mut frame.start_bound, micros));
    for (bound, micros) in start.chain(frame.end_bound.as_mut().map(|end| (end, -micros))) {
        if let WindowFrameBound::Preceding(Some(distance)) = bound
            && let Ok(millis) = distance.to_string().parse::<i64>()
        {
            let distance_micros = (millis * 1000 + micros).max(0);
            let text = Value::SingleQuotedString(format!("{distance_micros} microseconds"));
            **distance = Expr::Interval(Interval {
                value: Box::new(Expr::Value(text.into())),
                leading_field: None::<DateTimeField>,
                leading_precision: None,
                last_field: None,
                fractional_seconds_precision: None,
            });
        }
    }
}
