//! `SERVE QUERY`: a view computed at request time for the keys asked for.
//!
//! The view's query is planned in a session cut at the time of the read, with
//! the keys as literals, so that DataFusion pushes them through the query into
//! the scans and Parquet skips row groups, pages and files by statistics and
//! bloom filters. What comes back is reduced to one row a key here, holding no
//! more than the best row of each key and the batches just read.

mod inline;

use std::collections::HashMap;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::kernels::zip::zip;
use arrow::compute::{SortOptions, interleave_record_batch, is_not_null};
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::row::{OwnedRow, RowConverter, SortField};
use datafusion::dataframe::DataFrame;
use datafusion::error::DataFusionError;
use datafusion::physical_plan::display::DisplayableExecutionPlan;
use datafusion::prelude::{ident, lit};
use datafusion::scalar::ScalarValue;
use futures::TryStreamExt;
use granary_model::definitions::ServeMode;
use granary_model::{Definitions, FeatureView, UtcMicros, ViewKind, json};
use tracing::instrument;

use crate::asof::order::one_nan;
use crate::engine::{Engine, Joins};
use crate::error::EngineError;
use crate::run::{EventTimes, view_rows};
pub(crate) use inline::QueryViewTable;

/// Up to so many keys, row groups are skipped by their statistics.
const PRUNED_KEYS_MAX: usize = 500;
/// Batches held before they are reduced to the best rows.
const BATCHES_HELD: usize = 16;

/// A compiled look-up, made once a catalog snapshot.
#[derive(Debug)]
pub struct QueryLookup {
    engine: Engine,
    /// Only what the view depends on.
    definitions: Definitions,
    view: FeatureView,
}

impl QueryLookup {
    pub async fn new(
        engine: &Engine,
        definitions: &Definitions,
        view: &FeatureView,
    ) -> Result<Self, EngineError> {
        let lookup = Self {
            engine: engine.clone(),
            definitions: needed(definitions, view),
            view: view.clone(),
        };
        // A view that cannot be planned is known before the first request.
        lookup.frame(None, engine.clock().now()).await?;
        Ok(lookup)
    }

    /// The rows of the keys as of t: the columns of `row_schema`, at most one
    /// row a key (of a timestamped view the greatest), in any order.
    /// `keys`: the view's key columns, distinct, without NULLs.
    #[instrument(skip_all, fields(view = self.view.name, keys = keys.num_rows()), err)]
    pub async fn rows(
        &self,
        keys: &RecordBatch,
        as_of: UtcMicros,
    ) -> Result<RecordBatch, EngineError> {
        let failed = |e| EngineError::from_query(&self.view.name, e);
        let frame = self.frame(Some(keys), as_of).await?;
        let mut rows = frame.execute_stream().await.map_err(failed)?;
        let mut best = BestRows::new(&self.view, keys).map_err(|e| failed(e.into()))?;
        while let Some(batch) = rows.try_next().await.map_err(failed)? {
            let added = best.add(&batch).map_err(|e| failed(e.into()))?;
            if let Some(key) = added {
                return Err(EngineError::DuplicateKeys {
                    view: self.view.name.clone(),
                    as_of,
                    rows: 1,
                    examples: key,
                });
            }
        }
        best.finish().map_err(|e| failed(e.into()))
    }

    /// The executed plan of [`Self::rows`] with what each operator did, as text.
    pub async fn explain(
        &self,
        keys: &RecordBatch,
        as_of: UtcMicros,
    ) -> Result<String, EngineError> {
        let failed = |e| EngineError::from_query(&self.view.name, e);
        let frame = self.frame(Some(keys), as_of).await?;
        let context = frame.task_ctx();
        let plan = frame.create_physical_plan().await.map_err(failed)?;
        datafusion::physical_plan::collect(plan.clone(), context.into())
            .await
            .map_err(failed)?;
        let shown = DisplayableExecutionPlan::with_metrics(plan.as_ref());
        Ok(shown.indent(true).to_string())
    }

    async fn frame(
        &self,
        keys: Option<&RecordBatch>,
        as_of: UtcMicros,
    ) -> Result<DataFrame, EngineError> {
        let failed = |e| EngineError::from_query(&self.view.name, e);
        let context = self
            .engine
            .session_for(&self.definitions, &self.view, as_of, Joins::Fast)
            .await?;
        context
            .state_ref()
            .write()
            .config_mut()
            .options_mut()
            .execution
            .parquet
            .max_in_list_size = PRUNED_KEYS_MAX;
        let mut frame = view_rows(&context, &self.view, EventTimes::up_to(as_of)).await?;
        if let (ViewKind::Timestamped, Some(event_time)) = (self.view.kind, &self.view.event_time) {
            let known = ident(event_time).is_not_null();
            frame = frame.filter(known).map_err(failed)?;
        }
        let Some(keys) = keys else { return Ok(frame) };
        // Of several key columns this takes in every combination: `BestRows`
        // knows which were asked for.
        for (column, key) in keys.columns().iter().zip(&self.view.keys) {
            let literals = literals(column).map_err(failed)?;
            let asked = ident(&key.name).in_list(literals, false);
            frame = frame.filter(asked).map_err(failed)?;
        }
        Ok(frame)
    }
}

/// The distinct values of a key column.
fn literals(column: &ArrayRef) -> Result<Vec<datafusion::prelude::Expr>, DataFusionError> {
    let rows = 0..column.len();
    let mut values = rows
        .map(|row| ScalarValue::try_from_array(column, row))
        .collect::<Result<Vec<_>, _>>()?;
    values.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    values.dedup();
    Ok(values.into_iter().map(lit).collect())
}

