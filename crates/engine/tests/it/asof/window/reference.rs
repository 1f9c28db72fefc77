//! Windows by brute force: for every row of the spine the events are looked
//! through, sorted and handed to a new accumulator (DESIGN: rules 2, 4, 5, 7 and
//! 10 of the as-of contract).

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::SchemaRef;
use datafusion::logical_expr::function::AccumulatorArgs;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::scalar::ScalarValue;
use granary_engine::asof::{
    AsOfWindowSpec, EventSet, Frame, FrameBounds, WindowAggregate, event_schema,
};
use granary_model::UtcMicros;

use crate::asof::reference::compare_floats;

/// An event: the row of its table, and what is known of it.
struct Event {
    row: RecordBatch,
    keys: Vec<ScalarValue>,
    at: Option<i64>,
    created: Option<i64>,
    ties: Vec<ScalarValue>,
}

pub struct Reference<'a> {
    spec: &'a AsOfWindowSpec,
    events: Vec<Event>,
    schema: SchemaRef,
}

/// The rows of a frame, and what an aggregate makes of them.
pub struct Expected {
    pub value: ScalarValue,
    /// The first argument of each row that was aggregated.
    pub arguments: Vec<ScalarValue>,
}

impl<'a> Reference<'a> {
    pub fn new(spec: &'a AsOfWindowSpec, events: &RecordBatch) -> Self {
        let event = |row: usize| {
            let row = events.slice(row, 1);
            let columns = row.columns().iter();
            let then_by = spec.then_by.iter().map(|e| value(e, &row));
            Event {
                keys: spec.on.iter().map(|(_, key)| value(key, &row)).collect(),
                at: micros(&value(&spec.event_time, &row)),
                created: spec
                    .created_time
                    .as_ref()
                    .and_then(|created| micros(&value(created, &row))),
                ties: then_by
                    .chain(columns.map(|c| ScalarValue::try_from_array(c, 0).unwrap()))
                    .collect(),
                row,
            }
        };
        Self {
            spec,
            events: (0..events.num_rows()).map(event).collect(),
            schema: event_schema(&events.schema()),
        }
    }

    /// All aggregates as of a row of the spine.
    pub fn of(&self, spine: &RecordBatch) -> Vec<Expected> {
        let on = self.spec.on.iter();
        let keys: Vec<ScalarValue> = on.map(|(key, _)| value(key, spine)).collect();
        let t = micros(&value(&self.spec.time, spine));
        let sets = self.spec.sets.iter().flat_map(|set| {
            let events = t.map_or(Vec::new(), |t| self.seen(set, &keys, t));
            let aggregates = set.aggregates.iter();
            aggregates.map(move |a| aggregated(a, &events, t.unwrap_or(0), &self.schema))
        });
        sets.collect()
    }

    /// The events of a set as of t, in order.
    fn seen(&self, set: &EventSet, keys: &[ScalarValue], t: i64) -> Vec<&Event> {
        let known = |event: &Event| {
            let Some(at) = event.at else {
                return false;
            };
            let happened = at < t || (at == t && !self.spec.strictly_before);
            let written = event.created.unwrap_or(at) <= t;
            happened && (written || !self.spec.known_at_the_time)
        };
        let of_key = |event: &Event| event.keys == keys && keys.iter().all(|key| !key.is_null());
        let mut events: Vec<&Event> = (self.events.iter())
            .filter(|event| of_key(event) && known(event))
            .filter(|event| passes(set.filter.as_ref(), event, t))
            .collect();
        events.sort_by(|a, b| a.at.cmp(&b.at).then_with(|| compare_all(&a.ties, &b.ties)));
        events
    }
}

/// Events of a frame by the book; all of `events` are known as of t.
fn framed<'a, 'b>(frame: &Frame, events: &'a [&'b Event], t: i64) -> &'a [&'b Event] {
    let before = |interval: granary_model::Interval| interval.before(UtcMicros(t)).0;
    let length = events.len() as u64;
    let inside: Vec<usize> = match frame.bounds {
        FrameBounds::Range { start, end } => {
            let inside = |at: i64| start.is_none_or(|s| at >= before(s)) && at <= before(end);
            (0..events.len())
                .filter(|i| inside(events[*i].at.unwrap()))
                .collect()
        }
        FrameBounds::Rows { start, end } => {
            // n PRECEDING is rank n + 1 from the newest.
            let rank = |i: usize| length - i as u64;
            let inside = |i: &usize| rank(*i) > end && start.is_none_or(|s| rank(*i) <= s + 1);
            (0..events.len()).filter(inside).collect()
        }
    };
    let (Some(first), Some(last)) = (inside.first(), inside.last()) else {
        return &[];
    };
    let max = frame.events_max.unwrap_or(u64::MAX) as usize;
    let frame = &events[*first..=*last];
    &frame[frame.len().saturating_sub(max)..]
}

