//! A windowed view as of a read: its query's aggregates over the events found.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, TimestampMicrosecondArray};
use arrow::compute::interleave;
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::error::Result;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{LogicalPlan, cast};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{Column, Literal};
use granary_model::types::UTC;
use granary_model::{FeatureStatus, FeatureView, UtcMicros};

use super::newest::{self, Needed};
use super::tiles::TiledValues;
use super::{FoundEvents, LiveRead, LiveRows, LiveTime};
use crate::asof::{AsOfWindows, GroupedEvents, MergedAggregates, event_schema};
use crate::engine::physical_expr;
use crate::offline::read::time_scalar;
use crate::retention::Retention;
use crate::run::key_name;
use crate::windowed::{Seen, SharedWindows, SpineKeys, WindowedQuery, WindowedView};

/// The compiled query.
#[derive(Debug)]
pub(super) struct LiveWindows {
    /// As of t. What is read strictly before t was found so.
    windows: AsOfWindows,
    needed: Needed,
    /// What tiles give, and what the other aggregates need.
    merged: Option<(MergedAggregates, Needed)>,
    /// The key columns of events.
    keys: Vec<Arc<dyn PhysicalExpr>>,
    /// The features, over the aggregates and t.
    outputs: Vec<Arc<dyn PhysicalExpr>>,
    /// Of the aggregates and t.
    aggregated: SchemaRef,
}

impl LiveWindows {
    /// Gives the plan of the events as well.
    pub(super) fn compile(
        state: &SessionState,
        view: &FeatureView,
        query: WindowedQuery,
    ) -> Result<(Self, LogicalPlan)> {
        let outputs = query.outputs.clone();
        let names: Vec<String> = query.aggregates.iter().map(|a| a.name.clone()).collect();
        let shared = SharedWindows::new(WindowedView {
            query,
            also_from: Default::default(),
        });
        let scan = shared.scan(state)?;
        let events = scan.schema().as_arrow().clone();
        let spine_keys = SpineKeys {
            keys: (0..view.keys.len())
                .map(|n| Arc::new(Column::new(&key_name(n), n)) as Arc<dyn PhysicalExpr>)
                .collect(),
            time: Arc::new(Literal::new(time_scalar(UtcMicros(0)))),
        };
        let seen = Seen::default();
        let spec = shared.spec(state, (&scan, &events), spine_keys, seen, "")?;
        let windows = AsOfWindows::try_new(spec, &events)?;
        let spec = windows.spec();
        let aggregates = spec.sets.iter().flat_map(|set| &set.aggregates);
        let fields = aggregates
            .zip(&names)
            .map(|(a, name)| a.call.field(name).with_nullable(true));
        let aggregated = event_schema(&Schema::new(fields.collect::<Vec<Field>>()));
        let schema = DFSchema::try_from(aggregated.clone())?;
        let outputs = outputs
            .into_iter()
            .zip(&view.features)
            .map(|(output, feature)| {
                let output = cast(output, feature.data_type.to_arrow());
                physical_expr(state, output, &schema)
            });
        let this = Self {
            needed: Needed::of(spec, |_| true),
            merged: None,
            keys: spec.on.iter().map(|(_, event)| event.clone()).collect(),
            outputs: outputs.collect::<Result<_>>()?,
            windows,
            aggregated,
        };
        Ok((this, scan.rows))
    }

    /// Finds the aggregates that tiles can give; `ordered`: of all streams
    /// together in the order of their events. Whether there are any.
    pub(super) fn merge(&mut self, ordered: bool) -> Result<bool> {
        let merged = self.windows.merged(ordered)?.map(|merged| {
            let of_tiles: BTreeSet<usize> = merged.outputs().collect();
            let others = Needed::of(self.windows.spec(), |place| !of_tiles.contains(&place));
            (merged, others)
        });
        // Tiles spare nothing where other aggregates need every event.
        self.merged = merged.filter(|(_, others)| !others.are_as_long_as(&self.needed));
        Ok(self.merged.is_some())
    }

    pub(super) fn windows(&self) -> &AsOfWindows {
        &self.windows
    }

    /// What tiles give.
    pub(super) fn merged(&self) -> Option<&MergedAggregates> {
        self.merged.as_ref().map(|(merged, _)| merged)
    }

    /// Whether tiles give every aggregate.
    pub(super) fn is_all_merged(&self) -> bool {
        self.merged
            .as_ref()
            .is_some_and(|(_, others)| others.nothing())
    }

    /// The first event time that a frame can reach.
    pub(super) fn first_seen(&self, time: LiveTime) -> Option<UtcMicros> {
        self.windows.first_seen(time.as_of.0).map(UtcMicros)
    }

    /// `newest`: what keeps so many of the newest rows of each key.
    pub(super) fn retention(&self, newest: impl Fn(usize) -> Retention) -> Retention {
        newest::retention(self.windows.spec(), newest)
    }

    pub(super) fn newest_may_do(&self) -> bool {
        self.needed.newest_may_do()
    }

