//! Windows as windowed views: one for each PARTITION BY and ORDER BY.

use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{Schema, TimestampMicrosecondType};
use sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, NamedWindowDefinition,
    NamedWindowExpr, ObjectName, ObjectNamePart, Select, SelectItem, WindowFrame, WindowFrameBound,
    WindowFrameUnits, WindowSpec, WindowType, visit_expressions_mut,
};

use super::Way;
use super::case::{Case, Window};
use super::relation::{Relation, as_key, as_time};
use super::sql;
use super::training::{Asked, Main, Training};

/// Functions over windows of one PARTITION BY and ORDER BY, over the same events.
struct Group {
    partition_by: Vec<String>,
    order_by: String,
    over: Over,
    /// Output column and call, with its frame.
    calls: Vec<(String, Function, Option<WindowFrame>)>,
}

/// What is in a window beside what its frame says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Over {
    without_current_row: bool,
    strictly_before: bool,
    /// Whether rows of one millisecond come one after the other.
    in_turn: bool,
    /// Tables whose rows are in it too.
    union: Vec<String>,
    /// Whether the main table's rows are.
    main: Main,
    max_events: Option<u64>,
}

impl Over {
    /// All rows up to the current one, which a training set has by their time.
    fn plain() -> Self {
        Self {
            without_current_row: false,
            strictly_before: false,
            in_turn: false,
            union: Vec::new(),
            main: Main {
                request: true,
                pushed: true,
            },
            max_events: None,
        }
    }

    fn new(window: &Window, way: Way) -> Result<Self, String> {
        let without_current_row = window.exclude_current_row;
        let without_others = window.exclude_current_time || window.instance_not_in_window;
        let as_requests = way == Way::Requests;
        if without_others && !without_current_row && !as_requests {
            return Err("of some rows the current one alone, which is a request event".into());
        }
        let in_turn = without_current_row && !without_others && !as_requests;
        let union = window.union.iter().flat_map(|union| union.split(','));
        Ok(Self {
            without_current_row,
            strictly_before: in_turn || window.exclude_current_time,
            in_turn,
            union: union.map(str::to_lowercase).collect(),
            main: Main {
                request: !without_current_row,
                pushed: !window.instance_not_in_window,
            },
            max_events: window.maxsize,
        })
    }
}

/// Computes all windows of the items, which then read the relation's columns.
pub async fn compute(
    training: &mut Training<'_>,
    case: &Case,
    mut relation: Relation,
    select: &Select,
    items: &mut [SelectItem],
) -> Result<Relation, String> {
    let mut groups: Vec<Group> = Vec::new();
    let mut failed = None;
    let mut count = relation.rows.num_columns();
    for item in items {
        let _ = visit_expressions_mut(item, |expression| {
            let Expr::Function(function) = expression else {
                return ControlFlow::<()>::Continue(());
            };
            let Some(over) = function.over.take() else {
                return ControlFlow::Continue(());
            };
            count += 1;
            let name = format!("w{count}");
            let added = add(
                &mut groups,
                case,
                &relation,
                select,
                (&name, function, &over),
                training.way(),
            );
            failed = failed.take().or(added.err());
            *expression = Expr::Identifier(Ident::new(name));
            ControlFlow::Continue(())
        });
    }
    if let Some(failed) = failed {
        return Err(failed);
    }
    let mut columns = relation.rows.columns().to_vec();
    let mut fields = relation.rows.schema().fields().to_vec();
    for group in groups {
        let rows = group.compute(training, &relation).await?;
        let added = relation.rows.num_columns()..;
        columns.extend_from_slice(&rows.columns()[added.clone()]);
        fields.extend_from_slice(&rows.schema().fields()[added]);
    }
    relation.rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
    Ok(relation)
}

