//! Live views: what they read of streams, and their values from the events that
//! a read found.
//!
//! A view is compiled once a catalog snapshot. Whoever has the events files them
//! under the keys that [`EventIndex`] gives, finds those of a read's keys, and
//! has [`LiveRead`] make values of them: the aggregates and the order of rows
//! are those of runs and training sets. No IO here.

mod cover;
mod latest;
mod limits;
mod newest;
mod rows;
mod sources;
mod tiles;
mod windows;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use datafusion::common::plan_err;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, cast};
use granary_model::definitions::Column;
use granary_model::{Definitions, FeatureStatus, FeatureView, UtcMicros, ViewKind};
use tracing::instrument;

use crate::asof::spine::Spine;
use crate::asof::{Frame, FrameBounds, MergedAggregates};
use crate::engine::{Engine, Joins, plan_sql};
use crate::error::EngineError;
use crate::lookup::needed;
use crate::retention::Retention;
use crate::windowed::WindowedQuery;
pub use cover::{Densities, Density, TileSettings, TileSpan};
use latest::LiveLatest;
pub use sources::EventIndex;
pub(crate) use sources::StreamRows;
pub use tiles::{
    EventSpan, KeyPartials, KeyTimes, SpanEvents, Tile, TileSet, TiledKey, TiledValues,
};
use windows::LiveWindows;

/// A view whose online value is as of the read.
#[derive(Debug)]
pub struct LiveView {
    name: String,
    version: u32,
    keys: Vec<Column>,
    sources: Vec<LiveSource>,
    form: Form,
}

#[derive(Debug)]
enum Form {
    Windowed(Box<LiveWindows>),
    Timestamped(LiveLatest),
}

/// What a live view reads of one stream.
#[derive(Debug)]
pub struct LiveSource {
    pub(crate) rows: StreamRows,
    index: Arc<EventIndex>,
    tiles: Option<TileSet>,
    retention: Retention,
}

impl LiveSource {
    pub fn stream(&self) -> &str {
        self.rows.stream()
    }

    /// How the stream's events are found by the view's keys.
    pub fn index(&self) -> &Arc<EventIndex> {
        &self.index
    }

    /// The columns of the stream's relation that are read, by place.
    pub fn projection(&self) -> &[usize] {
        self.rows.projection()
    }

    /// What must stay of the stream's events for reads as of now.
    pub fn retention(&self) -> &Retention {
        &self.retention
    }

    /// The tiles of the view's aggregates; `None`: none can be put together of
    /// tiles.
    pub fn tiles(&self) -> Option<&TileSet> {
        self.tiles.as_ref()
    }
}

/// Events that a read found in one source.
#[derive(Debug, Clone)]
pub struct FoundEvents {
    /// Place in [`LiveView::sources`].
    pub source: usize,
    /// The columns of [`LiveSource::projection`].
    pub events: RecordBatch,
    /// Of each event which of the read's distinct keys found it, `u32::MAX` for
    /// one that does not count; `None`: the events were not looked for by key,
    /// and may belong to any. What was found by key is no later than
    /// [`NeededEvents::to`], other events no later than the time of the read, even
    /// where stored ones are strictly before it.
    pub keys: Option<Vec<u32>>,
}

/// A live view's values, a row of the read each.
#[derive(Debug, Clone)]
pub struct LiveRows {
    /// An array a feature that was asked for; NULL where the status is not PRESENT.
    pub values: Vec<ArrayRef>,
    /// Of the row as a whole; NULLs apart.
    pub statuses: Vec<FeatureStatus>,
    /// Of timestamped views.
    pub event_times: Option<Vec<Option<UtcMicros>>>,
}

/// The time of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LiveTime {
    pub as_of: UtcMicros,
    /// Only events before that time, not at it.
    pub strictly_before: bool,
}

impl LiveTime {
    /// The last event time that is seen.
    pub(crate) fn last(self) -> UtcMicros {
        UtcMicros(self.as_of.0.saturating_sub(i64::from(self.strictly_before)))
    }
}

/// One read of a live view.
#[derive(Debug)]
pub struct LiveRead<'v> {
    view: &'v LiveView,
    spine: Spine,
    time: LiveTime,
}

/// Which events of each key a read needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NeededEvents {
    /// First event time; `None`: as old as there are.
    pub from: Option<UtcMicros>,
    /// Last event time, inclusive.
    pub to: UtcMicros,
    /// Whether the newest few may do: see [`LiveRead::undecided`].
    pub newest_first: bool,
}

