//! Which version of a view has rows: a changed one is there once it has run,
//! until then what it was before.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt, stream};
use granary_catalog::{Catalog, Snapshot};
use granary_engine::{Engine, OfflineTable};
use granary_model::definitions::{Definitions, FeatureView, ServeMode};
use tracing::instrument;

use crate::error::IngestError;

/// Offline tables looked for at once.
const TABLES_SOUGHT: usize = 8;
/// How far back an older version is looked for, in snapshots.
const HISTORY_MAX: u64 = 256;

/// A view that is seen as it was before it was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OlderVersion {
    pub view: String,
    pub version: u32,
    /// The version that has not run.
    pub newest: u32,
}

/// The definitions of a snapshot in which every feature view is the newest
/// version that has rows, where there is one, and which of them are older.
/// `catalog` is the snapshot's.
#[instrument(skip_all, err)]
pub async fn live_definitions(
    engine: &Engine,
    catalog: &Catalog,
    snapshot: &Snapshot,
) -> Result<(Definitions, Vec<OlderVersion>), IngestError> {
    let mut definitions = snapshot.definitions.clone();
    let mut tables = Tables::of(engine, &definitions).await?;
    let mut older = Vec::new();
    for view in snapshot.definitions.feature_views.values() {
        if tables.have(&snapshot.definitions, view).await? {
            continue;
        }
        let Some(found) = before(catalog, snapshot.number, &view.name, &mut tables).await? else {
            continue;
        };
        if found.version != view.version {
            older.push(OlderVersion {
                view: view.name.clone(),
                version: found.version,
                newest: view.version,
            });
        }
        definitions.feature_views.insert(view.name.clone(), found);
    }
    Ok((definitions, older))
}

/// The view in the newest older snapshot where it has rows. A name that a
/// snapshot in between did not define was another view before.
async fn before(
    catalog: &Catalog,
    number: u64,
    view: &str,
    tables: &mut Tables<'_>,
) -> Result<Option<FeatureView>, IngestError> {
    for number in (number.saturating_sub(HISTORY_MAX).max(1)..number).rev() {
        let snapshot = catalog.at(number).await?;
        let Some(found) = snapshot.definitions.feature_views.get(view) else {
            return Ok(None);
        };
        if tables.have(&snapshot.definitions, found).await? {
            return Ok(Some(found.clone()));
        }
    }
    Ok(None)
}

/// Which offline tables there are, as far as it was asked.
struct Tables<'a> {
    engine: &'a Engine,
    known: BTreeMap<(String, u32), bool>,
}

impl<'a> Tables<'a> {
    async fn of(engine: &'a Engine, definitions: &Definitions) -> Result<Self, IngestError> {
        // Made outside of the stream: a closure over references to views would
        // make this future one that cannot be spawned.
        let views = definitions.feature_views.values();
        let sought: Vec<_> = views.map(|view| sought(engine, view)).collect();
        let known = stream::iter(sought).buffered(TABLES_SOUGHT).try_collect();
        Ok(Self {
            engine,
            known: known.await?,
        })
    }

    /// Whether everything has run that a view's rows come from.
    async fn have(
        &mut self,
        definitions: &Definitions,
        view: &FeatureView,
    ) -> Result<bool, IngestError> {
        let runs = match view.serve {
            ServeMode::Query { .. } => {
                let names = definitions.runs_read(view).into_iter();
                names.map(|name| &definitions.feature_views[name]).collect()
            }
            _ => vec![view],
        };
        for view in runs {
            let key = (view.name.clone(), view.version);
            let there = match self.known.get(&key) {
                Some(there) => *there,
                None => {
                    let (key, there) = sought(self.engine, view).await?;
                    self.known.insert(key, there);
                    there
                }
            };
            if !there {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

async fn sought(engine: &Engine, view: &FeatureView) -> Result<((String, u32), bool), IngestError> {
    let there = OfflineTable::exists(engine, view).await?;
    Ok(((view.name.clone(), view.version), there))
}
