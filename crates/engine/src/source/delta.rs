//! Delta tables as sources, over our own object stores.

use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::execution::SessionState;
use deltalake_core::{DeltaTable, DeltaTableError};
use url::Url;

use super::{Source, SourceFault};

/// The schema of the newest version.
pub(super) async fn infer(source: &Source, state: &SessionState) -> Result<SchemaRef, SourceFault> {
    Ok(open(source, state).await?.schema())
}

/// The newest version of the table.
pub(super) async fn open(
    source: &Source,
    state: &SessionState,
) -> Result<Arc<dyn TableProvider>, SourceFault> {
    let [location] = source.command.locations.as_slice() else {
        let count = source.command.locations.len();
        let reason = format!("a Delta table has one location, not {count}");
        return Err(SourceFault::new(
            source.command.locations.join(", "),
            reason,
        ));
    };
    let fault = |error: &dyn ToString| SourceFault::new(location, error.to_string());
    let url = table_url(location)?;
    let log_store = source.stores.log_store(&url).map_err(|e| fault(&e))?;
    let mut table = DeltaTable::new(log_store);
    table.load().await.map_err(|error| match error {
        DeltaTableError::NotATable(_) => SourceFault::new(location, "no Delta table is there"),
        other if other.to_string().contains("does not exist") => {
            SourceFault::new(location, "no such folder")
        }
        other => fault(&other),
    })?;
    table
        .table_provider()
        .with_session(Arc::new(state.clone()))
        .await
        .map_err(|error| SourceFault::of(location, &error))
}

fn table_url(location: &str) -> Result<Url, SourceFault> {
    let url = if location.contains("://") {
        let folder = format!("{}/", location.trim_end_matches('/'));
        Url::parse(&folder).map_err(|error| error.to_string())
    } else {
        Url::from_directory_path(location).map_err(|()| "not a path".to_owned())
    };
    url.map_err(|reason| SourceFault::new(location, reason))
}
