//! Of what a read puts the frames of a key together: tiles where they lie whole
//! inside, events at the edges.
//!
//! A cover begins with the greatest tiles that fit. What is not stored is made of
//! its parts where those are stored, else of events; of too many events it is
//! made part by part.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// A tile is so many of the level below.
const FAN_OUT: i64 = 8;
const LEVELS: usize = 15;
/// Event times that the tiles of each level cover, in microseconds: a second at
/// first; so long at last that a few cover all time, wherever an event lies.
pub const TILE_SPANS: [i64; LEVELS] = tile_spans();
/// Spans whose events are read at once.
const SPANS_AT_ONCE: usize = 16;

const fn tile_spans() -> [i64; LEVELS] {
    let mut spans = [1_000_000; LEVELS];
    let mut level = 1;
    while level < LEVELS {
        spans[level] = spans[level - 1] * FAN_OUT;
        level += 1;
    }
    spans
}

/// When a key is read from tiles, and which of them are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TileSettings {
    /// A key with so many events is read from tiles.
    pub events_min: usize,
    /// A tile of fewer events is not kept.
    pub tile_events_min: usize,
    /// A tile of more events is made of its parts.
    pub tile_events_max: usize,
    /// A span of more events beside tiles is cut by smaller ones.
    pub edge_events_max: usize,
    /// Bytes of the tiles of one key that one read looks at.
    pub bytes_max: usize,
}

impl Default for TileSettings {
    fn default() -> Self {
        Self {
            events_min: 1_024,
            tile_events_min: 64,
            tile_events_max: 8_192,
            edge_events_max: 1_024,
            bytes_max: 64 << 20,
        }
    }
}

/// How close events lie: so many within so many microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Density {
    pub events: usize,
    pub micros: i64,
}

impl Density {
    pub fn is_closer_than(self, other: Self) -> bool {
        let within = |a: Self, b: Self| a.events as i128 * i128::from(b.micros);
        within(self, other) > within(other, self)
    }
}

/// Of one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Densities {
    pub all: Density,
    /// Of the newest events, where they lie closer.
    pub newest: Option<Density>,
}

/// Consecutive tiles, of which some may be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TileSpan {
    pub level: usize,
    /// Event times at which the first and the last begin.
    pub first: i64,
    pub last: i64,
}

/// A tile by its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TileAt {
    pub(super) level: usize,
    pub(super) start: i64,
}

impl TileAt {
    pub(super) fn span(self) -> Range<i64> {
        self.start..self.start.saturating_add(TILE_SPANS[self.level])
    }

    fn parts(self) -> impl Iterator<Item = Self> {
        let level = self.level - 1;
        let starts = (0..FAN_OUT).map(move |n| self.start + n * TILE_SPANS[level]);
        starts.map(move |start| Self { level, start })
    }
}

/// Where the partial of a piece is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Known {
    Stored(Vec<u8>),
    /// Among the computed: which batch, which row.
    Computed(usize, usize),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// The tile may be stored.
    Tile(TileAt),
    /// It is not, but some of its parts may be.
    Parts(TileAt),
    /// To be computed from events.
    Events(TileAt),
    /// No tile; with too many events it is cut by tiles below this level.
    Edge(usize),
    Known(Known),
}

/// A span of event times [from, to).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) span: Range<i64>,
    /// Which interval of the cover it lies in.
    pub(super) interval: usize,
    state: State,
}

impl Piece {
    pub(super) fn known(&self) -> Option<&Known> {
        match &self.state {
            State::Known(known) => Some(known),
            _ => None,
        }
    }

    fn at(&self, state: State) -> Self {
        Self {
            state,
            ..self.clone()
        }
    }
}

/// A piece whose events are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) span: Range<i64>,
    /// With so many events it is cut instead.
    pub(super) limit: usize,
    /// The tile that it is.
    pub(super) tile: Option<TileAt>,
}

/// Pieces in the order of time.
#[derive(Debug)]
pub(super) struct Cover {
    pieces: Vec<Piece>,
    /// Event times that no tile may lie over, ascending.
    alone: Vec<i64>,
    /// From there on there are no tiles.
    settled: i64,
    /// Tiles that were missing and are made of their parts.
    parents: Vec<TileAt>,
    settings: TileSettings,
}

/// The greatest level at which tiles have no more events than is worth a tile.
fn first_level(density: Density, settings: TileSettings) -> usize {
    let most = settings.tile_events_min as i128 * i128::from(density.micros);
    let few = |span: &&i64| i128::from(**span) * density.events as i128 <= most;
    TILE_SPANS.iter().take_while(few).count().saturating_sub(1)
}