fn add(
    groups: &mut Vec<Group>,
    case: &Case,
    relation: &Relation,
    select: &Select,
    (name, function, over): (&str, &Function, &WindowType),
    way: Way,
) -> Result<(), String> {
    let (spec, named) = spec(select, over)?;
    let window = named.and_then(|named| case.windows.get(&named));
    let over = window.map(|window| Over::new(window, way));
    let over = over.transpose()?.unwrap_or_else(Over::plain);
    let partition_by = spec.partition_by.iter().map(|key| {
        let flat = relation.flat(key).map(str::to_owned);
        flat.ok_or_else(|| format!("PARTITION BY {key}"))
    });
    let partition_by = partition_by.collect::<Result<Vec<_>, _>>()?;
    let order_by = match spec.order_by.as_slice() {
        [order] => relation.flat(&order.expr),
        [] => return Err("a window without ORDER BY".into()),
        _ => None,
    };
    let order_by = order_by.ok_or("an order that is no column")?.to_owned();
    let mut call = function.clone();
    let _ = visit_expressions_mut(&mut call, |e| {
        if let Some(flat) = relation.flat(e) {
            *e = Expr::Identifier(Ident::new(flat));
        }
        ControlFlow::<()>::Continue(())
    });
    let frame = match lagged(&mut call)? {
        Some(rows) => Some(row_back(rows)),
        None => spec.window_frame.clone(),
    };
    let frame = match frame {
        Some(frame) if over.without_current_row => Some(nearer(frame)?),
        frame => frame,
    };
    let call = (name.to_owned(), call, frame);
    let same = |group: &&mut Group| {
        group.partition_by == partition_by && group.order_by == order_by && group.over == over
    };
    match groups.iter_mut().find(same) {
        Some(group) => group.calls.push(call),
        None => groups.push(Group {
            partition_by,
            order_by,
            over,
            calls: vec![call],
        }),
    }
    Ok(())
}

/// The window, and its name where it has one.
fn spec(select: &Select, over: &WindowType) -> Result<(WindowSpec, Option<String>), String> {
    match over {
        WindowType::WindowSpec(spec) => Ok((spec.clone(), None)),
        WindowType::NamedWindow(name) => {
            let name = sql::folded(name);
            let mut named = select.named_window.iter();
            let named = named.find(|NamedWindowDefinition(n, _)| sql::folded(n) == name);
            match named {
                Some(NamedWindowDefinition(_, NamedWindowExpr::WindowSpec(spec))) => {
                    Ok((spec.clone(), Some(name)))
                }
                _ => Err(format!("no window {name}")),
            }
        }
    }
}

/// n of `lag(x, n)`, which becomes `last_value(x)`.
fn lagged(call: &mut Function) -> Result<Option<u64>, String> {
    if call.name.to_string().to_lowercase() != "lag" {
        return Ok(None);
    }
    let FunctionArguments::List(list) = &mut call.args else {
        return Err("lag without arguments".into());
    };
    let rows = match list.args.get(1) {
        None => 1,
        Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(rows))) => rows
            .to_string()
            .parse()
            .map_err(|_| format!("lag by {rows}"))?,
        Some(other) => return Err(format!("lag by {other}")),
    };
    list.args.truncate(1);
    let name = ObjectNamePart::Identifier(Ident::new("last_value"));
    call.name = ObjectName(vec![name]);
    Ok(Some(rows))
}

fn number(rows: u64) -> WindowFrameBound {
    match rows {
        0 => WindowFrameBound::CurrentRow,
        rows => {
            let text = sqlparser::ast::Value::Number(rows.to_string(), false);
            WindowFrameBound::Preceding(Some(Box::new(Expr::Value(text.into()))))
        }
    }
}

fn row_back(rows: u64) -> WindowFrame {
    WindowFrame {
        units: WindowFrameUnits::Rows,
        start_bound: number(rows),
        end_bound: Some(number(rows)),
    }
}

