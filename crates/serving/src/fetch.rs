//! Fetching what a plan needs, rows of the online store and of look-ups, and
//! computing what on-demand views make of them.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, TimestampMicrosecondArray};
use futures::FutureExt;
use futures::future::try_join_all;
use granary_engine::Engine;
use granary_model::types::UTC;
use granary_model::{FeatureStatus, UtcMicros, ViewKind};
use granary_store::{DecodedRows, EntityKeys, OnlineStore, RowReader, RowSink, StoreError};

use crate::elements::Elements;
use crate::error::ServingError;
use crate::keys::RequestRows;
use crate::live::{LiveFetch, Snapshots, TileKeeper};
use crate::plan::{
    ArgumentColumn, ComputeStep, KeyColumn, KeyGroup, Level, OnlineRead, QueryRead, ReadPlan,
};
use crate::query_cache::QueryCache;
use crate::read::AsOf;
use crate::reader::ReadTime;
use crate::request_events::RequestEvents;

/// What one view gave for all entities of a request.
#[derive(Debug, Clone)]
pub(crate) struct Fetched {
    pub columns: Columns,
    pub as_of: AsOf,
}

/// The projected features of a view.
#[derive(Debug, Clone)]
pub(crate) enum Columns {
    /// As they are stored: an answer is written from them as they are.
    Rows(RowReader),
    Arrays(DecodedRows),
}

impl Fetched {
    /// A feature as an array.
    pub fn array(&self, position: usize) -> Result<ArrayRef, ServingError> {
        Ok(match &self.columns {
            Columns::Rows(rows) => rows.column(position).to_array()?,
            Columns::Arrays(arrays) => Arc::clone(&arrays.values[position]),
        })
    }

    /// All features as arrays.
    pub fn into_arrays(self) -> Result<DecodedRows, ServingError> {
        Ok(match self.columns {
            Columns::Rows(rows) => rows.finish()?,
            Columns::Arrays(arrays) => arrays,
        })
    }
}

/// Where rows come from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sources<'a> {
    pub store: &'a dyn OnlineStore,
    pub engine: &'a Engine,
    pub cache: &'a QueryCache,
    /// The most events that a read of a live view looks at.
    pub live_events_max: usize,
    pub tiles: &'a TileKeeper,
}

/// What each fetch of a plan found, by its number; `None` until its turn.
pub(crate) type Found = Vec<Option<Fetched>>;

/// Fetches and computes everything that a plan needs, a level after the other.
/// Gives what each fetch of the plan found.
pub(crate) async fn fetch(
    sources: Sources<'_>,
    plan: &ReadPlan,
    (request, events): (&RequestRows, RequestEvents),
    time: ReadTime,
) -> Result<Vec<Fetched>, ServingError> {
    let mut found: Found = Vec::new();
    found.resize_with(plan.fetches, || None);
    let mut snapshots = Snapshots::beside(events);
    for level in &plan.levels {
        for step in &level.computed {
            found[step.fetch] = Some(compute(step, request, time, &found)?);
        }
        let events = &mut snapshots;
        fetch_level(sources, level, &request.keys, (time, events), &mut found).await?;
    }
    // Every fetch stands in one group of one level.
    Ok(found.into_iter().flatten().collect())
}

/// Evaluates the expressions of an on-demand view for all entities at once.
fn compute(
    step: &ComputeStep,
    request: &RequestRows,
    time: ReadTime,
    found: &Found,
) -> Result<Fetched, ServingError> {
    let rows = request.entities;
    let argument = |source: &ArgumentColumn| match *source {
        ArgumentColumn::Input(at) => request.inputs[at].clone().ok_or_else(|| {
            StoreError::Codec("an input is computed with that was not needed".to_owned()).into()
        }),
        ArgumentColumn::Feature { fetch, position } => earlier(found, fetch, position),
        ArgumentColumn::AsOf => {
            let t = TimestampMicrosecondArray::from_value(time.as_of.0, rows).with_timezone(UTC);
            Ok(Arc::new(t) as ArrayRef)
        }
    };
    let arguments = step.arguments.iter().map(argument);
    let arguments = arguments.collect::<Result<Vec<_>, ServingError>>()?;
    let values = step.expressions.evaluate(arguments, rows)?;
    let statuses = values.iter().map(|values| {
        let status = |row| match values.is_valid(row) {
            true => FeatureStatus::Present,
            false => FeatureStatus::NullValue,
        };
        Arc::new((0..rows).map(status).collect())
    });
    let arrays = DecodedRows {
        statuses: statuses.collect(),
        values,
        event_times: None,
    };
    Ok(Fetched {
        columns: Columns::Arrays(arrays),
        as_of: AsOf::All(time.as_of),
    })
}

/// The values of a feature that was fetched or computed before.
pub(crate) fn earlier(
    found: &Found,
    fetch: usize,
    position: usize,
) -> Result<ArrayRef, ServingError> {
    let earlier = found[fetch].as_ref().ok_or_else(|| {
        StoreError::Codec("a value comes from what is fetched after it".to_owned())
    })?;
    earlier.array(position)
}