impl Cover {
    /// `intervals` ascend and do not overlap.
    pub(super) fn new(
        intervals: &[Range<i64>],
        settled: i64,
        alone: Vec<i64>,
        (densities, settings): (Densities, TileSettings),
    ) -> Self {
        let first_level = first_level(densities.all, settings);
        let mut cover = Self {
            pieces: Vec::new(),
            alone,
            settled,
            parents: Vec::new(),
            settings,
        };
        for (interval, span) in intervals.iter().enumerate() {
            let pieces = cover.cut(span.clone(), first_level..LEVELS, interval);
            cover.pieces.extend(pieces);
        }
        if let Some(newest) = densities.newest {
            cover.cut_newest(newest, first_level);
        }
        cover
    }

    /// Cuts the last edge by tiles below a level, where its events lie close.
    fn cut_newest(&mut self, newest: Density, below: usize) {
        let level = self::first_level(newest, self.settings);
        let last = self
            .pieces
            .pop_if(|piece| piece.state == State::Edge(below));
        if let Some(last) = last {
            let pieces = self.cut(last.span, level.min(below)..below, last.interval);
            self.pieces.extend(pieces);
        }
    }

    pub(super) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Missing tiles whose parts are all known, smaller ones first.
    pub(super) fn take_parents(&mut self) -> Vec<TileAt> {
        let mut parents = std::mem::take(&mut self.parents);
        parents.sort_unstable();
        parents.dedup();
        parents
    }

    /// The tiles to look for now.
    pub(super) fn tiles(&self) -> Vec<TileSpan> {
        let mut spans: Vec<TileSpan> = Vec::new();
        for piece in &self.pieces {
            match &piece.state {
                State::Tile(tile) => {
                    let length = TILE_SPANS[tile.level];
                    let last = spans.last_mut();
                    match last.filter(|s| s.level == tile.level && s.last + length == tile.start) {
                        Some(span) => span.last = tile.start,
                        None => spans.push(TileSpan {
                            level: tile.level,
                            first: tile.start,
                            last: tile.start,
                        }),
                    }
                }
                State::Parts(tile) => spans.push(TileSpan {
                    level: tile.level - 1,
                    first: tile.start,
                    last: tile.start + (FAN_OUT - 1) * TILE_SPANS[tile.level - 1],
                }),
                _ => {}
            }
        }
        spans
    }

    /// Takes what was stored of [`Self::tiles`].
    pub(super) fn found(&mut self, mut stored: Vec<(TileAt, Vec<u8>)>) {
        stored.sort_unstable_by_key(|(tile, _)| *tile);
        let mut take = |tile: TileAt| {
            let at = stored.binary_search_by_key(&tile, |(tile, _)| *tile).ok()?;
            Some(State::Known(Known::Stored(std::mem::take(
                &mut stored[at].1,
            ))))
        };
        let mut pieces = Vec::with_capacity(self.pieces.len());
        for piece in std::mem::take(&mut self.pieces) {
            match piece.state {
                State::Tile(tile) => {
                    let state = take(tile).unwrap_or_else(|| missing(tile));
                    pieces.push(piece.at(state));
                }
                State::Parts(tile) => {
                    let parts = tile.parts().map(|part| (part, take(part)));
                    let parts: Vec<_> = parts.collect();
                    if parts.iter().all(|(_, state)| state.is_none()) {
                        pieces.push(piece.at(State::Events(tile)));
                        continue;
                    }
                    self.parents.push(tile);
                    pieces.extend(parts.into_iter().map(|(part, state)| Piece {
                        span: part.span(),
                        interval: piece.interval,
                        state: state.unwrap_or_else(|| missing(part)),
                    }));
                }
                _ => pieces.push(piece),
            }
        }
        self.pieces = pieces;
    }

    /// The spans whose events are wanted next, ascending; none once all is known.
    pub(super) fn events(&self) -> Vec<Wanted> {
        let edges = self.pieces.iter().filter_map(|piece| match piece.state {
            State::Edge(below) => Some(Wanted {
                span: piece.span.clone(),
                limit: match below {
                    0 => usize::MAX,
                    _ => self.settings.edge_events_max,
                },
                tile: None,
            }),
            _ => None,
        });
        let edges: Vec<Wanted> = edges.collect();
        if !edges.is_empty() {
            return edges;
        }
        let tiles = self.pieces.iter().filter_map(|piece| match piece.state {
            State::Events(tile) => Some(Wanted {
                span: piece.span.clone(),
                limit: match tile.level {
                    0 => usize::MAX,
                    _ => self.settings.tile_events_max,
                },
                tile: Some(tile),
            }),
            _ => None,
        });
        tiles.take(SPANS_AT_ONCE).collect()
    }