/// The definitions that a view's query reads, directly or through others.
pub(crate) fn needed(definitions: &Definitions, view: &FeatureView) -> Definitions {
    let mut names: Vec<&String> = view.depends_on.iter().collect();
    let mut needed = Definitions::default();
    while let Some(name) = names.pop() {
        if let Some(table) = definitions.tables.get(name) {
            needed.tables.insert(name.clone(), table.clone());
        } else if let Some(stream) = definitions.streams.get(name) {
            needed.streams.insert(name.clone(), stream.clone());
        } else if let Some(other) = definitions.feature_views.get(name) {
            let views = &mut needed.feature_views;
            let new = views.insert(name.clone(), other.clone()).is_none();
            if new && matches!(other.serve, ServeMode::Query { .. }) {
                names.extend(&other.depends_on);
            }
        } else if let Some(plain) = definitions.views.get(name)
            && needed.views.insert(name.clone(), plain.clone()).is_none()
        {
            names.extend(&plain.depends_on);
        }
    }
    needed
}

/// The best row of each key that was asked for.
struct BestRows {
    schema: SchemaRef,
    keys: usize,
    /// Whether the second column after the keys is the created time.
    created_time: bool,
    one_row_only: bool,
    key_rows: RowConverter,
    value_rows: RowConverter,
    /// `None` until a row was found.
    best: HashMap<OwnedRow, Option<Best>>,
    batches: Vec<RecordBatch>,
}

struct Best {
    batch: usize,
    row: usize,
    /// Compares as rows of one key do: by time, then by values, NULL lowest.
    order: OwnedRow,
}

impl BestRows {
    fn new(view: &FeatureView, asked: &RecordBatch) -> Result<Self, ArrowError> {
        let schema = view.row_schema();
        let keys = view.keys.len();
        let fields = |range: std::ops::Range<usize>| {
            let ascending = SortOptions::new(false, true);
            let fields = schema.fields()[range].iter();
            let sorted =
                fields.map(|f| SortField::new_with_options(f.data_type().clone(), ascending));
            RowConverter::new(sorted.collect())
        };
        let key_rows = fields(0..keys)?;
        let value_rows = fields(keys..schema.fields().len())?;
        let key_schema = Schema::new(schema.fields()[..keys].to_vec());
        let columns = asked.columns().iter().zip(key_schema.fields());
        let columns = columns
            .map(|(column, field)| arrow::compute::cast(column, field.data_type()))
            .collect::<Result<Vec<_>, _>>()?;
        let rows = key_rows.convert_columns(&columns)?;
        Ok(Self {
            best: rows.iter().map(|row| (row.owned(), None)).collect(),
            schema,
            keys,
            created_time: view.kind == ViewKind::Timestamped && view.created_time.is_some(),
            one_row_only: view.kind != ViewKind::Timestamped,
            key_rows,
            value_rows,
            batches: Vec::new(),
        })
    }

    /// Takes in rows. Of a snapshot view the second row of a key is returned by name.
    fn add(&mut self, batch: &RecordBatch) -> Result<Option<String>, ArrowError> {
        let batch = RecordBatch::try_new(self.schema.clone(), batch.columns().to_vec())?;
        let keys = self
            .key_rows
            .convert_columns(&batch.columns()[..self.keys])?;
        let values = self.value_rows.convert_columns(&self.ranks(&batch)?)?;
        for row in 0..batch.num_rows() {
            let Some(best) = self.best.get_mut(&keys.row(row).owned()) else {
                continue;
            };
            let better = match best {
                None => true,
                Some(_) if self.one_row_only => return Ok(Some(self.name_key(&batch, row))),
                Some(best) => best.order.row() < values.row(row),
            };
            if better {
                *best = Some(Best {
                    batch: self.batches.len(),
                    row,
                    order: values.row(row).owned(),
                });
            }
        }
        self.batches.push(batch);
        if self.batches.len() >= BATCHES_HELD {
            self.reduce()?;
        }
        Ok(None)
    }

    /// What rows of one key are compared by: a NULL created time counts as the
    /// event time, every NaN alike.
    fn ranks(&self, batch: &RecordBatch) -> Result<Vec<ArrayRef>, ArrowError> {
        let values = &batch.columns()[self.keys..];
        let mut ranks: Vec<ArrayRef> = values.iter().map(one_nan).collect();
        if self.created_time {
            let (event, created) = (&values[0], &values[1]);
            ranks[1] = zip(&is_not_null(created)?, created, event)?;
        }
        Ok(ranks)
    }

    fn name_key(&self, batch: &RecordBatch, row: usize) -> String {
        let columns = self.schema.fields().iter().zip(batch.columns());
        let parts = columns.take(self.keys).map(|(field, column)| {
            let value = json::text(column, row).unwrap_or_default();
            format!("{} = {value}", field.name())
        });
        parts.collect::<Vec<_>>().join(", ")
    }

    /// Makes one batch of the best rows.
    fn reduce(&mut self) -> Result<(), ArrowError> {
        let mut found: Vec<&mut Best> = self.best.values_mut().flatten().collect();
        let indices: Vec<_> = found.iter().map(|b| (b.batch, b.row)).collect();
        let batches: Vec<&RecordBatch> = self.batches.iter().collect();
        let reduced = if indices.is_empty() {
            RecordBatch::new_empty(self.schema.clone())
        } else {
            interleave_record_batch(&batches, &indices)?
        };
        for (row, best) in found.iter_mut().enumerate() {
            (best.batch, best.row) = (0, row);
        }
        self.batches = vec![reduced];
        Ok(())
    }

    fn finish(mut self) -> Result<RecordBatch, ArrowError> {
        self.reduce()?;
        let empty = || RecordBatch::new_empty(self.schema.clone());
        Ok(self.batches.pop().unwrap_or_else(empty))
    }
}
