//! What reads work from: one snapshot, pinned generations, compiled plans.
//!
//! A state is built whole and swapped whole. A service is answered at the
//! newest snapshot in which all its views have an online generation: a changed
//! view goes live when it has been materialised, and readers of the old one
//! are never broken half-way. The same holds for a list of features. A view
//! that was dropped and defined anew is not a changed one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt;
use granary_catalog::{Catalog, Snapshot};
use granary_engine::Engine;
use granary_model::definitions::ServeMode;
use granary_model::{ErrorKind, did_you_mean};
use granary_store::streams::StreamsByName;
use granary_store::{GenerationId, OnlineStore};

use crate::error::ServingError;
use crate::live::LiveViews;
use crate::plan::{NoPlan, Pin, Pins, PlanSources, ReadPlan, Selection, compile, list_as_service};
use crate::query::{QueryView, QueryViews};
use crate::read::ReadTarget;

/// Lists of features whose plans a state keeps.
const LISTS_MAX: u64 = 1_000;
/// How far back a service may be answered from, in snapshots.
const HISTORY_MAX: u64 = 256;

/// What plans are made with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Planner<'a> {
    pub engine: &'a Engine,
    pub history: &'a History,
    pub queries: &'a QueryViews,
    pub live: &'a LiveViews,
}

/// A plan, or why there is none, shared by all who ask.
type Planned = Result<Arc<ReadPlan>, Arc<ServingError>>;

#[derive(Debug)]
pub(crate) struct ReadState {
    pub newest: Arc<Snapshot>,
    /// As the store listed them when this state was made.
    pub published: Vec<GenerationId>,
    pub pins: Pins,
    /// As they were open when this state was made.
    pub streams: Arc<StreamsByName>,
    services: HashMap<String, Planned>,
    lists: moka::sync::Cache<Vec<String>, Planned>,
    /// Every SERVE QUERY view of the newest snapshot: held here, so that its
    /// look-up outlives the plans that use it.
    pub query_views: Vec<Arc<QueryView>>,
}

impl ReadState {
    pub async fn build(
        newest: Arc<Snapshot>,
        published: Vec<GenerationId>,
        (pins, streams): (Pins, Arc<StreamsByName>),
        planner: Planner<'_>,
    ) -> Self {
        let views = newest.definitions.feature_views.values();
        let query_views = views
            .filter(|view| matches!(view.serve, ServeMode::Query { .. }) && view.version > 0)
            .map(|view| planner.queries.view(&newest, view))
            .collect();
        let mut services = HashMap::new();
        for name in newest.definitions.services.keys() {
            let target = Target::Service(name);
            let plan = newest_plan(target, &newest, (&pins, &streams), planner).await;
            services.insert(name.clone(), plan.map(Arc::new).map_err(Arc::new));
        }
        Self {
            newest,
            published,
            pins,
            streams,
            services,
            lists: moka::sync::Cache::new(LISTS_MAX),
            query_views,
        }
    }

    /// Whether a plan is missing only because the catalog could not be read.
    pub fn is_incomplete(&self) -> bool {
        let plans = self.services.values();
        plans
            .filter_map(|plan| plan.as_ref().err())
            .any(|error| matches!(**error, ServingError::Catalog(_)))
    }

    /// Whether no service waits for online data or for the catalog.
    pub fn has_all_plans(&self) -> bool {
        let errors = self
            .services
            .values()
            .filter_map(|plan| plan.as_ref().err());
        let mut kinds = errors.map(|error| error.kind());
        !kinds.any(|kind| matches!(kind, ErrorKind::FailedPrecondition | ErrorKind::Unavailable))
    }

    /// The plan of a target; plans of lists are compiled at their first use.
    pub async fn plan(
        &self,
        target: &ReadTarget,
        planner: Planner<'_>,
    ) -> Result<Arc<ReadPlan>, ServingError> {
        let planned = match target {
            ReadTarget::Service(name) => {
                let known = self.services.get(name).cloned();
                known.ok_or_else(|| self.unknown_service(name))?
            }
            ReadTarget::Features(list) => self.list_plan(list, planner).boxed().await,
        };
        planned.map_err(ServingError::Shared)
    }

