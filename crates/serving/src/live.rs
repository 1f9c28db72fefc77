//! Live views: their compiled form, and a read of the events of a group's keys.
//!
//! A read takes one snapshot of each stream for all of its views, finds the
//! events of its keys by the stream's index, and has the engine make values of
//! them. Where the newest event may decide, a few are looked at first and more
//! only where they do not.

mod tiles;

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Array, ArrayRef, RecordBatch};
use granary_engine::{
    Densities, Density, Engine, FoundEvents, KeptEvents, LiveRead, LiveRows, LiveSource, LiveTime,
    LiveView, NeededEvents,
};
use granary_model::{Definitions, FeatureStatus, FeatureView, UtcMicros};
use granary_store::events::{EventRef, EventSink, EventSnapshot, KeyRange, ScanOrder};
use granary_store::{DecodedRows, EntityKeys, EventRows, OpenStream, StoreError};

use crate::error::ServingError;
use crate::fetch::{Columns, Fetched};
use crate::plan::LiveSourceRead;
use crate::read::AsOf;
use crate::reader::ReadTime;
use crate::request_events::RequestEvents;
use tiles::HotKey;
pub(crate) use tiles::TileKeeper;

/// Events of a key that are looked at first where the newest may decide.
const NEWEST_FIRST: usize = 16;
/// How many times as many are looked at next.
const NEXT: usize = 8;

/// The live views of a state, by name.
pub(crate) type CompiledViews = BTreeMap<String, Arc<LiveView>>;

/// The compiled views, each once a version.
#[derive(Debug, Default)]
pub struct LiveViews {
    /// By name and version.
    known: Mutex<HashMap<(String, u32), Known>>,
}

/// A view as it was compiled.
type Known = (FeatureView, Arc<LiveView>);

impl LiveViews {
    /// The compiled form of those of the named views that are live.
    pub(crate) async fn of<'n>(
        &self,
        engine: &Engine,
        definitions: &Definitions,
        names: impl Iterator<Item = &'n str>,
    ) -> Result<CompiledViews, ServingError> {
        let mut compiled = CompiledViews::new();
        for name in names {
            if let Some(view) = definitions.feature_views.get(name).filter(|v| v.is_live()) {
                compiled.insert(name.to_owned(), self.view(engine, definitions, view).await?);
            }
        }
        Ok(compiled)
    }

    /// A view whose TTL changed has the version that it had.
    async fn view(
        &self,
        engine: &Engine,
        definitions: &Definitions,
        view: &FeatureView,
    ) -> Result<Arc<LiveView>, ServingError> {
        let key = (view.name.clone(), view.version);
        let lock = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = lock().get(&key).filter(|(known, _)| known == view).cloned();
        if let Some((_, compiled)) = known {
            return Ok(compiled);
        }
        let compiled = Arc::new(engine.live_view(definitions, view).await?);
        let mut known = lock();
        // What no plan holds any more goes.
        known.retain(|_, (_, held)| Arc::strong_count(held) > 1);
        known.insert(key, (view.clone(), Arc::clone(&compiled)));
        Ok(compiled)
    }
}

/// One snapshot of each stream that a read looks at, and what the read has
/// beside it.
#[derive(Debug)]
pub(crate) struct Snapshots {
    taken: HashMap<String, Taken>,
    request_events: RequestEvents,
}

#[derive(Debug, Clone)]
struct Taken {
    snapshot: Arc<dyn EventSnapshot>,
    /// Request events that it does not hold, [`Stream::row_schema`].
    ///
    /// [`Stream::row_schema`]: granary_model::definitions::Stream::row_schema
    unstored: Option<RecordBatch>,
}

impl Snapshots {
    pub(crate) fn beside(request_events: RequestEvents) -> Self {
        Self {
            taken: HashMap::new(),
            request_events,
        }
    }

    async fn of(&mut self, stream: &OpenStream, cut: UtcMicros) -> Result<Taken, ServingError> {
        let name = &stream.definition.name;
        if let Some(taken) = self.taken.get(name) {
            return Ok(taken.clone());
        }
        let snapshot = stream.events.snapshot().await?;
        let unstored = self.request_events.unstored(name, snapshot.as_ref(), cut);
        let taken = Taken {
            unstored: unstored.await?,
            snapshot,
        };
        self.taken.insert(name.clone(), taken.clone());
        Ok(taken)
    }
}

/// One source of a view in one read.
struct Source<'p> {
    place: usize,
    stream: &'p OpenStream,
    /// The index's position in the stream's spec.
    index: usize,
    /// The position of the view's tile set there.
    tiles: Option<usize>,
    projection: &'p [usize],
    snapshot: Arc<dyn EventSnapshot>,
}

/// A live view in one read.
pub(crate) struct LiveFetch<'p> {
    pub view: &'p LiveView,
    pub sources: &'p [LiveSourceRead],
    /// Features in the view's order.
    pub projection: &'p [usize],
    /// The most events that are looked at at once.
    pub events_max: usize,
    pub tiles: &'p TileKeeper,
}