/// A frame of rows, counted from the row before the current one.
fn nearer(mut frame: WindowFrame) -> Result<WindowFrame, String> {
    if frame.units != WindowFrameUnits::Rows {
        return Ok(frame);
    }
    let rows = |bound: &WindowFrameBound| match bound {
        WindowFrameBound::CurrentRow => Some(0),
        WindowFrameBound::Preceding(Some(rows)) => rows.to_string().parse::<u64>().ok(),
        _ => None,
    };
    if let Some(start) = rows(&frame.start_bound) {
        let start = start.checked_sub(1).ok_or("a window of no rows")?;
        frame.start_bound = number(start);
    }
    let end = frame.end_bound.as_ref().and_then(rows).unwrap_or(0);
    frame.end_bound = Some(number(end.saturating_sub(1)));
    Ok(frame)
}

/// More than rows of a case that are apart by it, in microseconds, and less than
/// half of the suite's millisecond.
const PLACES: i64 = 499;

/// Rows of the suite come one after the other, but its clock ticks in
/// milliseconds: a row's place in the table is the microseconds of its time, so
/// that strictly before it is what the suite has before it.
fn one_after_the_other(rows: &RecordBatch) -> Result<RecordBatch, String> {
    if rows.num_rows() as i64 > PLACES {
        return Err("more rows than places".into());
    }
    let time = rows.schema().index_of("event_time").unwrap();
    let mut columns = rows.columns().to_vec();
    let times = columns[time].as_primitive::<TimestampMicrosecondType>();
    let times = times.iter().zip(0..);
    let times = times.map(|(time, place)| time.map(|time| time + place));
    columns[time] = Arc::new(times.collect::<TimestampMicrosecondArray>());
    Ok(RecordBatch::try_new(rows.schema(), columns).unwrap())
}

impl Group {
    async fn compute(
        &self,
        training: &mut Training<'_>,
        relation: &Relation,
    ) -> Result<RecordBatch, String> {
        let mut keys = Vec::new();
        let mut columns = vec!["*".to_owned()];
        for (place, flat) in self.partition_by.iter().enumerate() {
            let (key, data_type) = as_key(flat, &relation.type_of(flat))?;
            columns.push(format!("{key} AS k{place}"));
            keys.push(data_type);
        }
        let time = as_time(&self.order_by, &relation.type_of(&self.order_by))?;
        columns.push(format!("{time} AS event_time"));
        let text = format!("SELECT {} FROM rows", columns.join(", "));
        let mut spine = training.plain(&relation.rows, &text).await?;
        if self.over.in_turn {
            spine = one_after_the_other(&spine)?;
        }
        let mut events = Vec::new();
        for table in &self.over.union {
            let (rows, _) = training.source(table)?;
            let rows = RecordBatch::try_new(relation.rows.schema(), rows.columns().to_vec());
            let rows = rows.map_err(|error| format!("UNION {table}: {error}"))?;
            events.push(training.plain(&rows, &text).await?);
        }
        let features: Vec<String> = self.calls.iter().map(|(name, ..)| name.clone()).collect();
        training
            .set(Asked {
                events,
                spine,
                main: self.over.main,
                query: self.query(keys.len()),
                keys,
                features: &features,
                strictly_before: self.over.strictly_before,
                max_events: self.over.max_events,
            })
            .await
    }

    fn query(&self, keys: usize) -> String {
        let keys: Vec<String> = (0..keys).map(|i| format!("k{i}")).collect();
        let keys = keys.join(", ");
        let calls = self.calls.iter().map(|(name, call, frame)| {
            let frame = frame.as_ref().map(|frame| {
                let mut frame = frame.clone();
                if frame.units == WindowFrameUnits::Range {
                    let micros = if self.over.in_turn { PLACES } else { 0 };
                    sql::wider(&mut frame, micros);
                }
                match &frame.end_bound {
                    Some(end) => format!("{} BETWEEN {} AND {end}", frame.units, frame.start_bound),
                    None => format!("{} {}", frame.units, frame.start_bound),
                }
            });
            let frame = frame.unwrap_or_default();
            format!("{call} OVER (PARTITION BY {keys} ORDER BY event_time {frame}) AS {name}")
        });
        let calls: Vec<String> = calls.collect();
        format!("SELECT {keys}, {} FROM events", calls.join(", "))
    }
}