    async fn list_plan(&self, list: &[String], planner: Planner<'_>) -> Planned {
        if let Some(planned) = self.lists.get(list) {
            return planned;
        }
        let target = Target::List(list);
        let open = (&self.pins, self.streams.as_ref());
        let plan = newest_plan(target, &self.newest, open, planner).await;
        let planned = plan.map(Arc::new).map_err(Arc::new);
        // Mistakes are told quickly; that a view was never materialised is
        // found out only at the end of the history.
        let worth_keeping = match &planned {
            Ok(_) => true,
            Err(error) => matches!(**error, ServingError::NeverMaterialized { .. }),
        };
        if worth_keeping {
            self.lists.insert(list.to_vec(), planned.clone());
        }
        planned
    }

    fn unknown_service(&self, name: &str) -> ServingError {
        ServingError::Unknown {
            what: "feature service",
            name: name.to_owned(),
            suggestion: did_you_mean(name, self.services.keys().map(String::as_str)),
        }
    }
}

/// Pins everything that is published; what did not change keeps its pin.
pub(crate) async fn pin(
    store: &dyn OnlineStore,
    published: &[GenerationId],
    before: Option<&Pins>,
) -> Result<Pins, ServingError> {
    let mut pins = Pins::new();
    for id in published {
        let (view, version) = (&id.view, id.version);
        let held = before.and_then(|pins| pins.get(view)?.get(&version));
        let pin = match held.filter(|pin| pin.id == *id) {
            Some(pin) => pin.clone(),
            // Dropped since it was listed: the next refresh sees it gone.
            None => match store.generation(view, version).await? {
                None => continue,
                Some(generation) => Pin {
                    id: generation.state().id,
                    generation,
                },
            },
        };
        pins.entry(view.clone()).or_default().insert(version, pin);
    }
    Ok(pins)
}

#[derive(Debug, Clone, Copy)]
enum Target<'a> {
    Service(&'a str),
    List(&'a [String]),
}

impl<'a> Target<'a> {
    /// The views that it reads by a snapshot's word, those that on-demand views
    /// read among them.
    fn views(self, snapshot: &'a Snapshot) -> BTreeSet<&'a str> {
        let d = &snapshot.definitions;
        let mut open: Vec<&str> = match self {
            Self::Service(name) => {
                let from = d.services.get(name).into_iter().flat_map(|s| &s.from);
                from.map(|bound| bound.view.as_str()).collect()
            }
            Self::List(list) => {
                let view = |item: &'a String| item.split('.').next();
                list.iter().filter_map(view).collect()
            }
        };
        let mut views = BTreeSet::new();
        while let Some(view) = open.pop() {
            if views.insert(view) {
                let from = d.on_demand_views.get(view).map(|v| &v.from);
                open.extend(from.into_iter().flatten().map(|bound| bound.view.as_str()));
            }
        }
        views
    }

    /// `None` where the snapshot has no such service.
    async fn compile(
        self,
        snapshot: &Arc<Snapshot>,
        (pins, streams): (&Pins, &StreamsByName),
        planner: Planner<'_>,
    ) -> Option<Result<ReadPlan, NoPlan>> {
        let listed;
        let selection = match self {
            Self::Service(name) => {
                let service = snapshot.definitions.services.get(name)?;
                Selection {
                    from: &service.from,
                    features: &service.features,
                }
            }
            Self::List(list) => {
                listed = match list_as_service(snapshot, list) {
                    Ok(listed) => listed,
                    Err(error) => return Some(Err(NoPlan::Refused(error))),
                };
                Selection {
                    from: &listed.0,
                    features: &listed.1,
                }
            }
        };
        let definitions = &snapshot.definitions;
        let names = self.views(snapshot).into_iter();
        let live = planner.live.of(planner.engine, definitions, names).await;
        let live = match live {
            Ok(live) => live,
            Err(error) => return Some(Err(NoPlan::Refused(error))),
        };
        let sources = PlanSources {
            pins,
            queries: planner.queries,
            live: &live,
            streams,
        };
        let expanded = planner
            .engine
            .expand(definitions, selection.from, selection.features, true);
        Some(match expanded.await {
            Ok(expanded) => compile(snapshot, &selection, &expanded, sources),
            Err(error) => Err(NoPlan::Refused(error.into())),
        })
    }
}

/// Follows the views of a target back in time, to where one of them was another
/// view: a name that was dropped and defined anew has no past but its own
/// version's, so older snapshots do not answer for it.
#[derive(Debug)]
struct Lives<'a> {
    /// Of the newest snapshot, by view.
    versions: BTreeMap<&'a str, u32>,
    /// Views that a snapshot passed by did not have.
    absent: BTreeSet<&'a str>,
}

impl<'a> Lives<'a> {
    fn new(target: Target<'a>, newest: &'a Snapshot) -> Self {
        let version = |view: &'a str| {
            let defined = newest.definitions.feature_views.get(view)?;
            Some((view, defined.version))
        };
        let views = target.views(newest).into_iter();
        Self {
            versions: views.filter_map(version).collect(),
            absent: BTreeSet::new(),
        }
    }

    /// Whether the snapshot, older than those before, may answer for all views.
    fn go_on_in(&mut self, snapshot: &Snapshot) -> bool {
        self.versions.iter().all(|(view, newest)| {
            match snapshot.definitions.feature_views.get(*view) {
                Some(defined) => defined.version == *newest || !self.absent.contains(view),
                None => {
                    self.absent.insert(*view);
                    true
                }
            }
        })
    }
}

