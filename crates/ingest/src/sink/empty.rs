//! The empty row of a windowed view, as the store takes it: what answers every
//! key of whom nothing happened in any window.

use granary_engine::Engine;
use granary_model::UtcMicros;
use granary_model::definitions::{Definitions, FeatureView};
use granary_store::{EncodedRows, RowLayout, StoreError};

use crate::error::IngestError;

/// One row, as of the T of the rows that it stands beside.
pub(super) async fn empty_row(
    engine: &Engine,
    definitions: &Definitions,
    view: &FeatureView,
    as_of: UtcMicros,
) -> Result<EncodedRows, IngestError> {
    let batch = engine.empty_row(definitions, view, as_of).await?;
    if batch.num_rows() != 1 {
        let rows = batch.num_rows();
        let message = format!("{}: {rows} empty rows", view.name);
        return Err(StoreError::Codec(message).into());
    }
    Ok(RowLayout::of(view).encode(&batch, None, None)?)
}