impl Engine {
    /// Compiles a live view. Reads no events.
    #[instrument(skip_all, fields(view = view.name), err)]
    pub async fn live_view(
        &self,
        definitions: &Definitions,
        view: &FeatureView,
    ) -> Result<LiveView, EngineError> {
        let failed = |e| EngineError::from_query(&view.name, e);
        let definitions = needed(definitions, view);
        let session = self.session_with(&definitions, None, Joins::default());
        let state = session.await?.state();
        let compiled = LiveView::compile(&state, &definitions, view).await;
        compiled.map_err(failed)
    }

    /// What the live views of the definitions need, by the streams that they read.
    pub async fn stream_needs(
        &self,
        definitions: &Definitions,
    ) -> Result<BTreeMap<String, StreamNeeds>, EngineError> {
        let mut needs: BTreeMap<String, StreamNeeds> = BTreeMap::new();
        for view in definitions.feature_views.values().filter(|v| v.is_live()) {
            let compiled = self.live_view(definitions, view).await?;
            for source in &compiled.sources {
                let of_stream = needs.entry(source.stream().to_owned());
                let of_stream = of_stream.or_insert_with(StreamNeeds::none);
                of_stream.add(&view.name, source.retention.clone());
                let mut known = of_stream.indexes.iter();
                if known.all(|known| known.name != source.index.name) {
                    of_stream.indexes.push(Arc::clone(&source.index));
                }
                let tiles = source.tiles.iter();
                let unknown = tiles.filter(|set| !of_stream.tile_sets.contains(set));
                let unknown: Vec<TileSet> = unknown.cloned().collect();
                of_stream.tile_sets.extend(unknown);
            }
        }
        Ok(needs)
    }
}

/// What live views need of a stream.
#[derive(Debug, Clone)]
pub struct StreamNeeds {
    /// Each once.
    pub indexes: Vec<Arc<EventIndex>>,
    /// Each once.
    pub tile_sets: Vec<TileSet>,
    /// By the names of the indexes.
    pub retention: Retention,
    /// What each view needs of that, by its name.
    pub views: BTreeMap<String, Retention>,
}

impl StreamNeeds {
    fn none() -> Self {
        Self {
            indexes: Vec::new(),
            tile_sets: Vec::new(),
            retention: Retention::nothing(),
            views: BTreeMap::new(),
        }
    }

    fn add(&mut self, view: &str, retention: Retention) {
        self.retention = self.retention.clone().and(retention.clone());
        let of_view = self.views.entry(view.to_owned());
        let of_view = of_view.or_insert_with(Retention::nothing);
        *of_view = of_view.clone().and(retention);
    }

    /// A retention of the stream in words: an index by the names of its keys.
    pub fn in_words(&self, retention: &Retention) -> String {
        retention.in_words(|name| {
            let index = self.indexes.iter().find(|index| index.name == name);
            let keys = index.into_iter().flat_map(|index| &index.keys);
            let keys: Vec<&str> = keys.map(|key| key.name.as_str()).collect();
            keys.join(", ")
        })
    }
}

