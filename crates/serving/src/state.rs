//! What reads work from: one snapshot, pinned generations, compiled plans.
//!
//! A state is built whole and swapped whole. A service is answered at the
//! newest snapshot in which all its views have an online generation: a changed
//! view goes live when it has been materialised, and readers of the old one
//! are never broken half-way. The same holds for a list of features.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use granary_catalog::{Catalog, Snapshot};
use granary_model::definitions::ServeMode;
use granary_model::{ErrorKind, did_you_mean};
use granary_store::{GenerationState, OnlineStore};

use crate::error::ServingError;
use crate::plan::{NoPlan, Pin, Pins, ReadPlan, Selection, compile, list_as_service};
use crate::query::{QueryView, QueryViews};
use crate::read::ReadTarget;

/// Lists of features whose plans a state keeps.
const LISTS_MAX: u64 = 1_000;
/// How far back a service may be answered from, in snapshots.
const HISTORY_MAX: u64 = 256;

#[derive(Debug)]
pub(crate) struct ReadState {
    pub newest: Arc<Snapshot>,
    /// As the store listed them when this state was made.
    pub published: Vec<GenerationState>,
    pub pins: Pins,
    services: HashMap<String, Result<Arc<ReadPlan>, Arc<ServingError>>>,
    lists: moka::sync::Cache<Vec<String>, Arc<ReadPlan>>,
    /// Every SERVE QUERY view of the newest snapshot: held here, so that its
    /// look-up outlives the plans that use it.
    pub query_views: Vec<Arc<QueryView>>,
}

impl ReadState {
    pub async fn build(
        newest: Arc<Snapshot>,
        published: Vec<GenerationState>,
        pins: Pins,
        history: &History,
        queries: &QueryViews,
    ) -> Self {
        let views = newest.definitions.feature_views.values();
        let query_views = views
            .filter(|view| matches!(view.serve, ServeMode::Query { .. }) && view.version > 0)
            .map(|view| queries.view(&newest, view))
            .collect();
        let mut services = HashMap::new();
        for name in newest.definitions.services.keys() {
            let target = Target::Service(name);
            let plan = newest_plan(target, &newest, &pins, history, queries).await;
            services.insert(name.clone(), plan.map(Arc::new).map_err(Arc::new));
        }
        Self {
            newest,
            published,
            pins,
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
        history: &History,
        queries: &QueryViews,
    ) -> Result<Arc<ReadPlan>, ServingError> {
        match target {
            ReadTarget::Service(name) => match self.services.get(name) {
                Some(Ok(plan)) => Ok(Arc::clone(plan)),
                Some(Err(error)) => Err(ServingError::Shared(Arc::clone(error))),
                None => Err(ServingError::Unknown {
                    what: "feature service",
                    name: name.clone(),
                    suggestion: did_you_mean(name, self.services.keys().map(String::as_str)),
                }),
            },
            ReadTarget::Features(list) => {
                if let Some(plan) = self.lists.get(list.as_slice()) {
                    return Ok(plan);
                }
                let target = Target::List(list);
                let plan = newest_plan(target, &self.newest, &self.pins, history, queries).await?;
                let plan = Arc::new(plan);
                self.lists.insert(list.clone(), Arc::clone(&plan));
                Ok(plan)
            }
        }
    }
}

/// Pins everything that is published; what did not change keeps its pin.
pub(crate) async fn pin(
    store: &dyn OnlineStore,
    published: &[GenerationState],
    before: Option<&Pins>,
) -> Result<Pins, ServingError> {
    let mut pins = Pins::new();
    for state in published {
        let (view, version) = (&state.id.view, state.id.version);
        let held = before.and_then(|pins| pins.get(view)?.get(&version));
        let pin = match held.filter(|pin| pin.state == *state) {
            Some(pin) => pin.clone(),
            // Dropped since it was listed: the next refresh sees it gone.
            None => match store.generation(view, version).await? {
                None => continue,
                Some(generation) => Pin {
                    state: generation.state(),
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

impl Target<'_> {
    /// `None` where the snapshot has no such service.
    fn compile(
        self,
        snapshot: &Arc<Snapshot>,
        pins: &Pins,
        queries: &QueryViews,
    ) -> Option<Result<ReadPlan, NoPlan>> {
        match self {
            Self::Service(name) => {
                let service = snapshot.definitions.services.get(name)?;
                let selection = Selection {
                    from: &service.from,
                    features: &service.features,
                };
                Some(compile(snapshot, &selection, pins, queries))
            }
            Self::List(list) => {
                let listed = list_as_service(snapshot, list).map_err(NoPlan::Refused);
                Some(listed.and_then(|(from, features)| {
                    let selection = Selection {
                        from: &from,
                        features: &features,
                    };
                    compile(snapshot, &selection, pins, queries)
                }))
            }
        }
    }
}

/// The plan at the newest snapshot in which everything is published. What is
/// wrong at the newest snapshot is told; an older one is asked only for want
/// of online data.
async fn newest_plan(
    target: Target<'_>,
    newest: &Arc<Snapshot>,
    pins: &Pins,
    history: &History,
    queries: &QueryViews,
) -> Result<ReadPlan, ServingError> {
    let missing = match target.compile(newest, pins, queries) {
        Some(Ok(plan)) => return Ok(plan),
        Some(Err(NoPlan::NotPublished(views))) => views,
        Some(Err(NoPlan::Refused(error))) => return Err(error),
        None => Vec::new(),
    };
    let oldest = newest.number.saturating_sub(HISTORY_MAX).max(1);
    for number in (oldest..newest.number).rev() {
        let Some(snapshot) = history.at(number).await? else {
            break;
        };
        match target.compile(&snapshot, pins, queries) {
            Some(Ok(plan)) => return Ok(plan),
            Some(Err(_)) => {}
            None => break,
        }
    }
    Err(ServingError::NeverMaterialized { views: missing })
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
