//! A windowed view's frames from tiles: of keys with more events than a read
//! looks at one by one.
//!
//! A tile holds what the view's aggregates need of the events of one key in one
//! span of event time. Tiles are made by reads that miss them, and are gone with
//! the first event that comes or goes in their span; what is true of a key does
//! not depend on which of them there are.

use std::ops::Range;

use arrow::ARROW_VERSION;
use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::{interleave, take};
use datafusion::DATAFUSION_VERSION;
use datafusion::error::Result;
use datafusion::logical_expr::Expr;
use granary_model::UtcMicros;
use sha2::{Digest, Sha256};

use super::cover::{
    Cover, Densities, Density, Known, TILE_SPANS, TileAt, TileSettings, TileSpan, Wanted,
};
use super::windows::LiveWindows;
use super::{FoundEvents, LiveRead};
use crate::asof::{
    AsOfWindows, Frame, FrameBounds, GroupedEvents, MergedAggregates, NO_GROUP, PartialRows,
};

use crate::error::EngineError;
use crate::windowed::WindowedQuery;

/// Changes with what the bytes of a tile are.
const FORMAT: u32 = 1;
/// A tile of more bytes is not kept.
const KEPT_BYTES_MAX: usize = 1 << 20;
/// Event times so far behind the newest are settled: few events still come.
const SETTLING_MICROS: i64 = 1_000_000;

/// How the tiles of a view's aggregates are kept, for one of its streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TileSet {
    /// The same for views whose tiles are; another one when anything that
    /// decides over their bytes changes.
    pub name: String,
    pub version: u32,
    /// Name of the index whose keys they are of.
    pub index: String,
    /// Event times that a tile of each level covers, in microseconds.
    pub spans: Vec<i64>,
}

impl TileSet {
    /// `rows`: the plan of the events.
    pub(super) fn of(index: &str, rows: &str, query: &WindowedQuery) -> Self {
        // States of accumulators and rows of arrays are what these make them.
        let mut parts = vec![DATAFUSION_VERSION.to_owned(), ARROW_VERSION.to_owned()];
        parts.extend([index.to_owned(), rows.to_owned()]);
        parts.extend(listed("THEN BY", &query.then_by));
        parts.extend(listed("WHERE", &query.filter));
        let mut known = Vec::new();
        for aggregate in &query.aggregates {
            let mut own = vec![aggregate.function.name().to_owned()];
            own.push(format!("distinct {}", aggregate.distinct));
            own.push(format!("ignore nulls {}", aggregate.ignore_nulls));
            own.push(format!("range {}", aggregate.frame.is_by_time()));
            own.extend(listed("arguments", &aggregate.arguments));
            own.extend(listed("FILTER", &aggregate.filter));
            // Over another frame it is the same tile.
            if !known.contains(&own) {
                known.push(own);
            }
        }
        parts.extend(known.into_iter().flatten());
        let mut digest = Sha256::new();
        for part in parts {
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        }
        let digest = digest.finalize();
        let digest = digest[..12].iter().map(|byte| format!("{byte:02x}"));
        Self {
            name: digest.collect(),
            version: FORMAT,
            index: index.to_owned(),
            spans: TILE_SPANS.to_vec(),
        }
    }
}

/// Expressions, how many there are, and what they stand for.
fn listed<'e>(what: &str, expressions: impl IntoIterator<Item = &'e Expr>) -> Vec<String> {
    let mut listed: Vec<String> = expressions.into_iter().map(Expr::to_string).collect();
    listed.insert(0, format!("{what} {}", listed.len()));
    listed
}

/// A tile of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tile {
    pub level: usize,
    pub start: UtcMicros,
    pub value: Vec<u8>,
}

/// A span of event times whose events are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventSpan {
    pub from: UtcMicros,
    /// Inclusive; before `from`: there are none.
    pub to: UtcMicros,
    /// More than so many are not looked at.
    pub limit: usize,
}

