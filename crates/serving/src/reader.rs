//! The reader: current plans, swapped whole when the catalog or the store moves.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use arrow::array::Array;
use futures::FutureExt;
use futures::future::join_all;
use granary_catalog::{Catalog, Snapshot};
use granary_engine::{Engine, TileSettings};
use granary_model::definitions::{Grant, RequestColumns};
use granary_model::{Caller, Clock, UtcMicros};
use granary_store::{GenerationId, OnlineStore, OpenStreams};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tracing::{instrument, warn};

use crate::answer::Answer;
use crate::error::ServingError;
use crate::fetch::{Sources, fetch};
use crate::keys::RequestRows;
use crate::live::{LiveViews, TileKeeper};
use crate::plan::{Pins, ReadPlan};
use crate::query::QueryViews;
use crate::query_cache::QueryCache;
use crate::read::{ReadRequest, ReadResponse, ReadTarget};
use crate::request_events::RequestEvents;
use crate::state::{History, Planner, ReadState, pin};

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServingSettings {
    pub request_rows_max: usize,
    pub request_features_max: usize,
    /// Bound of cached SERVE QUERY results.
    pub query_cache_bytes_max: u64,
    /// Query look-ups computed side by side.
    pub query_concurrency_max: usize,
    /// Events of one view that one read looks at at once.
    pub live_events_max: usize,
    /// How keys with many events are read.
    pub tiles: TileSettings,
    /// Whether a read needs a grant to one of the caller's roles: on the
    /// service, or on each view of a list.
    pub enforce_grants: bool,
}

impl Default for ServingSettings {
    fn default() -> Self {
        Self {
            request_rows_max: 10_000,
            request_features_max: 1_000,
            query_cache_bytes_max: 256 << 20,
            query_concurrency_max: 16,
            live_events_max: 4_000_000,
            tiles: TileSettings::default(),
            enforce_grants: false,
        }
    }
}

/// Reads of what is not there have the reader look for news no more often.
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// How keys of SERVE QUERY views were answered since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReaderCounts {
    pub query_cache_hits: u64,
    pub query_keys_computed: u64,
    /// Keys that waited for another reader's computation.
    pub query_keys_shared: u64,
}

/// The time of one read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReadTime {
    /// The server's clock when the request came.
    pub now: UtcMicros,
    /// What ages are counted from and what the answer says.
    pub as_of: UtcMicros,
    /// The latest event time that may be seen.
    pub cut: UtcMicros,
    /// Whether the request named the time.
    pub explicit: bool,
}

impl ReadTime {
    fn of(request: &ReadRequest, now: UtcMicros) -> Self {
        let as_of = request.as_of.unwrap_or(now);
        let back = i64::from(request.strictly_before);
        Self {
            now,
            as_of,
            cut: UtcMicros(as_of.0.saturating_sub(back)),
            explicit: request.as_of.is_some(),
        }
    }

    /// Whether rows of a run as of `reaches`, and of none later, may answer;
    /// gives what they are as of. A run's values hold what happened up to its
    /// T: a read as of an earlier time cannot be answered from them.
    pub fn admit(&self, view: &str, reaches: UtcMicros) -> Result<UtcMicros, ServingError> {
        if !self.explicit || reaches <= self.cut {
            return Ok(reaches);
        }
        let before = if self.cut == self.as_of {
            "as of"
        } else {
            "strictly before"
        };
        Err(ServingError::OutOfRange(format!(
            "{view}: its online values are as of the run at {reaches}, and the read is {before} {}; a training set answers for the past",
            self.as_of
        )))
    }

    /// `None` for a read of "now", which shares results with other such reads
    /// although their clocks differ by a little.
    pub fn shared_cut(&self) -> Option<UtcMicros> {
        (self.explicit || self.cut != self.as_of).then_some(self.cut)
    }
}

#[derive(Debug)]
pub struct Reader {
    engine: Engine,
    store: Arc<dyn OnlineStore>,
    clock: Arc<dyn Clock>,
    settings: ServingSettings,
    history: History,
    queries: QueryViews,
    live: LiveViews,
    tiles: TileKeeper,
    streams: Arc<OpenStreams>,
    cache: QueryCache,
    state: ArcSwap<ReadState>,
    /// One refresh at a time.
    refreshing: Mutex<()>,
    /// When a read last had the reader look for news.
    looked: Mutex<Option<Instant>>,
}

impl Reader {
    /// Reads the newest snapshot; `ServingError::NoCatalog` before the first apply.
    /// `streams`: what live views are answered from.
    pub async fn new(
        engine: Engine,
        catalog: Catalog,
        (store, streams): (Arc<dyn OnlineStore>, Arc<OpenStreams>),
        clock: Arc<dyn Clock>,
        settings: ServingSettings,
    ) -> Result<Self, ServingError> {
        let newest = catalog.latest().await?.ok_or(ServingError::NoCatalog)?;
        let history = History::new(catalog);
        let queries = QueryViews::default();
        let live = LiveViews::default();
        let published = published(store.as_ref()).await?;
        let pins = pin(store.as_ref(), &published, None).await?;
        let planner = Planner {
            engine: &engine,
            history: &history,
            queries: &queries,
            live: &live,
        };
        let open = streams.all();
        let state = ReadState::build(newest, published, (pins, open), planner).await;
        compile_lookups(&engine, &state).await;
        Ok(Self {
            engine,
            store,
            clock,
            history,
            queries,
            live,
            tiles: TileKeeper::new(settings.tiles),
            streams,
            cache: QueryCache::new(
                settings.query_cache_bytes_max,
                settings.query_concurrency_max,
            ),
            settings,
            state: ArcSwap::from_pointee(state),
            refreshing: Mutex::default(),
            looked: Mutex::default(),
        })
    }