impl LiveView {
    /// Fails for what cannot be answered from events, with the reason.
    ///
    /// `state`: a session in which the names of the definitions stand.
    pub(crate) async fn compile(
        state: &SessionState,
        definitions: &Definitions,
        view: &FeatureView,
    ) -> Result<Self> {
        let mut query = None;
        let (mut form, events, event_time, rows, keyed) = match view.kind {
            ViewKind::Windowed => {
                let query = query.insert(WindowedQuery::of(state, view).await?);
                let (events, event_time) = (query.events.clone(), query.event_time.clone());
                let keyed = keys_of(&events, query.keys.clone(), &view.keys)?;
                let (windows, rows) = LiveWindows::compile(state, view, query.clone())?;
                (
                    Form::Windowed(Box::new(windows)),
                    events,
                    event_time,
                    rows,
                    keyed,
                )
            }
            ViewKind::Timestamped => {
                let plan = plan_sql(state, &view.query).await?;
                let event_time = named(&plan, view.event_time.as_deref().unwrap_or_default())?;
                let (latest, rows) = LiveLatest::compile(state, view, plan.clone())?;
                let keys = view.keys.iter().map(|key| named(&rows, &key.name));
                let keyed = keys_of(&rows, keys.collect::<Result<_>>()?, &view.keys)?;
                (Form::Timestamped(latest), plan, event_time, rows, keyed)
            }
            ViewKind::Snapshot => return plan_err!("{} has no event time", view.name),
        };
        limits::check_rows(&events)?;
        let keyed = state.optimize(&keyed)?;
        let indexes = EventIndex::compile(state, &keyed, &view.keys)?;
        let indexes = indexes.into_iter();
        let indexes: BTreeMap<String, Arc<EventIndex>> = indexes
            .map(|index| (index.stream().to_owned(), index))
            .collect();
        let made_of = rows.display_indent().to_string();
        let mut sources = Vec::new();
        for rows in StreamRows::compile(state, &rows)? {
            let Some(index) = indexes.get(rows.stream()).cloned() else {
                // No event of this stream has a key: it gives no rows.
                continue;
            };
            limits::check_keys(definitions, &index)?;
            sources.push(LiveSource {
                retention: form.retention(&rows, &index),
                rows,
                index,
                tiles: None,
            });
        }
        if let (Form::Windowed(windows), Some(query)) = (&mut form, &query)
            && windows.merge(sources.len() == 1)?
        {
            for source in &mut sources {
                source.tiles = Some(TileSet::of(&source.index.name, &made_of, query));
            }
        }
        limits::check_time(definitions, &events, &event_time, &sources)?;
        Ok(Self {
            name: view.name.clone(),
            version: view.version,
            keys: view.keys.clone(),
            sources,
            form,
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn version(&self) -> u32 {
        self.version
    }

    pub fn keys(&self) -> &[Column] {
        &self.keys
    }

    pub fn sources(&self) -> &[LiveSource] {
        &self.sources
    }

    /// Begins a read. `keys`: a column a key, a row an entity.
    pub fn begin(&self, keys: &[ArrayRef], time: LiveTime) -> Result<LiveRead<'_>, EngineError> {
        let rows = keys.first().map_or(0, |column| column.len());
        let times = Int64Array::from_value(time.as_of.0, rows);
        let spine = Spine::new(keys, &times).map_err(|e| self.failed(e))?;
        Ok(LiveRead {
            view: self,
            spine,
            time,
        })
    }

    fn failed(&self, error: DataFusionError) -> EngineError {
        EngineError::from_query(&self.name, error)
    }
}

impl Form {
    fn retention(&self, rows: &StreamRows, index: &EventIndex) -> Retention {
        // Which rows the newest events give is known where each gives its own.
        let newest = |events: usize| match rows.is_total() {
            true => Retention::newest(&index.name, events),
            false => Retention::Everything,
        };
        match self {
            Self::Windowed(windows) => windows.retention(newest),
            Self::Timestamped(latest) => latest.retention(newest),
        }
    }
}

impl LiveRead<'_> {
    /// The distinct keys, a row of the read that has each; NULL keys aside.
    pub fn key_rows(&self) -> Vec<u32> {
        let groups = 0..self.spine.group_count() as u32;
        let rows = self.spine.rows();
        groups
            .filter_map(|group| rows.get(self.spine.positions(group).start).copied())
            .collect()
    }

    pub fn needs(&self) -> NeededEvents {
        let (from, newest_first) = match &self.view.form {
            Form::Windowed(windows) => (windows.first_seen(self.time), windows.newest_may_do()),
            Form::Timestamped(_) => (None, true),
        };
        NeededEvents {
            from,
            to: self.time.last(),
            newest_first,
        }
    }

    /// Of a read of the newest events first: the distinct keys whose value may
    /// depend on older events than those that were found. `oldest`: of each key
    /// the event time of the oldest event found, where there may be older ones;
    /// `tiled`: what tiles give is not asked for.
    pub fn undecided(
        &self,
        found: &[FoundEvents],
        oldest: &[Option<UtcMicros>],
        tiled: bool,
    ) -> Result<Vec<u32>, EngineError> {
        if oldest.iter().all(Option::is_none) {
            return Ok(Vec::new());
        }
        let latest = match &self.view.form {
            Form::Timestamped(latest) => latest,
            Form::Windowed(windows) => {
                let undecided = windows.undecided(self, found, oldest, tiled);
                return undecided.map_err(|e| self.view.failed(e));
            }
        };
        let best = latest.best(self, found).map_err(|e| self.view.failed(e))?;
        let open = oldest.iter().zip(best.times()).enumerate();
        let open = open.filter(|(_, (oldest, best))| match (oldest, best) {
            (None, _) => false,
            (Some(_), None) => true,
            // Another of the same time may decide.
            (Some(oldest), Some(best)) => oldest.0 >= *best,
        });
        Ok(open.map(|(key, _)| key as u32).collect())
    }

    /// Whether tiles give any value of the view.
    pub fn has_tiles(&self) -> bool {
        self.tiled().is_some()
    }

    /// Whether tiles give every value.
    pub fn is_all_tiled(&self) -> bool {
        self.tiled()
            .is_some_and(|(windows, _)| windows.is_all_merged())
    }

    /// Whether what tiles give is from the first event on.
    pub fn is_tiled_from_first(&self) -> bool {
        let unbounded =
            |frame: &Frame| matches!(frame.bounds, FrameBounds::Range { start: None, .. });
        self.tiled()
            .is_some_and(|(_, merged)| merged.frames().iter().any(unbounded))
    }

    /// The first event time of a distinct key in what was not looked for by key.
    pub fn first_beside(
        &self,
        key: u32,
        found: &[FoundEvents],
    ) -> Result<Option<UtcMicros>, EngineError> {
        let tiled = self.tiled();
        let first = tiled.map(|(windows, _)| windows.first_beside(self, key, found));
        let first = first.transpose().map_err(|e| self.view.failed(e))?;
        Ok(first.flatten().map(UtcMicros))
    }

    fn tiled(&self) -> Option<(&LiveWindows, &MergedAggregates)> {
        match &self.view.form {
            Form::Windowed(windows) => Some((windows.as_ref(), windows.merged()?)),
            Form::Timestamped(_) => None,
        }
    }

    /// Begins to read a distinct key from the tiles of one source; `found`: what
    /// was found of the source besides. `None`: the view has no tiles.
    pub fn tiled_key(
        &self,
        (source, key): (usize, u32),
        found: &[FoundEvents],
        times: (KeyTimes, TileSettings),
    ) -> Result<Option<TiledKey<'_>>, EngineError> {
        let begun = self.tiled().map(|(windows, merged)| {
            TiledKey::new(self, (windows, merged), (source, key), found, times)
        });
        begun.transpose().map_err(|e| self.view.failed(e))
    }

