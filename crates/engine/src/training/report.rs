//! What a training set lacks: rows without a key or time, and rows for which a
//! snapshot view had no run.

use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::datatypes::{Int64Type, SchemaRef};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::StreamExt;
use granary_model::UtcMicros;

use super::TrainingOptions;

/// Counts over the rows that were read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TrainingReport {
    pub rows: u64,
    /// The least time of a row.
    pub first_time: Option<UtcMicros>,
    /// Rows whose time is NULL: all their features are.
    pub null_times: u64,
    /// By key column of the spine: rows in which it is NULL.
    pub null_keys: Vec<(String, u64)>,
    /// Snapshot views with rows that no run was there for.
    pub without_run: Vec<WithoutRun>,
}

/// Rows of the spine before the first run of a view that is read from its runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WithoutRun {
    pub view: String,
    pub rows: u64,
    /// Least and greatest T up to which a run would serve those rows: a
    /// backfill over them fills the gap,
    pub from: UtcMicros,
    pub to: UtcMicros,
    /// unless what was committed after t is not to be seen.
    pub fillable: bool,
}

/// Columns behind the training set's own that are counted and dropped.
#[derive(Debug)]
pub(super) struct Counters {
    /// Of the first: t in microseconds, BIGINT. BOOLEAN all others.
    first: usize,
    keys: Vec<String>,
    views: Vec<String>,
    options: TrainingOptions,
    report: Mutex<TrainingReport>,
    notes: Mutex<Vec<String>>,
}

impl Counters {
    /// The counted columns from `first` on: t, then for each key whether it is
    /// NULL, then for each view whether it has no run.
    pub(super) fn new(
        first: usize,
        keys: Vec<String>,
        views: Vec<String>,
        options: TrainingOptions,
    ) -> Self {
        Self {
            first,
            keys,
            views,
            options,
            report: Mutex::default(),
            notes: Mutex::default(),
        }
    }

    pub(super) fn count(
        self: &Arc<Self>,
        rows: SendableRecordBatchStream,
        schema: SchemaRef,
    ) -> SendableRecordBatchStream {
        let (counters, narrow) = (self.clone(), schema.clone());
        let counted = rows.map(move |batch| {
            let batch = batch?;
            counters.add(&batch);
            let columns = batch.columns()[..counters.first].to_vec();
            let options =
                arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
            Ok(RecordBatch::try_new_with_options(
                narrow.clone(),
                columns,
                &options,
            )?)
        });
        Box::pin(RecordBatchStreamAdapter::new(schema, counted))
    }

    fn add(&self, batch: &RecordBatch) {
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        report.rows += batch.num_rows() as u64;
        let times = batch.column(self.first).as_primitive::<Int64Type>();
        report.null_times += times.null_count() as u64;
        let first = arrow::compute::min(times).map(UtcMicros);
        report.first_time = report.first_time.into_iter().chain(first).min();
        let flags = &batch.columns()[self.first + 1..];
        for (key, flag) in self.keys.iter().zip(flags) {
            let nulls = flag.as_boolean().true_count() as u64;
            match report.null_keys.iter_mut().find(|(name, _)| name == key) {
                Some((_, count)) => *count += nulls,
                None => report.null_keys.push((key.clone(), nulls)),
            }
        }
        for (view, flag) in self.views.iter().zip(&flags[self.keys.len()..]) {
            let missing: &BooleanArray = flag.as_boolean();
            let asked = times
                .iter()
                .zip(missing)
                .filter(|(_, missing)| *missing == Some(true));
            let before = i64::from(self.options.strictly_before);
            for t in asked.filter_map(|(t, _)| Some(UtcMicros(t?.saturating_sub(before)))) {
                match report.without_run.iter_mut().find(|w| w.view == *view) {
                    Some(without) => {
                        without.rows += 1;
                        without.from = without.from.min(t);
                        without.to = without.to.max(t);
                    }
                    None => report.without_run.push(WithoutRun {
                        view: view.clone(),
                        rows: 1,
                        from: t,
                        to: t,
                        fillable: !self.options.known_at_the_time,
                    }),
                }
            }
        }
    }

    /// Takes what was seen only when the rows were read.
    pub(super) fn note(&self, notes: Vec<String>) {
        *self.notes.lock().unwrap_or_else(PoisonError::into_inner) = notes;
    }

    pub(super) fn notes(&self) -> Vec<String> {
        let notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        notes.clone()
    }

    pub(super) fn report(&self) -> TrainingReport {
        self.report
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}
