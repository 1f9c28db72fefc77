//! Keys with more events than are looked at one by one: read from tiles, which
//! reads that miss them make.

use std::hash::{BuildHasher, RandomState};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use granary_engine::{
    Densities, Density, KeyPartials, KeyTimes, LiveRead, SpanEvents, Tile, TileSettings, TiledKey,
    TiledValues,
};
use granary_model::UtcMicros;
use granary_store::events::{
    EventRef, EventSink, EventStream, KeyRange, NewTile, ScanOrder, SnapshotPoint, TileRange,
    TileSink,
};
use granary_store::{EntityKeys, EventRows};
use moka::sync::Cache;
use tokio::sync::Semaphore;
use tracing::debug;

use super::{FoundEvents, LiveFetch, Source};
use crate::error::ServingError;

/// Puts of tiles that are under way at once; what is made meanwhile is made
/// again by the next read.
const PUTS_MAX: usize = 4;

/// Keys whose events are not counted anew by every read, and for how long. What
/// they are read from decides over the work of a read alone.
const HOT_KEYS_MAX: u64 = 1 << 17;
const HOT_FOR: Duration = Duration::from_secs(60);

/// Keeps the tiles that reads made, behind their backs, and which keys are read
/// from them.
#[derive(Debug, Clone)]
pub(crate) struct TileKeeper {
    pub(super) settings: TileSettings,
    puts: Arc<Semaphore>,
    /// By the hash of view and key.
    hot: Cache<u64, Densities>,
    hasher: RandomState,
}

impl TileKeeper {
    pub(crate) fn new(settings: TileSettings) -> Self {
        Self {
            settings,
            puts: Arc::new(Semaphore::new(PUTS_MAX)),
            hot: Cache::builder()
                .max_capacity(HOT_KEYS_MAX)
                .time_to_live(HOT_FOR)
                .build(),
            hasher: RandomState::new(),
        }
    }

    fn hash(&self, view: &str, key: &[u8]) -> u64 {
        self.hasher.hash_one((view, key))
    }

    fn keep(
        &self,
        events: &Arc<dyn EventStream>,
        (set, computed_from): (usize, SnapshotPoint),
        tiles: Vec<NewTile>,
    ) {
        let Ok(permit) = Arc::clone(&self.puts).try_acquire_owned() else {
            return;
        };
        let events = Arc::clone(events);
        tokio::spawn(async move {
            let kept = events.put_tiles(set, computed_from, tiles).await;
            if let Err(error) = kept {
                debug!(%error, "tiles were not kept");
            }
            drop(permit);
        });
    }
}

/// A key with more events than were looked at.
#[derive(Debug, Clone, Copy)]
pub(super) struct HotKey {
    /// Which of the read's distinct keys.
    pub(super) key: u32,
    pub(super) densities: Densities,
}

