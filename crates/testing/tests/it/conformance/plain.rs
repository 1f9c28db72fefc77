//! Way 1: the case's SQL over whole tables.

use std::ops::ControlFlow;

use arrow::array::RecordBatch;
use granary_engine::{Engine, Joins};
use sqlparser::ast::{Expr, Statement, WindowFrameUnits, WindowType, visit_expressions_mut};

use super::case::{Case, Type};
use super::cells;
use super::sql;

/// Runs the SQL in a session of ours.
pub async fn run(engine: &Engine, case: &Case) -> Result<Vec<RecordBatch>, String> {
    let mut statement = sql::parse(&sql::text(case))?;
    let _ = visit_expressions_mut(&mut statement, |expression| {
        intervals(case, expression);
        ControlFlow::<()>::Continue(())
    });
    name_windows(case, &mut statement);
    query(engine, case, &statement.to_string()).await
}

async fn query(engine: &Engine, case: &Case, text: &str) -> Result<Vec<RecordBatch>, String> {
    let context = engine.context(None, Joins::default());
    for table in &case.tables {
        let name = table.name.to_lowercase();
        context
            .register_batch(&name, cells::batch(table))
            .map_err(|error| error.strip_backtrace())?;
    }
    let told = |error: &dyn std::fmt::Display| error.to_string();
    let frame = context.sql(text).await.map_err(|error| told(&error))?;
    frame.collect().await.map_err(|error| told(&error))
}

/// Distances along a TIMESTAMP are milliseconds in the suite.
fn intervals(case: &Case, expression: &mut Expr) {
    if let Expr::Function(function) = expression
        && let Some(WindowType::WindowSpec(window)) = &mut function.over
    {
        in_window(case, window);
    }
}

fn name_windows(case: &Case, statement: &mut Statement) {
    for window in sql::named_windows(statement) {
        in_window(case, window);
    }
}

fn in_window(case: &Case, window: &mut sqlparser::ast::WindowSpec) {
    let by_time = matches!(window.order_by.as_slice(), [order] if is_timestamp(case, &order.expr));
    if let Some(frame) = &mut window.window_frame
        && frame.units == WindowFrameUnits::Range
        && by_time
    {
        sql::milliseconds(frame);
    }
}

fn is_timestamp(case: &Case, expression: &Expr) -> bool {
    let Some(name) = sql::column_name(expression) else {
        return false;
    };
    let columns = case.tables.iter().flat_map(|table| &table.columns);
    let mut named = columns.filter(|column| column.name.to_lowercase() == name);
    named.any(|column| column.data_type == Type::Timestamp)
}