impl LiveFetch<'_> {
    /// Reads all entities of a group; `keys` are those of `arrays`, encoded.
    pub(crate) async fn read(
        &self,
        snapshots: &mut Snapshots,
        (keys, arrays): (&EntityKeys, &[ArrayRef]),
        time: ReadTime,
    ) -> Result<Fetched, ServingError> {
        let cut = time.cut;
        let time = LiveTime {
            as_of: time.as_of,
            strictly_before: cut != time.as_of,
        };
        let read = self.view.begin(arrays, time)?;
        let needs = read.needs();
        let mut sources = Vec::with_capacity(self.sources.len());
        let mut found = Vec::new();
        for (place, source) in self.sources.iter().enumerate() {
            let Taken { snapshot, unstored } = snapshots.of(&source.stream, cut).await?;
            let of_view = &self.view.sources()[place];
            self.check_kept((source, of_view), snapshot.as_ref(), time)?;
            let projection = of_view.projection();
            if let Some(events) = unstored {
                found.push(unfiled(place, &events, projection)?);
            }
            sources.push(Source {
                place,
                stream: &source.stream,
                index: source.index,
                tiles: source.tiles,
                projection,
                snapshot,
            });
        }
        let hot = self.find((&read, needs), keys, &sources, &mut found);
        let hot = hot.await?;
        let tiled = self.tiled(&read, (keys, needs.to), &sources, (&found, &hot));
        let tiled = tiled.await?;
        let rows = read.finish(&found, &tiled, self.projection)?;
        Ok(fetched(rows, time.as_of))
    }

    /// A read of the past is answered while its events are there.
    fn check_kept(
        &self,
        (source, of_view): (&LiveSourceRead, &LiveSource),
        snapshot: &dyn EventSnapshot,
        time: LiveTime,
    ) -> Result<(), ServingError> {
        let state = snapshot.state();
        let Some(trimmed) = state.trimmed_before else {
            return Ok(());
        };
        let kept = KeptEvents {
            from: trimmed,
            newest_from: state.newest_from,
            newest: &|_| snapshot.newest_kept(source.index),
        };
        if of_view.retention().is_kept(kept, time) {
            return Ok(());
        }
        let instead = match (state.lost_before, &source.stream.definition.history) {
            (Some(_), Some(_)) => "they went before the stream had a HISTORY",
            (None, Some(_)) => "a training set answers for the past",
            (_, None) => "the stream has no HISTORY",
        };
        Err(ServingError::OutOfRange(format!(
            "{}: events of {} before {trimmed} are no longer kept for reads; {instead}",
            self.view.name(),
            source.stream.definition.name,
        )))
    }

    /// Puts what is stored behind what was found besides. Gives the keys to read
    /// from tiles, of which only what those do not give was found.
    async fn find(
        &self,
        (read, needs): (&LiveRead<'_>, NeededEvents),
        keys: &EntityKeys,
        sources: &[Source<'_>],
        found: &mut Vec<FoundEvents>,
    ) -> Result<Vec<HotKey>, ServingError> {
        let rows = read.key_rows();
        let has_tiles = read.has_tiles() && sources.iter().all(|source| source.tiles.is_some());
        let mut hot = match has_tiles && read.is_all_tiled() {
            true => self.known_hot(keys, &rows),
            false => Vec::new(),
        };
        let mut asked: Vec<u32> = (0..rows.len() as u32).collect();
        asked.retain(|key| hot.binary_search_by_key(key, |hot| hot.key).is_err());
        let mut are_counted = false;
        let tiled_from = self.tiles.settings.events_min.max(1);
        let mut limit = match (needs.newest_first, has_tiles) {
            (true, _) => NEWEST_FIRST,
            (false, true) => tiled_from,
            (false, false) => usize::MAX,
        };
        let order = match limit {
            usize::MAX => ScanOrder::OldestFirst,
            _ => ScanOrder::NewestFirst,
        };
        while !asked.is_empty() {
            let mut oldest: Vec<Option<UtcMicros>> = vec![None; rows.len()];
            for source in sources {
                let ranges = asked.iter().filter_map(|key| {
                    let key = keys.get(rows[*key as usize] as usize)?;
                    Some(KeyRange {
                        key,
                        from: needs.from.unwrap_or(UtcMicros::MIN),
                        to: needs.to,
                        limit,
                    })
                });
                let ranges: Vec<KeyRange<'_>> = ranges.collect();
                let mut sink = Sink::new(source, limit, &asked, self.events_max);
                let scan = source
                    .snapshot
                    .scan(source.index, order, &ranges, &mut sink);
                scan.await?;
                found.push(self.taken(source, sink, &asked, &mut oldest)?);
            }
            if limit == usize::MAX {
                break;
            }
            let tiled = has_tiles && limit >= tiled_from;
            if tiled && !are_counted {
                are_counted = true;
                let sampled = sampled((read, needs.to), found, &oldest, limit)?;
                if read.is_all_tiled() {
                    let of_tiles: Vec<u32> = sampled.iter().map(|hot| hot.key).collect();
                    forget(found, &of_tiles);
                    self.remember_hot(keys, &rows, &sampled);
                }
                hot.extend(sampled);
            }
            asked = read.undecided(found, &oldest, tiled)?;
            forget(found, &asked);
            limit = limit.saturating_mul(NEXT);
        }
        Ok(hot)
    }

    fn taken(
        &self,
        source: &Source<'_>,
        sink: Sink<'_>,
        asked: &[u32],
        oldest: &mut [Option<UtcMicros>],
    ) -> Result<FoundEvents, ServingError> {
        self.check_bound(sink.left)?;
        for (key, last) in sink.cut {
            let oldest = &mut oldest[key as usize];
            *oldest = Some(oldest.map_or(last, |known| known.max(last)));
        }
        let read = sink.rows.finish()?;
        let keys = read.ranges.iter().map(|range| asked[*range as usize]);
        Ok(FoundEvents {
            source: source.place,
            keys: Some(keys.collect()),
            events: read.batch,
        })
    }

    /// `left`: how many more events could have been looked at.
    fn check_bound(&self, left: usize) -> Result<(), ServingError> {
        if left > 0 {
            return Ok(());
        }
        Err(ServingError::TooManyEvents {
            view: self.view.name().to_owned(),
            bound: self.events_max,
        })
    }
}

/// The keys that have more events than were looked at.
fn sampled(
    (read, to): (&LiveRead<'_>, UtcMicros),
    found: &[FoundEvents],
    oldest: &[Option<UtcMicros>],
    limit: usize,
) -> Result<Vec<HotKey>, ServingError> {
    let undecided = read.undecided(found, oldest, false)?.into_iter();
    let sampled = undecided.filter_map(|key| {
        let all = Density {
            events: limit,
            micros: to.0.saturating_sub(oldest[key as usize]?.0),
        };
        let newest = None;
        let densities = Densities { all, newest };
        Some(HotKey { key, densities })
    });
    Ok(sampled.collect())
}

/// Leaves out the events of keys that are looked for once more.
fn forget(found: &mut [FoundEvents], again: &[u32]) {
    for key in found
        .iter_mut()
        .filter_map(|found| found.keys.as_mut())
        .flatten()
    {
        if again.binary_search(key).is_ok() {
            *key = u32::MAX;
        }
    }
}

/// Request events, which no index has.
fn unfiled(
    source: usize,
    events: &RecordBatch,
    projection: &[usize],
) -> Result<FoundEvents, ServingError> {
    let events = events.project(projection);
    Ok(FoundEvents {
        source,
        events: events.map_err(|e| StoreError::Codec(e.to_string()))?,
        keys: None,
    })
}

/// Collects events, and tells which ranges came to their limit.
struct Sink<'a> {
    rows: EventRows,
    limit: usize,
    asked: &'a [u32],
    /// The range that is under way, and how many events it gave.
    range: usize,
    given: usize,
    /// Of each key whose range came to its limit the last event time.
    cut: Vec<(u32, UtcMicros)>,
    left: usize,
}

impl<'a> Sink<'a> {
    fn new(source: &Source<'_>, limit: usize, asked: &'a [u32], events_max: usize) -> Self {
        Self {
            rows: EventRows::new(&source.stream.layout, source.projection),
            limit,
            asked,
            range: 0,
            given: 0,
            cut: Vec::new(),
            left: events_max.saturating_add(1),
        }
    }
}

impl EventSink for Sink<'_> {
    fn event(&mut self, range: usize, event: EventRef<'_>) -> ControlFlow<()> {
        self.left = self.left.saturating_sub(1);
        if self.left == 0 {
            return ControlFlow::Break(());
        }
        if range != self.range {
            (self.range, self.given) = (range, 0);
        }
        self.given += 1;
        if self.given == self.limit {
            self.cut.push((self.asked[range], event.event_time));
        }
        self.rows.event(range, event)
    }
}

fn fetched(rows: LiveRows, as_of: UtcMicros) -> Fetched {
    let shared = Arc::new(rows.statuses);
    let statuses = rows.values.iter().map(|values| {
        let statuses = shared.iter().enumerate();
        let status = |(row, status): (usize, &FeatureStatus)| match status {
            FeatureStatus::Present if values.is_null(row) => FeatureStatus::NullValue,
            other => *other,
        };
        match values.null_count() {
            0 => Arc::clone(&shared),
            _ => Arc::new(statuses.map(status).collect()),
        }
    });
    let arrays = DecodedRows {
        statuses: statuses.collect(),
        values: rows.values,
        event_times: rows.event_times,
    };
    Fetched {
        columns: Columns::Arrays(arrays),
        as_of: AsOf::All(as_of),
    }
}