/// Events that were found in some spans.
#[derive(Debug, Clone)]
pub struct SpanEvents {
    /// The columns of [`LiveSource::projection`].
    ///
    /// [`LiveSource::projection`]: super::LiveSource::projection
    pub events: RecordBatch,
    /// How many were found in each span; at its limit there may be more.
    pub counts: Vec<usize>,
}

/// What is read of one key in one source: [`Self::tiles`] until none are wanted,
/// then [`Self::events`], until neither is.
#[derive(Debug)]
pub struct TiledKey<'r> {
    read: &'r LiveRead<'r>,
    windows: &'r LiveWindows,
    merged: &'r MergedAggregates,
    source: usize,
    key: u32,
    cover: Cover,
    wanted: Vec<Wanted>,
    computed: Vec<PartialRows>,
    /// Rows beside what is stored.
    beside: Vec<GroupedEvents>,
    kept_min: usize,
    /// Of the last events beside tiles.
    newest: Option<Density>,
}

/// What is known of one key in one source.
#[derive(Debug)]
pub struct KeyPartials {
    rows: PartialRows,
    /// The interval of each.
    intervals: Vec<usize>,
}

/// Aggregates of one key that are known from tiles.
#[derive(Debug, Clone)]
pub struct TiledValues {
    pub(super) key: u32,
    /// One value each, with its place among the view's aggregates.
    pub(super) values: Vec<(usize, ArrayRef)>,
}

/// The times of a key's frames, cut where any of them begins or ends.
#[derive(Debug)]
struct FrameTimes {
    /// [from, to) of each frame.
    frames: Vec<Range<i64>>,
    /// Those within any frame, ascending.
    intervals: Vec<Range<i64>>,
}

impl FrameTimes {
    /// `first`: where a frame without a start begins.
    fn of(frames: &[Frame], t: i64, first: i64) -> Self {
        let times = frames.iter().map(|frame| match frame.bounds {
            FrameBounds::Range { start, end } => {
                let from = start.map_or(first, |start| start.before(UtcMicros(t)).0);
                let to = end.before(UtcMicros(t)).0.min(t).saturating_add(1);
                from..to
            }
            FrameBounds::Rows { .. } => 0..0,
        });
        let frames: Vec<Range<i64>> = times.collect();
        let covered = frames.iter().filter(|frame| !frame.is_empty());
        let mut cuts: Vec<i64> = covered.flat_map(|f| [f.start, f.end]).collect();
        cuts.sort_unstable();
        cuts.dedup();
        let spans = cuts.windows(2).map(|cut| cut[0]..cut[1]);
        let within = |span: &Range<i64>| {
            let mut frames = frames.iter();
            frames.any(|frame| frame.start <= span.start && span.end <= frame.end)
        };
        let intervals = spans.filter(within).collect();
        Self { frames, intervals }
    }
}

impl<'r> TiledKey<'r> {
    pub(super) fn new(
        read: &'r LiveRead<'r>,
        (windows, merged): (&'r LiveWindows, &'r MergedAggregates),
        (source, key): (usize, u32),
        found: &[FoundEvents],
        (times, settings): (KeyTimes, TileSettings),
    ) -> Result<Self> {
        let beside = found.iter().filter(|found| {
            // What was looked for by key is stored.
            found.keys.is_none() && found.source == source
        });
        let beside: Vec<FoundEvents> = beside.cloned().collect();
        let mut beside = windows.grouped(read, &beside)?;
        let mut alone = Vec::new();
        for grouped in &mut beside {
            let times = windows.windows().times(&grouped.events)?;
            for (row, group) in grouped.groups.iter_mut().enumerate() {
                if *group == key {
                    alone.push(times.value(row));
                } else {
                    *group = NO_GROUP;
                }
            }
        }
        alone.sort_unstable();
        alone.dedup();
        let frames = FrameTimes::of(merged.frames(), read.time.as_of.0, times.first.0);
        let settled = times.newest.0.saturating_sub(SETTLING_MICROS);
        let settled = settled.min(read.time.last().0.saturating_add(1));
        Ok(Self {
            read,
            windows,
            merged,
            source,
            key,
            cover: Cover::new(
                &frames.intervals,
                settled,
                alone,
                (times.densities, settings),
            ),
            wanted: Vec::new(),
            computed: Vec::new(),
            beside,
            kept_min: settings.tile_events_min,
            newest: None,
        })
    }

