//! A timestamped view as of a read: the greatest row of each key.

use std::cmp::Ordering;

use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch, UInt32Array, new_null_array};
use arrow::compute::kernels::zip::zip;
use arrow::compute::{concat_batches, is_not_null, take};
use arrow::datatypes::SchemaRef;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SessionState;
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder};
use granary_model::{FeatureStatus, FeatureView, Interval, UtcMicros};

use super::{FoundEvents, LiveRead, LiveRows, LiveTime};
use crate::asof::micros;
use crate::asof::order::RowOrder;
use crate::retention::Retention;
use crate::run::row_columns;

/// The compiled query.
#[derive(Debug)]
pub(super) struct LiveLatest {
    /// `FeatureView::row_schema`: keys, event time, created time, THEN BY
    /// columns, features.
    schema: SchemaRef,
    keys: usize,
    created_time: bool,
    features: usize,
    ttl: Option<Interval>,
}

/// The greatest row of each distinct key.
pub(super) struct Best {
    rows: RecordBatch,
    times: Int64Array,
    of_keys: Vec<Option<usize>>,
}

impl Best {
    /// Event time of each key's row.
    pub(super) fn times(&self) -> impl Iterator<Item = Option<i64>> {
        let rows = self.of_keys.iter();
        rows.map(|row| row.map(|row| self.times.value(row)))
    }
}

impl LiveLatest {
    /// Gives the plan of the rows as well.
    pub(super) fn compile(
        state: &SessionState,
        view: &FeatureView,
        plan: LogicalPlan,
    ) -> Result<(Self, LogicalPlan)> {
        let columns =
            row_columns(view, plan.schema()).map_err(|e| DataFusionError::External(Box::new(e)))?;
        let rows = LogicalPlanBuilder::from(plan).project(columns)?.build()?;
        let rows = state.optimize(&rows)?;
        let this = Self {
            schema: view.row_schema(),
            keys: view.keys.len(),
            created_time: view.created_time.is_some(),
            features: view.features.len(),
            ttl: view.ttl,
        };
        Ok((this, rows))
    }

    /// A row beyond the TTL is as good as none.
    pub(super) fn retention(&self, newest: impl Fn(usize) -> Retention) -> Retention {
        match self.ttl {
            Some(ttl) => Retention::range(ttl),
            None => newest(1),
        }
    }

    /// Rows before it are beyond the TTL.
    pub(super) fn fresh_since(&self, time: LiveTime) -> Option<UtcMicros> {
        self.ttl.map(|ttl| ttl.before(time.as_of))
    }

    /// Among rows of one key the greatest event time wins, then the greatest
    /// created time (NULL counts as the event time), then the greatest values.
    pub(super) fn best(&self, read: &LiveRead<'_>, found: &[FoundEvents]) -> Result<Best> {
        let mut batches = Vec::new();
        let mut groups: Vec<u32> = Vec::new();
        // Of each row the last time that it may have.
        let mut last: Vec<i64> = Vec::new();
        for found in found {
            let keys = |rows: &RecordBatch| Ok(rows.columns()[..self.keys].to_vec());
            for (rows, of_rows) in read.rows_of(found, keys)? {
                batches.push(RecordBatch::try_new(
                    self.schema.clone(),
                    rows.columns().to_vec(),
                )?);
                groups.extend(of_rows);
                let seen = match found.keys {
                    Some(_) => read.time.last(),
                    None => read.time.as_of,
                };
                last.resize(groups.len(), seen.0);
            }
        }
        let rows = concat_batches(&self.schema, &batches)?;
        let times = micros(rows.column(self.keys))?;
        let ranks = self.ranks(&rows)?;
        let order = RowOrder::new(&ranks, &ranks)?;
        let mut best: Vec<Option<usize>> = vec![None; read.spine.group_count()];
        for (row, group) in groups.into_iter().enumerate() {
            let Some(best) = best.get_mut(group as usize) else {
                continue;
            };
            if times.is_null(row) || times.value(row) > last[row] {
                continue;
            }
            if best.is_none_or(|best| order.compare(best, row) == Ordering::Less) {
                *best = Some(row);
            }
        }
        Ok(Best {
            rows,
            times,
            of_keys: best,
        })
    }

    fn ranks(&self, rows: &RecordBatch) -> Result<Vec<ArrayRef>> {
        let mut ranks = rows.columns()[self.keys..].to_vec();
        if self.created_time {
            let (event, created) = (ranks[0].clone(), &ranks[1]);
            ranks[1] = zip(&is_not_null(created)?, created, &event)?;
        }
        Ok(ranks)
    }

    pub(super) fn values(
        &self,
        read: &LiveRead<'_>,
        found: &[FoundEvents],
        projection: &[usize],
    ) -> Result<LiveRows> {
        let best = self.best(read, found)?;
        let fresh_since = self.fresh_since(read.time).map(|since| since.0);
        let rows = read.spine.row_count();
        let mut statuses = vec![FeatureStatus::NotFound; rows];
        let mut event_times = vec![None; rows];
        let mut places: Vec<Option<u32>> = vec![None; rows];
        for (group, row) in best.of_keys.iter().enumerate() {
            let Some(row) = *row else { continue };
            let time = best.times.value(row);
            let is_old = fresh_since.is_some_and(|since| time < since);
            for position in read.spine.positions(group as u32) {
                let entity = read.spine.rows()[position] as usize;
                event_times[entity] = Some(UtcMicros(time));
                statuses[entity] = match is_old {
                    true => FeatureStatus::OutsideMaxAge,
                    false => FeatureStatus::Present,
                };
                places[entity] = (!is_old).then_some(row as u32);
            }
        }
        let places = UInt32Array::from(places);
        let first = self.schema.fields().len() - self.features;
        let values = projection.iter().map(|feature| {
            let column = best.rows.column(first + feature);
            match best.rows.num_rows() {
                0 => Ok(new_null_array(column.data_type(), rows)),
                _ => Ok(take(column, &places, None)?),
            }
        });
        Ok(LiveRows {
            values: values.collect::<Result<_>>()?,
            statuses,
            event_times: Some(event_times),
        })
    }
}