    /// Takes what was computed of [`Self::events`], by what `computed` says of each:
    /// where it is, or `None` where there were too many events.
    pub(super) fn computed(&mut self, wanted: &[Wanted], computed: &[Option<(usize, usize)>]) {
        let mut pieces = Vec::with_capacity(self.pieces.len());
        for piece in std::mem::take(&mut self.pieces) {
            let at = wanted.binary_search_by_key(&piece.span.start, |wanted| wanted.span.start);
            let (Ok(at), State::Edge(_) | State::Events(_)) = (at, &piece.state) else {
                pieces.push(piece);
                continue;
            };
            match (computed[at], &piece.state) {
                (Some((batch, row)), _) => {
                    pieces.push(piece.at(State::Known(Known::Computed(batch, row))));
                }
                (None, State::Events(tile)) => {
                    self.parents.push(*tile);
                    pieces.extend(tile.parts().map(|part| Piece {
                        span: part.span(),
                        interval: piece.interval,
                        state: missing(part),
                    }));
                }
                (None, State::Edge(below)) => {
                    pieces.extend(self.cut(piece.span.clone(), 0..*below, piece.interval));
                }
                (None, _) => pieces.push(piece),
            }
        }
        self.pieces = pieces;
    }

    /// The span by tiles of these levels, and edges.
    fn cut(&self, span: Range<i64>, levels: Range<usize>, interval: usize) -> Vec<Piece> {
        let mut tiles = Vec::new();
        let mut from = span.start;
        let until = span.end.min(self.settled);
        let first = self.alone.partition_point(|time| *time < span.start);
        for time in &self.alone[first..] {
            if *time >= until {
                break;
            }
            greatest(from..*time, levels.clone(), &mut tiles);
            from = time.saturating_add(1);
        }
        greatest(from..until, levels.clone(), &mut tiles);
        let mut pieces = Vec::with_capacity(tiles.len() + 2);
        let mut end = span.start;
        let edge = |span: Range<i64>| Piece {
            span,
            interval,
            state: State::Edge(levels.start),
        };
        for tile in tiles {
            if end < tile.start {
                pieces.push(edge(end..tile.start));
            }
            end = tile.span().end;
            pieces.push(Piece {
                span: tile.span(),
                interval,
                state: State::Tile(tile),
            });
        }
        if end < span.end {
            pieces.push(edge(end..span.end));
        }
        pieces
    }
}

fn missing(tile: TileAt) -> State {
    match tile.level {
        0 => State::Events(tile),
        _ => State::Parts(tile),
    }
}