    /// Looks for a new catalog snapshot and for new generations, and swaps the
    /// plans if there are any; true if so. What is written into a generation
    /// needs no new plans. Called several times a second by the server.
    #[instrument(level = "debug", skip_all)]
    pub async fn refresh(&self) -> Result<bool, ServingError> {
        let _one_at_a_time = self.refreshing.lock().await;
        let current = self.state();
        self.store.refresh().await?;
        let published = published(self.store.as_ref()).await?;
        let newer = self
            .history
            .catalog()
            .newer_than(current.newest.number)
            .await?;
        let open = self.streams.all();
        let same = published == current.published && Arc::ptr_eq(&open, &current.streams);
        if newer.is_none() && same && !current.is_incomplete() {
            return Ok(false);
        }
        let newest = newer.unwrap_or_else(|| Arc::clone(&current.newest));
        let before: Option<&Pins> = Some(&current.pins);
        let pins = pin(self.store.as_ref(), &published, before).await?;
        let state = ReadState::build(newest, published, (pins, open), self.planner()).await;
        compile_lookups(&self.engine, &state).await;
        self.state.store(Arc::new(state));
        Ok(true)
    }

    /// For whoever did not find what was named in a snapshot: looks for news,
    /// unless that was done just now; true if there are any. What was applied
    /// before a request is so not told to be absent.
    pub async fn look_for_missing(&self, known: &Arc<Snapshot>) -> bool {
        self.look_beyond(|state| Arc::ptr_eq(&state.newest, known))
            .await
    }

    /// Whether there is a state that is not known.
    async fn look_beyond(&self, is_known: impl Fn(&ReadState) -> bool) -> bool {
        let mut looked = self.looked.lock().await;
        if !is_known(&self.state()) {
            return true;
        }
        if looked.is_some_and(|at| at.elapsed() < BETWEEN_LOOKS) {
            return false;
        }
        // One that fails is for the server's own looks to tell.
        let has_news = self.refresh().await.unwrap_or(false);
        *looked = Some(Instant::now());
        has_news
    }