/// The rows that an aggregate is over, and what a new accumulator makes of them.
fn aggregated(
    aggregate: &WindowAggregate,
    events: &[&Event],
    t: i64,
    schema: &SchemaRef,
) -> Expected {
    let call = &aggregate.call;
    let positional = matches!(
        call.function.name(),
        "first_value" | "last_value" | "nth_value" | "array_agg"
    );
    let mut rows: Vec<Vec<ScalarValue>> = Vec::new();
    for event in framed(&aggregate.frame, events, t) {
        if !passes(aggregate.filter.as_ref(), event, t) {
            continue;
        }
        let row = as_of(&event.row, t);
        let arguments: Vec<ScalarValue> = call.arguments.iter().map(|a| value(a, &row)).collect();
        let skipped = call.ignore_nulls && positional && arguments[0].is_null();
        if !(skipped || call.distinct && rows.contains(&arguments)) {
            rows.push(arguments);
        }
    }
    let arguments = call.arguments.iter();
    let fields: Vec<_> = arguments.map(|a| a.return_field(schema).unwrap()).collect();
    let mut accumulator = call
        .function
        .accumulator(AccumulatorArgs {
            return_field: call.function.return_field(&fields).unwrap(),
            schema,
            ignore_nulls: call.ignore_nulls,
            order_bys: &[],
            is_reversed: false,
            name: call.function.name(),
            is_distinct: false,
            exprs: &call.arguments,
            expr_fields: &fields,
        })
        .unwrap();
    if !rows.is_empty() {
        let column = |at: usize| rows.iter().map(move |row| row[at].clone());
        let columns: Vec<ArrayRef> = (0..call.arguments.len())
            .map(|at| ScalarValue::iter_to_array(column(at)).unwrap())
            .collect();
        accumulator.update_batch(&columns).unwrap();
    }
    Expected {
        value: accumulator.evaluate().unwrap(),
        arguments: rows.into_iter().map(|mut row| row.swap_remove(0)).collect(),
    }
}

fn passes(filter: Option<&Arc<dyn PhysicalExpr>>, event: &Event, t: i64) -> bool {
    filter.is_none_or(|filter| {
        value(filter, &as_of(&event.row, t)) == ScalarValue::Boolean(Some(true))
    })
}

/// The row with t beside it.
fn as_of(row: &RecordBatch, t: i64) -> RecordBatch {
    let mut columns = row.columns().to_vec();
    columns.push(Arc::new(
        TimestampMicrosecondArray::from(vec![t]).with_timezone("UTC"),
    ));
    RecordBatch::try_new(event_schema(&row.schema()), columns).unwrap()
}

/// Of one row.
fn value(expression: &Arc<dyn PhysicalExpr>, row: &RecordBatch) -> ScalarValue {
    let array = expression.evaluate(row).unwrap().into_array(1).unwrap();
    ScalarValue::try_from_array(&array, 0).unwrap()
}

fn micros(time: &ScalarValue) -> Option<i64> {
    match time {
        ScalarValue::TimestampMicrosecond(micros, _) => *micros,
        other => panic!("{other} is no time"),
    }
}

/// NULL lowest, NaN highest, column by column.
fn compare_all(a: &[ScalarValue], b: &[ScalarValue]) -> Ordering {
    let mut columns = a.iter().zip(b).map(|(a, b)| match (a, b) {
        (ScalarValue::Float64(a), ScalarValue::Float64(b)) => compare_floats(*a, *b),
        _ if a.is_null() || b.is_null() => b.is_null().cmp(&a.is_null()),
        _ => a.partial_cmp(b).unwrap(),
    });
    columns
        .find(|order| order.is_ne())
        .unwrap_or(Ordering::Equal)
}