    /// The tiles to look for now; what is stored of them goes to
    /// [`Self::found_tiles`].
    pub fn tiles(&self) -> Vec<TileSpan> {
        self.cover.tiles()
    }

    pub fn found_tiles(&mut self, found: Vec<Tile>) {
        let found = found.into_iter().map(|tile| {
            let at = TileAt {
                level: tile.level,
                start: tile.start.0,
            };
            (at, tile.value)
        });
        self.cover.found(found.collect());
    }

    /// The spans whose events are wanted now; what is found of them goes to
    /// [`Self::found_events`].
    pub fn events(&mut self) -> Vec<EventSpan> {
        self.wanted = self.cover.events();
        let last = self.read.time.last().0;
        let wanted = self.wanted.iter().map(|wanted| EventSpan {
            from: UtcMicros(wanted.span.start),
            to: UtcMicros((wanted.span.end - 1).min(last)),
            limit: wanted.limit,
        });
        wanted.collect()
    }

    /// Gives the tiles that were made and are worth keeping.
    pub fn found_events(&mut self, found: &SpanEvents) -> Result<Vec<Tile>, EngineError> {
        let wanted = std::mem::take(&mut self.wanted);
        let made = self.take_events(&wanted, found);
        made.map_err(|e| self.read.view.failed(e))
    }

    fn take_events(&mut self, wanted: &[Wanted], found: &SpanEvents) -> Result<Vec<Tile>> {
        let whole: Vec<usize> = (0..wanted.len())
            .filter(|at| found.counts[*at] < wanted[*at].limit)
            .collect();
        if let Some((last, events)) = wanted.last().zip(found.counts.last())
            && last.tile.is_none()
        {
            let newest = Density {
                events: *events,
                micros: (last.span.end - last.span.start).max(1),
            };
            let many = *events >= 2 * self.kept_min;
            if many && self.newest.is_none_or(|known| newest.is_closer_than(known)) {
                self.newest = Some(newest);
            }
        }
        let batch = self.computed.len();
        let mut places = vec![None; wanted.len()];
        for (row, at) in whole.iter().enumerate() {
            places[*at] = Some((batch, row));
        }
        let events = FoundEvents {
            source: self.source,
            keys: Some(vec![self.key; found.events.num_rows()]),
            events: found.events.clone(),
        };
        let mut grouped = self
            .windows
            .grouped(self.read, std::slice::from_ref(&events))?;
        grouped.extend(self.beside.iter().cloned());
        let spans: Vec<Range<i64>> = whole.iter().map(|at| wanted[*at].span.clone()).collect();
        let of_key = (&self.read.spine, self.key);
        let partials = self.windows.windows();
        let partials = partials.partials(self.merged, of_key, &grouped, &spans)?;
        let made = whole.iter().enumerate().filter_map(|(row, at)| {
            let tile = wanted[*at].tile?;
            (found.counts[*at] >= self.kept_min).then_some((row as u32, tile))
        });
        let made = self.made(&partials, made.collect())?;
        self.computed.push(partials);
        self.cover.computed(wanted, &places);
        Ok(made)
    }