    /// The newest snapshot of the catalog as last seen.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.state().newest)
    }

    /// The columns that a read of the target takes, in order of first use: what
    /// typed keys and inputs are made from where only their text is known.
    pub async fn request_columns(
        &self,
        target: &ReadTarget,
    ) -> Result<RequestColumns, ServingError> {
        if let ReadTarget::Features(list) = target {
            self.check_list(list)?;
        }
        let state = self.state();
        let plan = state.plan(target, self.planner()).await?;
        let inputs = plan.inputs.iter().map(|input| input.column.clone());
        Ok(RequestColumns {
            keys: plan.request_keys.clone(),
            inputs: inputs.collect(),
        })
    }

    /// Whether every service can be read as far as online data goes.
    pub fn is_complete(&self) -> bool {
        self.state().has_all_plans()
    }

    pub fn counts(&self) -> ReaderCounts {
        let counts = self.cache.counts();
        ReaderCounts {
            query_cache_hits: counts.hits.load(Ordering::Relaxed),
            query_keys_computed: counts.computed.load(Ordering::Relaxed),
            query_keys_shared: counts.shared.load(Ordering::Relaxed),
        }
    }

    /// Reads features of entities. Everything wrong with a request is told
    /// before anything is fetched; a key that is not found, NULL or too old is
    /// a status of its rows and fails no others.
    pub async fn read(&self, request: ReadRequest) -> Result<ReadResponse, ServingError> {
        self.answer(&request).await?.into_response()
    }

    /// The same, not yet made into arrays.
    #[instrument(level = "debug", skip_all)]
    pub async fn answer(&self, request: &ReadRequest) -> Result<Answer, ServingError> {
        let time = ReadTime::of(request, self.clock.now());
        let state = self.state();
        match self.answer_from(&state, request, time).await {
            Err(error) if error.is_of_a_moment() => {
                // On the heap, as whatever few reads need: a read that needs nothing
                // of it is small, and is moved several times before it begins.
                let again = self.answer_again(state, request, time, error);
                again.boxed().await
            }
            answer => answer,
        }
    }

    /// After news, if there are any that may make a read good that failed.
    async fn answer_again(
        &self,
        state: Arc<ReadState>,
        request: &ReadRequest,
        time: ReadTime,
        error: ServingError,
    ) -> Result<Answer, ServingError> {
        let is_known = |newest: &ReadState| std::ptr::eq(newest, &*state);
        if error.is_reopening() {
            self.refresh().await?;
        } else if !self.look_beyond(is_known).await {
            return Err(error);
        }
        self.answer_from(&self.state(), request, time).await
    }

    async fn answer_from(
        &self,
        state: &ReadState,
        request: &ReadRequest,
        time: ReadTime,
    ) -> Result<Answer, ServingError> {
        let rows = request.inputs.iter().map(|(_, values)| values.len());
        let rows = rows.chain([request.keys.num_rows()]).max();
        within(
            "the number of entities",
            rows.unwrap_or_default(),
            self.settings.request_rows_max,
        )?;
        let events = request.request_events.iter();
        within(
            "the number of request events",
            events.map(|(_, events)| events.num_rows()).sum(),
            self.settings.request_rows_max,
        )?;
        if let ReadTarget::Features(list) = &request.target {
            self.check_list(list)?;
        }

        if self.settings.enforce_grants {
            check_grants(&state.newest, &request.caller, &request.target)?;
        }
        let plan = state.plan(&request.target, self.planner()).await?;
        let columns = plan.columns.len();
        within(
            "the number of features",
            columns,
            self.settings.request_features_max,
        )?;
        if let (false, Some(clash)) = (request.full_names, &plan.clash) {
            let message = format!("{clash}: ask for full names (view__feature, --full-names)");
            return Err(ServingError::Invalid(message));
        }
        let rows = RequestRows::bind(&plan, request)?;
        let definitions = &state.newest.definitions;
        let events = RequestEvents::bind(&plan, definitions, &request.request_events, time)?;
        check_time(&plan, time)?;

        let sources = Sources {
            store: self.store.as_ref(),
            engine: &self.engine,
            cache: &self.cache,
            live_events_max: self.settings.live_events_max,
            tiles: &self.tiles,
        };
        let fetched = fetch(sources, &plan, (&rows, events), time).await?;
        Ok(Answer {
            plan,
            fetched,
            as_of: time.as_of,
            entities: rows.entities,
            full_names: request.full_names,
        })
    }

    fn check_list(&self, list: &[String]) -> Result<(), ServingError> {
        if list.is_empty() {
            let message = "name a feature service, or at least one feature as view.feature";
            return Err(ServingError::Invalid(message.to_owned()));
        }
        let bound = self.settings.request_features_max;
        within("the number of features", list.len(), bound)
    }

    pub(crate) fn settings(&self) -> &ServingSettings {
        &self.settings
    }

    fn planner(&self) -> Planner<'_> {
        Planner {
            engine: &self.engine,
            history: &self.history,
            queries: &self.queries,
            live: &self.live,
        }
    }

    fn state(&self) -> Arc<ReadState> {
        self.state.load_full()
    }
}

async fn published(store: &dyn OnlineStore) -> Result<Vec<GenerationId>, ServingError> {
    let states = store.generations().await?;
    Ok(states.into_iter().map(|state| state.id).collect())
}

/// Compiles look-ups before reads need them. One that fails is told by the
/// reads that need it, which try again.
async fn compile_lookups(engine: &Engine, state: &ReadState) {
    let mut lookups = Vec::with_capacity(state.query_views.len());
    for view in &state.query_views {
        lookups.push(view.lookup(engine));
    }
    for (view, lookup) in state.query_views.iter().zip(join_all(lookups).await) {
        if let Err(error) = lookup {
            warn!(view = view.name(), %error, "a SERVE QUERY view cannot be compiled");
        }
    }
}

pub(crate) fn within(what: &'static str, given: usize, bound: usize) -> Result<(), ServingError> {
    if given <= bound {
        return Ok(());
    }
    Err(ServingError::OverBound { what, given, bound })
}

/// Grants are those of the newest snapshot: a revoked one ends at once.
pub(crate) fn check_grants(
    snapshot: &Snapshot,
    caller: &Caller,
    target: &ReadTarget,
) -> Result<(), ServingError> {
    let granted = |object: &str| {
        caller.roles.iter().any(|role| {
            snapshot.definitions.grants.contains(&Grant {
                object: object.to_owned(),
                role: role.clone(),
            })
        })
    };
    let check = |object: &str| {
        if granted(object) {
            return Ok(());
        }
        Err(ServingError::Denied {
            caller: caller.name.clone(),
            object: object.to_owned(),
        })
    };
    match target {
        ReadTarget::Service(name) => check(name),
        ReadTarget::Features(list) => list
            .iter()
            .try_for_each(|item| check(item.split('.').next().unwrap_or(item))),
    }
}

/// Told before anything is fetched where it is known by then.
fn check_time(plan: &ReadPlan, time: ReadTime) -> Result<(), ServingError> {
    if !time.explicit {
        return Ok(());
    }
    let groups = plan.levels.iter().flat_map(|level| &level.groups);
    let mut reads = groups.flat_map(|group| group.online.iter().zip(&group.generations));
    reads.try_for_each(|(read, generation)| time.admit(&read.view, generation.reaches()).map(drop))
}

#[cfg(test)]
mod tests;
