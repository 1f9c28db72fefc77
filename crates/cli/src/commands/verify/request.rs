//! What a service is asked to be verified: entities of its sources, or rows with
//! inputs too.

use std::sync::Arc;

use anyhow::bail;
use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::Schema;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use granary_catalog::Snapshot;
use granary_engine::{Engine, EngineError, InputColumn};
use granary_model::definitions::{Column, RequestColumns};
use granary_serving::verify::{AskedFeature, EntitySample, Sampler, entities};

use super::Args;
use super::show::LeftOut;

/// A row an entity.
pub struct Request {
    /// Keys, then those inputs that are given.
    rows: RecordBatch,
    /// How many of the columns are keys.
    keys: usize,
}

type Rows = BoxStream<'static, Result<RecordBatch, EngineError>>;

/// A column a name.
type Inputs = Vec<(String, ArrayRef)>;

impl Request {
    pub async fn of(engine: &Engine, snapshot: &Snapshot, args: &Args) -> anyhow::Result<Self> {
        let service = snapshot.definitions.services.get(&args.service);
        let from = service.map_or(&[][..], |service| &service.from);
        let columns = snapshot.definitions.request_columns(from);
        let rows = match (&args.spine, &args.spine_sql) {
            (Some(file), _) => of_file(engine, file, &columns).await?,
            (None, Some(sql)) => of_query(engine, snapshot, sql).await?,
            (None, None) => {
                let sample = EntitySample {
                    rows: args.sample,
                    seed: args.seed,
                    since: args.since,
                };
                let rows = entities(engine, snapshot, &args.service, sample).await?;
                return Self {
                    keys: rows.num_columns(),
                    rows,
                }
                .checked(&match args.since {
                    Some(since) => format!(
                        "{}: the sources of its views have no entities with an event from {since} on",
                        args.service
                    ),
                    None => format!(
                        "{}: the sources of its views have no entities to compare; \
                         --spine FILE brings keys and inputs",
                        args.service
                    ),
                });
            }
        };
        let request = sampled(rows, columns, args).await?;
        request.checked("the spine has no rows")
    }

    fn checked(self, none: &str) -> anyhow::Result<Self> {
        match self.rows() {
            0 => bail!("{none}"),
            _ => Ok(self),
        }
    }

    pub fn rows(&self) -> usize {
        self.rows.num_rows()
    }

    fn lacks(&self, input: &Column) -> bool {
        self.rows.column_by_name(&input.name).is_none()
    }

    /// Features that need an input that is not given.
    pub fn left_out(&self, features: &[AskedFeature]) -> Vec<LeftOut> {
        let left_out = features.iter().filter_map(|feature| {
            let missing = feature.inputs.iter().filter(|input| self.lacks(input));
            let missing: Vec<&str> = missing.map(|input| input.name.as_str()).collect();
            (!missing.is_empty()).then(|| LeftOut {
                feature: feature.name.clone(),
                reason: format!(
                    "it needs {}: give rows with --spine or --spine-sql",
                    missing.join(", ")
                ),
            })
        });
        left_out.collect()
    }

    /// A service is read with all that it needs; what is missing is NULL.
    pub fn with_null_inputs(self, features: &[AskedFeature]) -> anyhow::Result<Self> {
        let mut fields = self.rows.schema().fields().to_vec();
        let mut columns: Vec<ArrayRef> = self.rows.columns().to_vec();
        for input in features.iter().flat_map(|feature| &feature.inputs) {
            if fields.iter().all(|field| *field.name() != input.name) {
                let field = Arc::new(input.to_field());
                columns.push(new_null_array(field.data_type(), self.rows.num_rows()));
                fields.push(field);
            }
        }
        Ok(Self {
            rows: RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?,
            keys: self.keys,
        })
    }

    /// Some of the rows: whole, their keys, and their inputs by name.
    pub fn part(
        &self,
        from: usize,
        rows_max: usize,
    ) -> anyhow::Result<(RecordBatch, RecordBatch, Inputs)> {
        let part = self.rows.slice(from, rows_max.min(self.rows() - from));
        let keys = part.project(&(0..self.keys).collect::<Vec<_>>())?;
        let schema = part.schema();
        let inputs = schema.fields().iter().zip(part.columns()).skip(self.keys);
        let inputs = inputs.map(|(field, values)| (field.name().clone(), Arc::clone(values)));
        let inputs = inputs.collect();
        Ok((part, keys, inputs))
    }
}

async fn of_file(engine: &Engine, file: &str, columns: &RequestColumns) -> anyhow::Result<Rows> {
    let inputs = columns.inputs.iter().map(|column| InputColumn {
        column: column.clone(),
        // Features that need one are left out without it.
        needed: false,
    });
    let inputs: Vec<InputColumn> = inputs.collect();
    let rows = engine.spine_rows(file, None, &columns.keys, &inputs);
    let file = file.to_owned();
    let rows = rows
        .await?
        .map_err(move |error| EngineError::from_query(&file, error));
    Ok(rows.boxed())
}

async fn of_query(engine: &Engine, snapshot: &Snapshot, sql: &str) -> anyhow::Result<Rows> {
    let session = engine.query_session(&snapshot.definitions, None).await?;
    let mut queries = session.queries(sql).await?;
    let (Some(query), true) = (queries.pop(), queries.is_empty()) else {
        bail!("--spine-sql takes one query");
    };
    let rows = query.rows().await?;
    let rows = rows.map_err(|error| EngineError::from_query("the spine", error));
    Ok(rows.boxed())
}

/// Keys and inputs of a sample of the rows, each in its type; other columns go.
async fn sampled(
    mut rows: Rows,
    RequestColumns { keys, inputs }: RequestColumns,
    args: &Args,
) -> anyhow::Result<Request> {
    let mut sampler: Option<(Vec<Column>, Sampler)> = None;
    while let Some(batch) = rows.try_next().await? {
        let given = batch.schema();
        let has = |column: &&Column| given.index_of(&column.name).is_ok();
        if let Some(missing) = keys.iter().find(|key| !has(key)) {
            bail!("the spine has no key column {}", missing.name);
        }
        let (columns, sampler) = sampler.get_or_insert_with(|| {
            let is_key = |column: &&Column| keys.iter().any(|key| key.name == column.name);
            let inputs = inputs.iter().filter(|c| !is_key(c)).filter(has);
            let columns: Vec<Column> = keys.iter().chain(inputs).cloned().collect();
            let fields: Vec<_> = columns.iter().map(Column::to_field).collect();
            let schema = Arc::new(Schema::new(fields));
            let sampler = Sampler::of_rows(schema, keys.clone(), args.sample);
            (columns, sampler.with_seed(args.seed))
        });
        sampler.offer(&typed(&batch, columns)?)?;
    }
    let Some((_, sampler)) = sampler else {
        bail!("the spine has no rows");
    };
    Ok(Request {
        rows: sampler.finish()?,
        keys: keys.len(),
    })
}

fn typed(batch: &RecordBatch, columns: &[Column]) -> anyhow::Result<RecordBatch> {
    let strict = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    let arrays = columns.iter().map(|column| {
        let given = &batch.columns()[batch.schema().index_of(&column.name)?];
        cast_with_options(given, &column.data_type.to_arrow(), &strict)
    });
    let arrays = arrays.collect::<Result<Vec<_>, _>>()?;
    let fields: Vec<_> = columns.iter().map(Column::to_field).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let schema = Arc::new(Schema::new(fields));
    Ok(RecordBatch::try_new_with_options(schema, arrays, &options)?)
}
