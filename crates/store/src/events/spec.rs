//! What a stream is: its indexes and tile sets, by position.

use std::collections::HashSet;

use granary_model::UtcMicros;
use serde::{Deserialize, Serialize};

use super::NewTile;
use crate::error::StoreError;

/// What a stream is, as its definition says now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamSpec {
    pub name: String,
    /// Says what payloads are, for instance the columns with their types.
    /// Opening a stream that holds events under another text is an error.
    pub columns: String,
    /// Whether events must be flushed to a history table before they are trimmed.
    pub history: bool,
    /// Every index that the stream should have, by unique name. What an earlier
    /// spec named and this one does not is dropped.
    pub indexes: Vec<IndexSpec>,
    /// Every tile set that the stream should have, by unique (name, version).
    /// What an earlier spec named and this one does not is dropped.
    pub tile_sets: Vec<TileSetSpec>,
}

impl StreamSpec {
    /// The position of an index in [`indexes`](Self::indexes), which is how
    /// events and reads name it.
    pub fn index(&self, name: &str) -> Option<usize> {
        self.indexes.iter().position(|index| index.name == name)
    }

    /// The index at a position; `StoreError::StreamSpec` where there is none.
    pub fn index_at(&self, position: usize) -> Result<&IndexSpec, StoreError> {
        let found = self.indexes.get(position);
        found.ok_or_else(|| self.refuse(format!("there is no index {position}")))
    }

    /// The tile set at a position; `StoreError::StreamSpec` where there is none.
    pub fn tile_set_at(&self, position: usize) -> Result<&TileSetSpec, StoreError> {
        let found = self.tile_sets.get(position);
        found.ok_or_else(|| self.refuse(format!("there is no tile set {position}")))
    }

    /// What every store checks before it keeps tiles: levels that are there, and
    /// starts of them.
    pub fn check_tiles(&self, set: usize, tiles: &[NewTile]) -> Result<(), StoreError> {
        let set = self.tile_set_at(set)?;
        let odd = tiles.iter().find(|tile| {
            let span = set.spans.get(tile.level);
            span.is_none_or(|span| tile.start.0.rem_euclid(*span) != 0)
        });
        match odd {
            Some(tile) => Err(self.refuse(format!(
                "tile set {} has no tile of level {} that starts at {}",
                set.name, tile.level, tile.start
            ))),
            None => Ok(()),
        }
    }

    fn refuse(&self, reason: String) -> StoreError {
        StoreError::StreamSpec {
            stream: self.name.clone(),
            reason,
        }
    }

    /// The position of a tile set in [`tile_sets`](Self::tile_sets).
    pub fn tile_set(&self, name: &str, version: u32) -> Option<usize> {
        let mut sets = self.tile_sets.iter();
        sets.position(|set| set.name == name && set.version == version)
    }

    /// `StoreError::StreamSpec` for a spec that contradicts itself.
    pub fn check(&self) -> Result<(), StoreError> {
        let refuse = |reason| Err(self.refuse(reason));
        let mut names = HashSet::new();
        for index in &self.indexes {
            if !names.insert(&index.name) {
                return refuse(format!("two indexes are named {}", index.name));
            }
        }
        let mut sets = HashSet::new();
        for set in &self.tile_sets {
            if !sets.insert((&set.name, set.version)) {
                return refuse(format!("two tile sets are {} {}", set.name, set.version));
            }
            if self.index(&set.index).is_none() {
                return refuse(format!(
                    "tile set {} is of index {}, which is not there",
                    set.name, set.index
                ));
            }
            if set.spans.iter().any(|span| *span <= 0) || set.spans.len() > usize::from(u8::MAX) {
                return refuse(format!(
                    "tile set {} wants up to 255 levels of spans above 0",
                    set.name
                ));
            }
        }
        Ok(())
    }
}

/// A way to find events by key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexSpec {
    /// Means one way to make a key for ever: another way is another name.
    pub name: String,
}

/// Pre-aggregated values of the events of one index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TileSetSpec {
    pub name: String,
    /// Another version has none of the tiles of this one.
    pub version: u32,
    /// Name of an index of the stream.
    pub index: String,
    /// Length in microseconds of the tiles of each level, all above 0. A tile
    /// covers the event times [start, start + span), start a multiple of span.
    pub spans: Vec<i64>,
}

impl TileSetSpec {
    /// The start of the tile of this level that covers `t`.
    pub fn start(&self, level: usize, t: UtcMicros) -> UtcMicros {
        let span = self.spans[level];
        UtcMicros(t.0.div_euclid(span).saturating_mul(span))
    }
}