    /// What the partials of a key in each source come to; `times`: those that it
    /// was read by.
    pub fn tiled_values(
        &self,
        key: u32,
        partials: &[KeyPartials],
        times: KeyTimes,
    ) -> Result<TiledValues, EngineError> {
        let none = || DataFusionError::Internal("a view without tiles was read by them".into());
        let (windows, merged) = self
            .tiled()
            .ok_or_else(none)
            .map_err(|e| self.view.failed(e))?;
        let as_of = (key, self.time.as_of.0);
        let values = tiles::values(windows.windows(), merged, as_of, times.first.0, partials);
        values.map_err(|e| self.view.failed(e))
    }

    /// The values of the features at `projection` in the view's order; `tiled`:
    /// of keys that were read from tiles.
    pub fn finish(
        self,
        found: &[FoundEvents],
        tiled: &[TiledValues],
        projection: &[usize],
    ) -> Result<LiveRows, EngineError> {
        let rows = match &self.view.form {
            Form::Windowed(windows) => windows.values(&self, found, tiled, projection),
            Form::Timestamped(latest) => latest.values(&self, found, projection),
        };
        rows.map_err(|e| self.view.failed(e))
    }

    /// The rows that events give, each with its distinct key; `u32::MAX` for
    /// rows of other keys.
    fn rows_of(
        &self,
        found: &FoundEvents,
        keys: impl Fn(&RecordBatch) -> Result<Vec<ArrayRef>>,
    ) -> Result<Vec<(RecordBatch, Vec<u32>)>> {
        let source = &self.view.sources[found.source].rows;
        let mut all = Vec::new();
        for made in source.rows(&found.events)? {
            let of_event = |event: &u32| found.keys.as_ref().map(|keys| keys[*event as usize]);
            let looked_for: Option<Vec<u32>> = made.events.iter().map(of_event).collect();
            // An event that gives one row at most gives it to the key it was found by.
            let groups = match (looked_for, source.is_one_to_one()) {
                (Some(looked_for), true) => looked_for,
                (looked_for, _) => {
                    let mut groups = Vec::new();
                    self.spine.find(&keys(&made.rows)?, &mut groups)?;
                    for (row, group) in groups.iter_mut().enumerate() {
                        // It is found again by each other key that it has.
                        if looked_for.as_ref().is_some_and(|keys| keys[row] != *group) {
                            *group = u32::MAX;
                        }
                    }
                    groups
                }
            };
            all.push((made.rows, groups));
        }
        Ok(all)
    }
}

/// The key columns alone, in the types of the view's keys.
fn keys_of(plan: &LogicalPlan, keys: Vec<Expr>, columns: &[Column]) -> Result<LogicalPlan> {
    let keys = keys.into_iter().zip(columns);
    let keys = keys.map(|(key, column)| {
        cast(key.unalias(), column.data_type.to_arrow()).alias(column.name.as_str())
    });
    LogicalPlanBuilder::from(plan.clone())
        .project(keys)?
        .build()
}

fn named(plan: &LogicalPlan, name: &str) -> Result<Expr> {
    let columns = plan.schema().columns();
    let found = columns.into_iter().find(|column| column.name == name);
    found
        .map(Expr::Column)
        .ok_or_else(|| DataFusionError::Plan(format!("there is no column {name:?}")))
}