impl LiveFetch<'_> {
    /// Which of the distinct keys an earlier read found to have many events.
    pub(super) fn known_hot(&self, keys: &EntityKeys, rows: &[u32]) -> Vec<HotKey> {
        let known = (0..).zip(rows).filter_map(|(key, row)| {
            let bytes = keys.get(*row as usize)?;
            let hash = self.tiles.hash(self.view.name(), bytes);
            let densities = self.tiles.hot.get(&hash)?;
            Some(HotKey { key, densities })
        });
        known.collect()
    }

    pub(super) fn remember_hot(&self, keys: &EntityKeys, rows: &[u32], hot: &[HotKey]) {
        for HotKey { key, densities } in hot {
            if let Some(bytes) = keys.get(rows[*key as usize] as usize) {
                let hash = self.tiles.hash(self.view.name(), bytes);
                self.tiles.hot.insert(hash, *densities);
            }
        }
    }

    /// Of a key that is remembered.
    fn remember_newest(&self, key: &[u8], newest: Density) {
        let hash = self.tiles.hash(self.view.name(), key);
        let known = self.tiles.hot.get(&hash);
        let Some(densities) = known else {
            return;
        };
        if { densities.newest }.is_none_or(|known| newest.is_closer_than(known)) {
            let newest = Some(newest);
            self.tiles.hot.insert(
                hash,
                Densities {
                    newest,
                    ..densities
                },
            );
        }
    }

    /// The aggregates of some keys from tiles. `found`: what was found besides.
    pub(super) async fn tiled(
        &self,
        read: &LiveRead<'_>,
        (keys, to): (&EntityKeys, UtcMicros),
        sources: &[Source<'_>],
        (found, hot): (&[FoundEvents], &[HotKey]),
    ) -> Result<Vec<TiledValues>, ServingError> {
        let rows = read.key_rows();
        let mut values = Vec::with_capacity(hot.len());
        for HotKey { key, densities } in hot.iter().copied() {
            let Some(bytes) = keys.get(rows[key as usize] as usize) else {
                continue;
            };
            let mut first = UtcMicros::MIN;
            if read.is_tiled_from_first() {
                first = read.first_beside(key, found)?.unwrap_or(to);
                for source in sources {
                    first = first.min(first_event(source, bytes, to).await?.unwrap_or(to));
                }
            }
            let mut partials = Vec::with_capacity(sources.len());
            let mut times = KeyTimes {
                first,
                newest: to,
                densities,
            };
            for source in sources {
                times.newest = source.snapshot.state().newest_event_time.unwrap_or(to);
                let begun =
                    read.tiled_key((source.place, key), found, (times, self.tiles.settings))?;
                if let Some(begun) = begun {
                    partials.push(self.partials(source, bytes, begun).await?);
                }
            }
            values.push(read.tiled_values(key, &partials, times)?);
        }
        Ok(values)
    }

    async fn partials(
        &self,
        source: &Source<'_>,
        key: &[u8],
        mut tiled: TiledKey<'_>,
    ) -> Result<KeyPartials, ServingError> {
        let mut bytes = 0;
        loop {
            let tiles = tiled.tiles();
            if !tiles.is_empty() {
                let ranges = tiles.iter().map(|span| TileRange {
                    key,
                    level: span.level,
                    from: UtcMicros(span.first),
                    to: UtcMicros(span.last),
                });
                let ranges: Vec<TileRange<'_>> = ranges.collect();
                let mut stored = Stored {
                    ranges: &ranges,
                    tiles: Vec::new(),
                    bytes: 0,
                };
                let set = source.tiles.unwrap_or_default();
                source.snapshot.tiles(set, &ranges, &mut stored).await?;
                bytes += stored.bytes;
                self.check_bytes(bytes)?;
                tiled.found_tiles(stored.tiles);
                continue;
            }
            let spans = tiled.events();
            if spans.is_empty() {
                break;
            }
            let ranges = spans.iter().map(|span| KeyRange {
                key,
                from: span.from,
                to: span.to,
                limit: span.limit,
            });
            let ranges: Vec<KeyRange<'_>> = ranges.collect();
            let found = self.span_events(source, &ranges).await?;
            self.keep(source, key, tiled.found_events(&found)?);
        }
        if let Some(newest) = tiled.newest() {
            self.remember_newest(key, newest);
        }
        let (partials, made) = tiled.finish()?;
        self.keep(source, key, made);
        Ok(partials)
    }

    async fn span_events(
        &self,
        source: &Source<'_>,
        ranges: &[KeyRange<'_>],
    ) -> Result<SpanEvents, ServingError> {
        let mut sink = Spans {
            rows: EventRows::new(&source.stream.layout, source.projection),
            counts: vec![0; ranges.len()],
            left: self.events_max.saturating_add(1),
        };
        let order = ScanOrder::OldestFirst;
        let scan = source.snapshot.scan(source.index, order, ranges, &mut sink);
        scan.await?;
        self.check_bound(sink.left)?;
        Ok(SpanEvents {
            events: sink.rows.finish()?.batch,
            counts: sink.counts,
        })
    }

    fn check_bytes(&self, bytes: usize) -> Result<(), ServingError> {
        let bound = self.tiles.settings.bytes_max;
        if bytes <= bound {
            return Ok(());
        }
        Err(ServingError::TilesTooLarge {
            view: self.view.name().to_owned(),
            bound,
        })
    }

    fn keep(&self, source: &Source<'_>, key: &[u8], made: Vec<Tile>) {
        let (Some(set), false) = (source.tiles, made.is_empty()) else {
            return;
        };
        let key = Bytes::copy_from_slice(key);
        let tiles = made.into_iter().map(|tile| NewTile {
            key: key.clone(),
            level: tile.level,
            start: tile.start,
            value: tile.value.into(),
        });
        let from = (set, source.snapshot.point());
        self.tiles
            .keep(&source.stream.events, from, tiles.collect());
    }
}

/// The event time of a key's first event.
async fn first_event(
    source: &Source<'_>,
    key: &[u8],
    to: UtcMicros,
) -> Result<Option<UtcMicros>, ServingError> {
    let range = [KeyRange {
        key,
        from: UtcMicros::MIN,
        to,
        limit: 1,
    }];
    let mut first = First(None);
    let order = ScanOrder::OldestFirst;
    let scan = source
        .snapshot
        .scan(source.index, order, &range, &mut first);
    scan.await?;
    Ok(first.0)
}

struct First(Option<UtcMicros>);

impl EventSink for First {
    fn event(&mut self, _: usize, event: EventRef<'_>) -> ControlFlow<()> {
        self.0 = Some(event.event_time);
        ControlFlow::Break(())
    }
}

/// Collects tiles.
struct Stored<'a> {
    ranges: &'a [TileRange<'a>],
    tiles: Vec<Tile>,
    bytes: usize,
}

impl TileSink for Stored<'_> {
    fn tile(&mut self, range: usize, start: UtcMicros, value: &[u8]) {
        self.bytes += value.len();
        self.tiles.push(Tile {
            level: self.ranges[range].level,
            start,
            value: value.to_vec(),
        });
    }
}

/// Collects events and counts those of each range.
struct Spans {
    rows: EventRows,
    counts: Vec<usize>,
    left: usize,
}

impl EventSink for Spans {
    fn event(&mut self, range: usize, event: EventRef<'_>) -> ControlFlow<()> {
        self.left = self.left.saturating_sub(1);
        if self.left == 0 {
            return ControlFlow::Break(());
        }
        self.counts[range] += 1;
        self.rows.event(range, event)
    }
}