/// Groups of a level need nothing of each other, and its look-ups run side by side.
async fn fetch_level(
    sources: Sources<'_>,
    level: &Level,
    keys: &[ArrayRef],
    (time, snapshots): (ReadTime, &mut Snapshots),
    found: &mut Found,
) -> Result<(), ServingError> {
    let mut looked_up = Vec::new();
    let mut lists = Vec::new();
    for group in &level.groups {
        let elements = Elements::of(group, found, sources.engine.settings().each_elements_max)?;
        let arrays = key_arrays(group, keys, found, elements.as_ref())?;
        lists.extend(elements.map(|elements| (group, elements)));
        let encoded = EntityKeys::encode(&group.columns, &arrays)?;
        if !group.online.is_empty() {
            read_online(sources.store, group, &encoded, time, found).await?;
        }
        for live in &group.live {
            let fetch = LiveFetch {
                view: &live.view,
                sources: &live.sources,
                projection: &live.projection,
                events_max: sources.live_events_max,
                tiles: sources.tiles,
            };
            let reading = fetch.read(snapshots, (&encoded, &arrays), time);
            let fetched = reading.boxed().await?;
            found[live.fetch] = Some(fetched);
        }
        if !group.queries.is_empty() {
            looked_up.push((group, encoded, arrays));
        }
    }
    let mut queries = Vec::new();
    for (group, encoded, arrays) in &looked_up {
        for query in &group.queries {
            queries.push(read_query(sources, query, (encoded, arrays), time));
        }
    }
    if !queries.is_empty() {
        for (fetch, fetched) in try_join_all(queries).boxed().await? {
            found[fetch] = Some(fetched);
        }
    }
    for (group, elements) in lists {
        for fetch in group.fetches() {
            if let Some(fetched) = found[fetch].take() {
                found[fetch] = Some(elements.gather(fetched, time)?);
            }
        }
    }
    Ok(())
}

/// The key columns of a group. Those from features are NULL where the feature
/// is not PRESENT, and may be narrower than the key: encoding widens them. With
/// a key from elements there is a row an element.
fn key_arrays(
    group: &KeyGroup,
    keys: &[ArrayRef],
    found: &Found,
    elements: Option<&Elements>,
) -> Result<Vec<ArrayRef>, ServingError> {
    let column = |source: &KeyColumn| {
        let of_entities = match *source {
            KeyColumn::Request(at) => Arc::clone(&keys[at]),
            KeyColumn::Feature { fetch, position } => earlier(found, fetch, position)?,
            KeyColumn::Each { fetch, position } => match elements {
                Some(elements) => return Ok(Arc::clone(&elements.values)),
                None => earlier(found, fetch, position)?,
            },
        };
        match elements {
            Some(elements) => elements.spread(&of_entities),
            None => Ok(of_entities),
        }
    };
    group.sources.iter().map(column).collect()
}

/// Decodes rows as the store hands them over.
#[derive(Debug)]
struct Decoding {
    readers: Vec<RowReader>,
    failed: Option<StoreError>,
}

impl RowSink for Decoding {
    fn row(&mut self, generation: usize, entity: usize, row: &[u8]) {
        if let Err(error) = self.readers[generation].push(entity, row) {
            self.failed.get_or_insert(error);
        }
    }
}

async fn read_online(
    store: &dyn OnlineStore,
    group: &KeyGroup,
    keys: &EntityKeys,
    time: ReadTime,
    found: &mut Found,
) -> Result<(), ServingError> {
    let reads = group.online.iter().zip(&group.generations);
    let readers = reads.map(|(read, generation)| {
        let layout = generation.layout();
        let ttl = read.ttl.filter(|_| layout.event_time);
        let fresh_since = ttl.map(|ttl| ttl.before(time.as_of));
        RowReader::new(&read.decoder, keys.len(), fresh_since)
    });
    let mut decoding = Decoding {
        readers: readers.collect(),
        failed: None,
    };
    store.read(keys, &group.generations, &mut decoding).await?;
    if let Some(error) = decoding.failed {
        return Err(error.into());
    }
    let reads = group.online.iter().zip(&group.generations);
    for ((read, generation), mut rows) in reads.zip(decoding.readers) {
        // After the rows: a run may be writing beside this read.
        let as_of = time.admit(&read.view, generation.reaches())?;
        if outlived(read, as_of, time) {
            rows.expire();
        }
        found[read.fetch] = Some(Fetched {
            columns: Columns::Rows(rows),
            as_of: AsOf::All(as_of),
        });
    }
    Ok(())
}

async fn read_query(
    sources: Sources<'_>,
    query: &QueryRead,
    keys: (&EntityKeys, &[ArrayRef]),
    time: ReadTime,
) -> Result<(usize, Fetched), ServingError> {
    let with = (sources.engine, sources.cache);
    let (rows, as_of) = query.view.read(with, keys, &query.decoder, time).await?;
    let columns = Columns::Rows(rows);
    Ok((query.fetch, Fetched { columns, as_of }))
}

/// Whether the run of a view without event times is older than its TTL.
fn outlived(read: &OnlineRead, run: UtcMicros, time: ReadTime) -> bool {
    let aged_by_run = read.kind != ViewKind::Timestamped;
    aged_by_run && read.ttl.is_some_and(|ttl| run < ttl.before(time.as_of))
}
