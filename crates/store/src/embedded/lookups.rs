//! Reads of many keys from many generations, their visits to memory under way
//! side by side.
//!
//! A row is found in two steps, its slot and its record, and each waits for
//! memory: a key after the other would wait for all of them in turn. So keys are
//! taken in groups, and a step is begun for the whole group before the next.

use std::sync::Arc;

use super::base::{BaseFile, Candidate, KeyHash};
use super::generation::EmbeddedGeneration;
use crate::error::StoreError;
use crate::keys::EntityKeys;
use crate::online::{Generation, RowSink};

/// Look-ups of a group: what they have on its way fits into the first cache.
const GROUP: usize = 64;

/// A generation that its base alone answers.
struct Unchanged<'a> {
    index: usize,
    base: &'a BaseFile,
    default_row: Option<&'a [u8]>,
}

pub(super) fn read_all(
    keys: &EntityKeys,
    generations: &[Arc<dyn Generation>],
    sink: &mut dyn RowSink,
) -> Result<(), StoreError> {
    let mut unchanged = Vec::with_capacity(generations.len());
    for (index, pinned) in generations.iter().enumerate() {
        let generation = pinned
            .as_any()
            .downcast_ref::<EmbeddedGeneration>()
            .ok_or_else(|| StoreError::foreign(pinned.as_ref()))?;
        match generation.unchanged() {
            Some(base) => unchanged.push(Unchanged {
                index,
                base,
                default_row: generation.default_row(),
            }),
            None => generation.read_changed(index, keys, sink)?,
        }
    }
    read_unchanged(keys, &unchanged, sink)
}

fn read_unchanged(
    keys: &EntityKeys,
    generations: &[Unchanged<'_>],
    sink: &mut dyn RowSink,
) -> Result<(), StoreError> {
    let step = (GROUP / generations.len().max(1)).clamp(1, keys.len().max(1));
    let mut hashes: [KeyHash; GROUP] = [KeyHash::default(); GROUP];
    let mut candidates: Vec<Option<Candidate>> = Vec::with_capacity(step * generations.len());
    for first in (0..keys.len()).step_by(step) {
        let group = first..(first + step).min(keys.len());
        for (entity, hash) in group.clone().zip(&mut hashes) {
            let Some(key) = keys.get(entity) else {
                continue;
            };
            *hash = KeyHash::of(key);
            for generation in generations {
                generation.base.prefetch(*hash);
            }
        }
        candidates.clear();
        for (_, hash) in group.clone().zip(&hashes) {
            let found = generations.iter().map(|g| g.base.candidate(*hash));
            candidates.extend(found);
        }
        let mut found = candidates.iter();
        for (entity, hash) in group.zip(&hashes) {
            let of_entity = generations.iter().zip(&mut found);
            let Some(key) = keys.get(entity) else {
                of_entity.for_each(drop);
                continue;
            };
            for (generation, candidate) in of_entity {
                let row = match candidate {
                    Some(candidate) => generation.base.row_from(*candidate, *hash, key)?,
                    None => None,
                };
                if let Some(row) = row.or(generation.default_row) {
                    sink.row(generation.index, entity, row);
                }
            }
        }
    }
    Ok(())
}
