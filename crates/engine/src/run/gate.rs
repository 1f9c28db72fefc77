//! The gate between a run's sorted rows and its files: what is left out and
//! counted, which keys came twice, which times lie later than they may.

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, make_comparator};
use arrow::compute::kernels::cmp;
use arrow::compute::{SortOptions, and, filter_record_batch, is_not_null, partition};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;
use datafusion::error::DataFusionError;
use granary_model::{FeatureView, UtcMicros, ViewKind, json};

use crate::error::EngineError;
use crate::offline::read::time_scalar;

/// Keys that an error names.
const EXAMPLES: usize = 5;

/// Counts of one partition or of all.
#[derive(Debug, Default)]
pub(super) struct Passed {
    pub(super) null_keys: u64,
    pub(super) null_event_times: u64,
    pub(super) future_event_times: u64,
    /// Keys with more than one row in a snapshot run.
    duplicates: u64,
    examples: Vec<String>,
    /// A column of `row_schema` each.
    later: Vec<bool>,
}

impl Passed {
    pub(super) fn merge(&mut self, other: Self) {
        self.null_keys += other.null_keys;
        self.null_event_times += other.null_event_times;
        self.future_event_times += other.future_event_times;
        self.duplicates += other.duplicates;
        self.examples.extend(other.examples);
        self.later
            .resize(self.later.len().max(other.later.len()), false);
        for (mine, theirs) in self.later.iter_mut().zip(other.later) {
            *mine |= theirs;
        }
    }

    pub(super) fn refuse_duplicates(
        &mut self,
        view: &FeatureView,
        as_of: UtcMicros,
    ) -> Result<(), EngineError> {
        if self.duplicates == 0 {
            return Ok(());
        }
        self.examples.sort();
        self.examples.truncate(EXAMPLES);
        Err(EngineError::DuplicateKeys {
            view: view.name.clone(),
            as_of,
            rows: self.duplicates,
            examples: self.examples.join("; "),
        })
    }

    pub(super) fn later_than_event(&self, view: &FeatureView) -> Vec<String> {
        let schema = view.row_schema();
        let columns = schema.fields().iter().zip(&self.later);
        columns
            .filter(|(_, later)| **later)
            .map(|(field, _)| field.name().clone())
            .collect()
    }
}

/// Passes the sorted rows of one partition.
#[derive(Debug)]
pub(super) struct Gate {
    view: String,
    schema: SchemaRef,
    keys: usize,
    event_time: Option<usize>,
    snapshot: bool,
    as_of: UtcMicros,
    /// TIMESTAMP features.
    times: Vec<usize>,
    /// Keys of the last row passed, and whether they were counted as duplicate.
    last: Option<(Vec<ArrayRef>, bool)>,
    passed: Passed,
}

impl Gate {
    pub(super) fn new(view: &FeatureView, as_of: UtcMicros) -> Self {
        let schema = view.row_schema();
        let is_time = |name: &str| {
            let field = schema.field_with_name(name);
            field.is_ok_and(|f| matches!(f.data_type(), DataType::Timestamp(_, _)))
        };
        let features = view.features.iter().filter(|f| is_time(&f.name));
        let times = features.filter_map(|f| schema.index_of(&f.name).ok());
        let timestamped = view.kind == ViewKind::Timestamped;
        Self {
            view: view.name.clone(),
            keys: view.keys.len(),
            event_time: timestamped.then_some(view.keys.len()),
            snapshot: view.kind != ViewKind::Timestamped,
            as_of,
            times: times.collect(),
            last: None,
            passed: Passed {
                later: vec![false; schema.fields().len()],
                ..Passed::default()
            },
            schema,
        }
    }

    pub(super) fn failed(&self, error: DataFusionError) -> EngineError {
        EngineError::from_query(&self.view, error)
    }

    pub(super) fn has_duplicates(&self) -> bool {
        self.passed.duplicates > 0
    }

    pub(super) fn finish(self) -> Passed {
        self.passed
    }