    /// Tiles of rows of partials.
    fn made(&self, partials: &PartialRows, rows: Vec<(u32, TileAt)>) -> Result<Vec<Tile>> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let places: UInt32Array = rows.iter().map(|(row, _)| *row).collect::<Vec<_>>().into();
        let taken = partials
            .iter()
            .map(|column| Ok(take(column, &places, None)?));
        let values = self.merged.encode(&taken.collect::<Result<_>>()?)?;
        let made = values.into_iter().zip(rows).map(|(value, (_, tile))| Tile {
            level: tile.level,
            start: UtcMicros(tile.start),
            value,
        });
        Ok(made
            .filter(|tile| tile.value.len() <= KEPT_BYTES_MAX)
            .collect())
    }

    /// How close the newest events lie, where they are so many beside tiles that
    /// smaller ones would do: for the next read.
    pub fn newest(&self) -> Option<Density> {
        self.newest
    }

    /// What is known of the key, and the tiles that were put together of others.
    pub fn finish(self) -> Result<(KeyPartials, Vec<Tile>), EngineError> {
        let view = self.read.view;
        self.take_all().map_err(|e| view.failed(e))
    }

    fn take_all(mut self) -> Result<(KeyPartials, Vec<Tile>)> {
        let mut stored: Vec<&[u8]> = Vec::new();
        let mut places = Vec::with_capacity(self.cover.pieces().len());
        for piece in self.cover.pieces() {
            match piece.known() {
                Some(Known::Stored(value)) => {
                    places.push((0, stored.len()));
                    stored.push(value);
                }
                Some(Known::Computed(batch, row)) => places.push((batch + 1, *row)),
                None => {}
            }
        }
        let stored = self.merged.decode(stored.into_iter())?;
        let rows = (0..stored.len()).map(|column| {
            let computed = self.computed.iter().map(|rows| rows[column].as_ref());
            let parts: Vec<_> = std::iter::once(stored[column].as_ref())
                .chain(computed)
                .collect();
            Ok(interleave(&parts, &places)?)
        });
        let rows: PartialRows = rows.collect::<Result<_>>()?;
        let made = self.parents(&rows)?;
        let pieces = self.cover.pieces().iter();
        let partials = KeyPartials {
            rows,
            intervals: pieces.map(|piece| piece.interval).collect(),
        };
        Ok((partials, made))
    }

    fn parents(&mut self, rows: &PartialRows) -> Result<Vec<Tile>> {
        let parents = self.cover.take_parents();
        let pieces = self.cover.pieces();
        let before = |t: i64| pieces.partition_point(|piece| piece.span.start < t) as u32;
        let ranges = parents.iter().map(|tile| {
            let span = tile.span();
            before(span.start)..before(span.end)
        });
        let ranges: Vec<Range<u32>> = ranges.collect();
        let merged = self.windows.windows().merge(self.merged, rows, &ranges)?;
        self.made(&merged, (0u32..).zip(parents).collect())
    }
}

/// What decides over the cover of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyTimes {
    /// The event time of the key's first event, where some frame has no start.
    pub first: UtcMicros,
    /// The greatest event time of the stream.
    pub newest: UtcMicros,
    pub densities: Densities,
}

/// The aggregates as of t; `partials`: of each source.
pub(super) fn values(
    windows: &AsOfWindows,
    merged: &MergedAggregates,
    (key, t): (u32, i64),
    first: i64,
    partials: &[KeyPartials],
) -> Result<TiledValues> {
    let times = FrameTimes::of(merged.frames(), t, first);
    let parts = partials.iter().map(|of_source| of_source.rows.clone());
    let mut rows = merged.concat(&parts.collect::<Vec<_>>())?;
    let intervals = partials.iter().flat_map(|of_source| &of_source.intervals);
    let mut order: Vec<(usize, u32)> = intervals.copied().zip(0u32..).collect();
    if !order.is_sorted() {
        order.sort_unstable();
        let places: UInt32Array = order.iter().map(|(_, row)| *row).collect::<Vec<_>>().into();
        let sorted = rows.iter().map(|column| Ok(take(column, &places, None)?));
        rows = sorted.collect::<Result<_>>()?;
    }
    let before = |t: i64| {
        let intervals = times
            .intervals
            .partition_point(|interval| interval.start < t);
        order.partition_point(|(interval, _)| *interval < intervals) as u32
    };
    let ranges = times.frames.iter().map(|frame| match frame.is_empty() {
        true => 0..0,
        false => before(frame.start)..before(frame.end),
    });
    let ranges: Vec<Range<u32>> = ranges.collect();
    Ok(TiledValues {
        key,
        values: windows.finish(merged, &rows, &ranges)?,
    })
}
