//! The keys under which the events of a stream are filed, of each index.

use std::sync::Arc;

use arrow::array::RecordBatch;
use bytes::Bytes;
use granary_engine::{EventIndex, StreamNeeds, TileSet};
use granary_store::events::{EventRef, IndexSpec, KeyOf, TileSetSpec};
use granary_store::{EntityKeys, EventRows, StoreError, StreamLayout};

/// The indexes of a stream, in the order of its spec.
#[derive(Debug, Clone)]
pub(super) struct IndexKeys {
    stream: String,
    layout: StreamLayout,
    indexes: Vec<Arc<EventIndex>>,
    tile_sets: Vec<TileSet>,
}

/// Of each row its keys in each index.
pub(super) type RowKeys = Vec<Vec<Vec<Bytes>>>;

impl IndexKeys {
    pub(super) fn new(stream: &str, layout: StreamLayout, needs: Option<&StreamNeeds>) -> Self {
        Self {
            stream: stream.to_owned(),
            layout,
            indexes: needs.map(|needs| needs.indexes.clone()).unwrap_or_default(),
            tile_sets: needs
                .map(|needs| needs.tile_sets.clone())
                .unwrap_or_default(),
        }
    }

    pub(super) fn specs(&self) -> Vec<IndexSpec> {
        let names = self.indexes.iter().map(|index| index.name.clone());
        names.map(|name| IndexSpec { name }).collect()
    }

    /// The tiles of what the indexes file.
    pub(super) fn tile_specs(&self) -> Vec<TileSetSpec> {
        let specs = self.tile_sets.iter().cloned().map(|set| TileSetSpec {
            name: set.name,
            version: set.version,
            index: set.index,
            spans: set.spans,
        });
        specs.collect()
    }

    /// `rows`: the stream's columns. Of a row whose keys cannot be computed the
    /// reason.
    pub(super) fn of_rows(&self, rows: &RecordBatch) -> (RowKeys, Vec<Option<String>>) {
        let mut keys = vec![vec![Vec::new(); self.indexes.len()]; rows.num_rows()];
        let mut refused = vec![None; rows.num_rows()];
        for (place, index) in self.indexes.iter().enumerate() {
            if let Ok(of_index) = keys_in(index, rows) {
                for (keys, of_index) in keys.iter_mut().zip(of_index) {
                    keys[place] = of_index;
                }
                continue;
            }
            // Some row is to blame.
            for row in 0..rows.num_rows() {
                match keys_in(index, &rows.slice(row, 1)) {
                    Ok(mut of_index) => keys[row][place] = of_index.pop().unwrap_or_default(),
                    Err(reason) => refused[row] = Some(format!("its keys: {reason}")),
                }
            }
        }
        (keys, refused)
    }
}

/// Of each row its keys in one index.
fn keys_in(index: &EventIndex, rows: &RecordBatch) -> Result<Vec<Vec<Bytes>>, String> {
    let read = rows
        .project(index.projection())
        .map_err(|e| e.to_string())?;
    let (columns, events) = index.keys_of(&read).map_err(|e| e.to_string())?;
    let encoded = EntityKeys::encode(&index.keys, &columns).map_err(|e| e.to_string())?;
    let mut keys: Vec<Vec<Bytes>> = vec![Vec::new(); rows.num_rows()];
    for (row, event) in events.into_iter().enumerate() {
        let of_event = &mut keys[event as usize];
        if let Some(key) = encoded.get(row)
            && of_event.iter().all(|known| **known != *key)
        {
            of_event.push(Bytes::copy_from_slice(key));
        }
    }
    Ok(keys)
}

impl KeyOf for IndexKeys {
    fn keys_of(&self, index: usize, event: EventRef<'_>) -> Result<Vec<Bytes>, StoreError> {
        let index = &self.indexes[index];
        let mut rows = EventRows::new(&self.layout, index.projection());
        rows.push(0, event);
        let read = rows.finish()?.batch;
        let all = index.keys_of(&read);
        let (columns, _) = all.map_err(|e| StoreError::Codec(format!("{}: {e}", self.stream)))?;
        let encoded = EntityKeys::encode(&index.keys, &columns)?;
        let keys = (0..encoded.len()).filter_map(|row| encoded.get(row));
        Ok(keys.map(Bytes::copy_from_slice).collect())
    }
}