    /// The rows that are kept, under the view's own schema.
    pub(super) fn pass(&mut self, batch: &RecordBatch) -> Result<RecordBatch, DataFusionError> {
        let batch = RecordBatch::try_new(self.schema.clone(), batch.columns().to_vec())?;
        let (batch, null_keys) = without_nulls(batch, 0..self.keys)?;
        self.passed.null_keys += null_keys;
        let batch = match self.event_time {
            Some(column) => self.happened(batch, column)?,
            None => batch,
        };
        if batch.num_rows() > 0 {
            if self.snapshot {
                self.find_duplicates(&batch)?;
            }
            self.find_later(&batch)?;
        }
        Ok(batch)
    }

    /// The rows with an event time at or before T.
    fn happened(
        &mut self,
        batch: RecordBatch,
        event_time: usize,
    ) -> Result<RecordBatch, DataFusionError> {
        let (batch, null_times) = without_nulls(batch, event_time..event_time + 1)?;
        self.passed.null_event_times += null_times;
        let t = time_scalar(self.as_of).to_scalar()?;
        let by_t = cmp::lt_eq(batch.column(event_time), &t)?;
        let later = batch.num_rows() - by_t.true_count();
        if later == 0 {
            return Ok(batch);
        }
        self.passed.future_event_times += later as u64;
        Ok(filter_record_batch(&batch, &by_t)?)
    }

    fn find_duplicates(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        let keys = &batch.columns()[..self.keys];
        let groups = partition(keys)?;
        let mut counted = match self.last.take() {
            Some((last, counted)) if same_row(&last, keys)? => {
                if !counted {
                    self.count_duplicate(batch, 0);
                }
                true
            }
            _ => false,
        };
        if groups.len() < batch.num_rows() {
            for group in groups.ranges() {
                let first = group.start == 0;
                if group.len() > 1 && !(first && counted) {
                    self.count_duplicate(batch, group.start);
                }
                counted = group.len() > 1 || (first && counted);
            }
        } else if batch.num_rows() > 1 {
            counted = false;
        }
        let row = batch.num_rows() - 1;
        let last = keys.iter().map(|k| k.slice(row, 1)).collect();
        self.last = Some((last, counted));
        Ok(())
    }

    fn count_duplicate(&mut self, batch: &RecordBatch, row: usize) {
        self.passed.duplicates += 1;
        if self.passed.examples.len() < EXAMPLES {
            let columns = self.schema.fields().iter().zip(batch.columns());
            let parts = columns.take(self.keys).map(|(field, column)| {
                let value = json::text(column, row).unwrap_or_default();
                format!("{} = {value}", field.name())
            });
            self.passed
                .examples
                .push(parts.collect::<Vec<_>>().join(", "));
        }
    }

    fn find_later(&mut self, batch: &RecordBatch) -> Result<(), DataFusionError> {
        for column in &self.times {
            if self.passed.later[*column] {
                continue;
            }
            let values = batch.column(*column);
            let later = match self.event_time {
                Some(event) => cmp::gt(values, batch.column(event))?,
                None => cmp::gt(values, &time_scalar(self.as_of).to_scalar()?)?,
            };
            self.passed.later[*column] = later.true_count() > 0;
        }
        Ok(())
    }
}

/// The rows without NULL in any of the columns, and how many had one.
fn without_nulls(
    batch: RecordBatch,
    columns: std::ops::Range<usize>,
) -> Result<(RecordBatch, u64), ArrowError> {
    let mut kept: Option<BooleanArray> = None;
    for column in &batch.columns()[columns] {
        if column.null_count() > 0 {
            let valid = is_not_null(column)?;
            kept = Some(match kept {
                Some(kept) => and(&kept, &valid)?,
                None => valid,
            });
        }
    }
    let Some(kept) = kept else {
        return Ok((batch, 0));
    };
    let filtered = filter_record_batch(&batch, &kept)?;
    let left_out = batch.num_rows() - filtered.num_rows();
    Ok((filtered, left_out as u64))
}

/// Whether the one row of `last` equals the first row of `keys`.
fn same_row(last: &[ArrayRef], keys: &[ArrayRef]) -> Result<bool, ArrowError> {
    for (last, key) in last.iter().zip(keys) {
        let compare = make_comparator(last, key, SortOptions::default())?;
        if compare(0, 0).is_ne() {
            return Ok(false);
        }
    }
    Ok(true)
}
