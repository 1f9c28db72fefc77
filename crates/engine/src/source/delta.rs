//! Delta tables as sources, over our own object stores.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider, TableProviderFactory};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SessionState;
use datafusion::logical_expr::CreateExternalTable;
use deltalake_core::{DeltaTable, DeltaTableError};
use url::Url;

use super::{Source, SourceFault};
use crate::engine::Stores;

/// The schema of the newest version.
pub(super) async fn infer(source: &Source, state: &SessionState) -> Result<SchemaRef, SourceFault> {
    Ok(open(source, state).await?.schema())
}

/// The newest version of the table.
pub(super) async fn open(
    source: &Source,
    state: &SessionState,
) -> Result<Arc<dyn TableProvider>, SourceFault> {
    at(&source.command.locations, &source.stores, state).await
}

async fn at(
    locations: &[String],
    stores: &Stores,
    state: &SessionState,
) -> Result<Arc<dyn TableProvider>, SourceFault> {
    let [location] = locations else {
        let reason = format!("a Delta table has one location, not {}", locations.len());
        return Err(SourceFault::new(locations.join(", "), reason));
    };
    let fault = |error: &dyn ToString| SourceFault::new(location, error.to_string());
    let url = table_url(location)?;
    let log_store = stores.log_store(&url).map_err(|e| fault(&e))?;
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

/// `STORED AS DELTATABLE` in a session's own statements.
#[derive(Debug)]
pub(crate) struct DeltaTables {
    pub(crate) stores: Arc<Stores>,
}

#[async_trait]
impl TableProviderFactory for DeltaTables {
    async fn create(
        &self,
        state: &dyn Session,
        command: &CreateExternalTable,
    ) -> Result<Arc<dyn TableProvider>> {
        let state = state
            .as_any()
            .downcast_ref::<SessionState>()
            .ok_or_else(|| DataFusionError::Internal("Delta needs a SessionState".into()))?;
        let opened = at(&command.locations, &self.stores, state).await;
        opened.map_err(|fault| fault.into_datafusion(command.name.table()))
    }
}

fn table_url(location: &str) -> Result<Url, SourceFault> {
    let url = if location.contains("://") {
        let folder = format!("{}/", location.trim_end_matches('/'));
        Url::parse(&folder).map_err(|error| error.to_string())
    } else {
        std::path::absolute(location)
            .map_err(|error| error.to_string())
            .and_then(|path| Url::from_directory_path(path).map_err(|()| "not a path".to_owned()))
    };
    url.map_err(|reason| SourceFault::new(location, reason))
}