/// The plan at the newest snapshot in which everything is published. What is
/// wrong at the newest snapshot is told; an older one is asked only for want
/// of online data.
async fn newest_plan(
    target: Target<'_>,
    newest: &Arc<Snapshot>,
    open: (&Pins, &StreamsByName),
    planner: Planner<'_>,
) -> Result<ReadPlan, ServingError> {
    let missing = match target.compile(newest, open, planner).await {
        Some(Ok(plan)) => return Ok(plan),
        Some(Err(NoPlan::NotPublished(views))) => ServingError::NeverMaterialized { views },
        Some(Err(NoPlan::NoEvents { view, stream })) => ServingError::NoEvents { view, stream },
        Some(Err(NoPlan::Refused(error))) => return Err(error),
        None => ServingError::NeverMaterialized { views: Vec::new() },
    };
    let mut lives = Lives::new(target, newest);
    let oldest = newest.number.saturating_sub(HISTORY_MAX).max(1);
    for number in (oldest..newest.number).rev() {
        let Some(snapshot) = planner.history.at(number).await? else {
            break;
        };
        if !lives.go_on_in(&snapshot) {
            break;
        }
        match target.compile(&snapshot, open, planner).await {
            Some(Ok(plan)) => return Ok(plan),
            Some(Err(_)) => {}
            None => break,
        }
    }
    Err(missing)
}

/// Older snapshots, kept once they were read.
#[derive(Debug)]
pub(crate) struct History {
    catalog: Catalog,
    read: Mutex<BTreeMap<u64, Arc<Snapshot>>>,
}

impl History {
    pub fn new(catalog: Catalog) -> Self {
        Self {
            catalog,
            read: Mutex::default(),
        }
    }

    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    async fn at(&self, number: u64) -> Result<Option<Arc<Snapshot>>, ServingError> {
        let lock = || self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let held = lock().get(&number).cloned();
        if held.is_some() {
            return Ok(held);
        }
        let snapshot = match self.catalog.at(number).await {
            Ok(snapshot) => snapshot,
            Err(granary_catalog::CatalogError::NoSnapshot(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut read = lock();
        read.insert(number, Arc::clone(&snapshot));
        while read.len() as u64 > HISTORY_MAX {
            read.pop_first();
        }
        Ok(Some(snapshot))
    }
}