/// The greatest tiles that lie in the span.
fn greatest(span: Range<i64>, levels: Range<usize>, tiles: &mut Vec<TileAt>) {
    for level in levels.clone().rev() {
        let length = TILE_SPANS[level];
        let from = span
            .start
            .saturating_add(length - 1)
            .div_euclid(length)
            .saturating_mul(length);
        let to = span.end.div_euclid(length).saturating_mul(length);
        if from < to {
            greatest(span.start..from, levels.start..level, tiles);
            let mut start = from;
            while start < to {
                tiles.push(TileAt { level, start });
                start += length;
            }
            greatest(to..span.end, levels.start..level, tiles);
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// How many events tiles are said to have, by their places.
    type Stored = BTreeMap<TileAt, i64>;

    const SETTINGS: TileSettings = TileSettings {
        events_min: 1,
        tile_events_min: 2,
        tile_events_max: 5,
        edge_events_max: 3,
        bytes_max: 1 << 20,
    };

    fn within_a_second(events: usize) -> Densities {
        let all = Density {
            events,
            micros: SECOND,
        };
        Densities { all, newest: None }
    }

    fn count(times: &[i64], span: &Range<i64>) -> usize {
        times.iter().filter(|time| span.contains(time)).count()
    }

    /// Counts the events of each interval by a cover, and stores what it makes.
    fn read(times: &[i64], mut cover: Cover, stored: &mut Stored) -> BTreeMap<usize, i64> {
        let mut computed: Vec<i64> = Vec::new();
        loop {
            let tiles = cover.tiles();
            if !tiles.is_empty() {
                let found = stored.iter().filter(|(at, _)| {
                    tiles.iter().any(|span| {
                        span.level == at.level && (span.first..=span.last).contains(&at.start)
                    })
                });
                let found = found.map(|(at, count)| (*at, count.to_be_bytes().to_vec()));
                cover.found(found.collect());
                continue;
            }
            let wanted = cover.events();
            if wanted.is_empty() {
                break;
            }
            let places = wanted.iter().map(|wanted| {
                let events = count(times, &wanted.span);
                if events >= wanted.limit {
                    return None;
                }
                if let Some(tile) = wanted.tile {
                    stored.insert(tile, events as i64);
                }
                computed.push(events as i64);
                Some((0, computed.len() - 1))
            });
            let places: Vec<_> = places.collect();
            cover.computed(&wanted, &places);
        }
        let mut counts = BTreeMap::new();
        let mut of_pieces = Vec::new();
        let mut end = i64::MIN;
        for piece in cover.pieces() {
            assert!(end <= piece.span.start, "pieces ascend");
            end = piece.span.end;
            let events = match piece.known() {
                Some(Known::Stored(value)) => i64::from_be_bytes(value[..].try_into().unwrap()),
                Some(Known::Computed(_, row)) => computed[*row],
                None => panic!("{piece:?} is not known"),
            };
            assert_eq!(events, count(times, &piece.span) as i64, "{piece:?}");
            of_pieces.push((piece.span.clone(), events));
            *counts.entry(piece.interval).or_default() += events;
        }
        for parent in cover.take_parents() {
            let span = parent.span();
            let parts = of_pieces
                .iter()
                .filter(|(part, _)| span.contains(&part.start));
            stored.insert(parent, parts.map(|(_, events)| events).sum());
        }
        counts
    }

    const SECOND: i64 = TILE_SPANS[0];

    proptest! {
        #[test]
        fn every_event_is_counted_once(
            mut times in prop::collection::vec(0..4_000 * SECOND, 0..200),
            bursts in prop::collection::vec((0..4_000 * SECOND, 1..20_usize), 0..4),
            reads in prop::collection::vec(
                (prop::collection::btree_set(0..4_200 * SECOND, 2..6), 0..4_200 * SECOND,
                 prop::collection::vec(0..4_000 * SECOND, 0..3),
                 (1..50_usize, prop::option::of(1..500_usize))),
                1..5,
            ),
        ) {
            for (time, count) in bursts {
                times.extend(std::iter::repeat_n(time, count));
            }
            let mut stored = Stored::new();
            for (cuts, settled, mut alone, (sample, newest)) in reads {
                alone.sort_unstable();
                alone.dedup();
                let cuts: Vec<i64> = cuts.into_iter().collect();
                let intervals: Vec<Range<i64>> = cuts.windows(2).map(|cut| cut[0]..cut[1]).collect();
                let density = |events| Density { events, micros: 100 * SECOND };
                let densities = Densities { all: density(sample), newest: newest.map(density) };
                let cover = Cover::new(&intervals, settled, alone.clone(), (densities, SETTINGS));
                let counts = read(&times, cover, &mut stored);
                for (number, interval) in intervals.iter().enumerate() {
                    prop_assert_eq!(counts[&number], count(&times, interval) as i64);
                }
                for (tile, events) in &stored {
                    prop_assert_eq!(*events, count(&times, &tile.span()) as i64);
                }
            }
        }
    }

    #[test]
    fn all_time_is_covered_by_a_few_pieces() {
        for first in [i64::MIN, -62_135_596_800 * SECOND, 0] {
            let now = 1_772_236_800 * SECOND + 7;
            let all = first..now;
            let dense = (within_a_second(100), SETTINGS);
            let mut cover = Cover::new(std::slice::from_ref(&all), now, Vec::new(), dense);
            let mut rounds = 0;
            loop {
                if !cover.tiles().is_empty() {
                    cover.found(Vec::new());
                    continue;
                }
                let wanted = cover.events();
                if wanted.is_empty() {
                    break;
                }
                rounds += 1;
                let places: Vec<_> = (0..wanted.len()).map(|row| Some((0, row))).collect();
                cover.computed(&wanted, &places);
            }
            assert!(cover.pieces().len() < 250, "{}", cover.pieces().len());
            assert!(rounds < 20, "{rounds}");
        }
    }

    #[test]
    fn no_tile_lies_over_an_event_apart_or_what_is_not_settled() {
        let alone = vec![100 * SECOND + 1];
        let cover = Cover::new(
            std::slice::from_ref(&(0..1_000 * SECOND)),
            900 * SECOND,
            alone,
            (within_a_second(1), SETTINGS),
        );
        let tiles = cover.pieces().iter().filter_map(|piece| match piece.state {
            State::Tile(tile) => Some(tile.span()),
            _ => None,
        });
        let tiles: Vec<Range<i64>> = tiles.collect();
        assert!(!tiles.is_empty());
        assert!(tiles.iter().all(|span| span.end <= 900 * SECOND));
        assert!(!tiles.iter().any(|span| span.contains(&(100 * SECOND + 1))));
    }
}