    /// The keys that older events may decide, see [`LiveRead::undecided`].
    pub(super) fn undecided(
        &self,
        read: &LiveRead<'_>,
        found: &[FoundEvents],
        oldest: &[Option<UtcMicros>],
        tiled: bool,
    ) -> Result<Vec<u32>> {
        let needed = match &self.merged {
            Some((_, others)) if tiled => others,
            _ => &self.needed,
        };
        let mut times: Vec<Vec<i64>> = vec![Vec::new(); oldest.len()];
        // Frames that reach back a time are told by the oldest event alone.
        let counted = match needed.newest_may_do() {
            true => self.grouped(read, found)?,
            false => Vec::new(),
        };
        for GroupedEvents { events, groups } in counted {
            let at = self.windows.times(&events)?;
            for (row, group) in groups.into_iter().enumerate() {
                if let (Some(times), true) = (times.get_mut(group as usize), at.is_valid(row)) {
                    times.push(at.value(row));
                }
            }
        }
        let open = oldest.iter().zip(&times).enumerate();
        let open = open.filter(|(_, (oldest, times))| {
            oldest.is_some_and(|oldest| !needed.are_met(read.time, times, oldest))
        });
        Ok(open.map(|(key, _)| key as u32).collect())
    }

    /// The first event time of a key in what was not looked for by key.
    pub(super) fn first_beside(
        &self,
        read: &LiveRead<'_>,
        key: u32,
        found: &[FoundEvents],
    ) -> Result<Option<i64>> {
        let beside = found.iter().filter(|found| found.keys.is_none());
        let beside: Vec<FoundEvents> = beside.cloned().collect();
        let mut first = None;
        for grouped in self.grouped(read, &beside)? {
            let times = self.windows.times(&grouped.events)?;
            let own = times.iter().zip(&grouped.groups);
            let own = own.filter(|(_, group)| **group == key);
            first = own.filter_map(|(time, _)| time).chain(first).min();
        }
        Ok(first)
    }

    pub(super) fn grouped(
        &self,
        read: &LiveRead<'_>,
        found: &[FoundEvents],
    ) -> Result<Vec<GroupedEvents>> {
        let keys = |rows: &RecordBatch| {
            let keys = self.keys.iter();
            keys.map(|key| key.evaluate(rows)?.into_array(rows.num_rows()))
                .collect()
        };
        let mut grouped = Vec::new();
        for found in found {
            let rows = read.rows_of(found, keys)?;
            let rows = rows.into_iter();
            grouped.extend(rows.map(|(events, groups)| GroupedEvents { events, groups }));
        }
        Ok(grouped)
    }

    pub(super) fn values(
        &self,
        read: &LiveRead<'_>,
        found: &[FoundEvents],
        tiled: &[TiledValues],
        projection: &[usize],
    ) -> Result<LiveRows> {
        let grouped = self.grouped(read, found)?;
        let mut columns = self.windows.evaluate(&read.spine, &grouped)?;
        put_tiled(&mut columns, read, tiled)?;
        let rows = read.spine.row_count();
        let t = TimestampMicrosecondArray::from_value(read.time.as_of.0, rows).with_timezone(UTC);
        columns.push(Arc::new(t));
        let aggregated = RecordBatch::try_new(self.aggregated.clone(), columns)?;
        let mut statuses = vec![FeatureStatus::NotFound; rows];
        for row in read.spine.rows() {
            statuses[*row as usize] = FeatureStatus::Present;
        }
        let values = projection.iter().map(|feature| {
            let values = self.outputs[*feature]
                .evaluate(&aggregated)?
                .into_array(rows)?;
            only_present(values, &statuses)
        });
        Ok(LiveRows {
            values: values.collect::<Result<_>>()?,
            statuses,
            event_times: None,
        })
    }
}

/// Puts what tiles gave in the place of what the events found gave.
fn put_tiled(columns: &mut [ArrayRef], read: &LiveRead<'_>, tiled: &[TiledValues]) -> Result<()> {
    let mut of_columns: BTreeMap<usize, Vec<(u32, &ArrayRef)>> = BTreeMap::new();
    for of_key in tiled {
        for (place, value) in &of_key.values {
            of_columns
                .entry(*place)
                .or_default()
                .push((of_key.key, value));
        }
    }
    for (place, values) in of_columns {
        let column = &mut columns[place];
        let mut places: Vec<(usize, usize)> = (0..column.len()).map(|row| (0, row)).collect();
        let mut parts: Vec<&dyn Array> = vec![column.as_ref()];
        for (key, value) in values {
            for row in &read.spine.rows()[read.spine.positions(key)] {
                places[*row as usize] = (parts.len(), 0);
            }
            parts.push(value.as_ref());
        }
        let merged = interleave(&parts, &places)?;
        *column = merged;
    }
    Ok(())
}

/// What an expression makes of no aggregates, as `coalesce(.., 0)` may, is not
/// the value of a NULL key.
fn only_present(values: ArrayRef, statuses: &[FeatureStatus]) -> Result<ArrayRef> {
    if statuses
        .iter()
        .all(|status| *status == FeatureStatus::Present)
    {
        return Ok(values);
    }
    let absent = statuses
        .iter()
        .map(|status| Some(*status != FeatureStatus::Present));
    Ok(arrow::compute::nullif(&values, &absent.collect())?)
}
