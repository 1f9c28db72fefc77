//! Where `COPY .. TO` may write: not over a source, not into the root.
//!
//! A target is relative to the project folder, as every path in SQL is.

use std::path::{Component, Path, PathBuf};

use datafusion::datasource::listing::ListingTableUrl;
use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::logical_expr::dml::CopyTo;
use granary_model::Definitions;
use url::Url;

use crate::engine::Engine;
use crate::error::EngineError;
use crate::source::{Source, absolute};

/// What must not be written to.
#[derive(Debug)]
pub(super) struct Protected {
    root: ListingTableUrl,
    /// By the table that reads them.
    sources: Vec<(String, ListingTableUrl)>,
}

impl Protected {
    pub(super) async fn of(
        engine: &Engine,
        definitions: &Definitions,
        state: &SessionState,
    ) -> Result<Self, EngineError> {
        let mut sources = Vec::new();
        for table in definitions.tables.values() {
            let failed = |error| EngineError::from_query(&table.name, error);
            let source = Source::parse(state, engine, &table.name, &table.sql)
                .await
                .map_err(failed)?;
            for location in source.locations() {
                let place = place(location).map_err(failed)?;
                sources.push((table.name.clone(), place));
            }
        }
        let root = place(engine.root().as_str()).map_err(failed)?;
        Ok(Self { root, sources })
    }

    /// Makes the target absolute; refuses one that must not be written to.
    pub(super) fn admit(&self, engine: &Engine, copy: &mut CopyTo) -> Result<(), EngineError> {
        copy.output_url = absolute(engine.project(), &copy.output_url);
        let target = place(&copy.output_url).map_err(failed)?;
        let extension = copy.file_type.get_ext();
        let part = target.prefix().clone().join(format!("part.{extension}"));
        let written = [target.prefix(), &part];
        let hits = |place: &ListingTableUrl| {
            let same_store = place.object_store() == target.object_store();
            same_store && written.iter().any(|path| place.contains(path, false))
        };
        let refused = |what: String| {
            let target = &copy.output_url;
            Err(EngineError::Refused(format!(
                "COPY TO {target} is refused: {what}"
            )))
        };
        if hits(&self.root) {
            return refused("the project's root lies there, which Granary alone writes".into());
        }
        if let Some((table, _)) = self.sources.iter().find(|(_, place)| hits(place)) {
            return refused(format!("the source {table} is read from there"));
        }
        Ok(())
    }
}

fn failed(source: DataFusionError) -> EngineError {
    EngineError::from_query("COPY", source)
}

/// A location; of a local one the real path, so that one file has one name.
fn place(location: &str) -> Result<ListingTableUrl, DataFusionError> {
    let place = ListingTableUrl::parse(location)?;
    let Ok(path) = place.get_url().to_file_path() else {
        return Ok(place);
    };
    let real = real(&path);
    let url = Url::from_file_path(&real)
        .map_err(|()| DataFusionError::Plan(format!("{} is no path of a file", path.display())))?;
    ListingTableUrl::try_new(url, place.get_glob().clone())
}

/// The path without links, `.` and `..`, as far as it is there.
fn real(path: &Path) -> PathBuf {
    let mut real = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                real.pop();
            }
            Component::CurDir => {}
            part => real.push(part),
        }
        if let Ok(there) = std::fs::canonicalize(&real) {
            real = there;
        }
    }
    real
}
