//! A sample of rows by the hash of their keys: the same keys whenever they are
//! asked for, wherever they stand, and however many others there are.

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, filter_record_batch, take_record_batch};
use arrow::datatypes::SchemaRef;
use granary_model::definitions::Column;
use granary_store::EntityKeys;

use super::wrong;
use crate::error::ServingError;

/// The rows of the least hashes.
#[derive(Debug)]
pub struct Sampler {
    rows_max: usize,
    seed: u64,
    /// Whether of rows with equal keys one is kept.
    distinct: bool,
    schema: SchemaRef,
    keys: Vec<Column>,
    /// Parallel to the rows of `parts`.
    hashes: Vec<(u64, Vec<u8>)>,
    parts: Vec<RecordBatch>,
    /// Whatever has a greater hash is not in the sample.
    greatest: u64,
    offered: u64,
}

/// The hash that decides whether an entity is in a sample; of its encoded key.
pub fn hash_of_key(key: &[u8]) -> u64 {
    // FNV-1a, and a last stir so that the upper bits depend on all of the key.
    let folded = key.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let stirred = (folded ^ (folded >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    stirred ^ (stirred >> 33)
}

impl Sampler {
    /// Of each entity one row; those without a key are left out.
    pub fn of_entities(schema: SchemaRef, keys: Vec<Column>, rows_max: usize) -> Self {
        Self::new(schema, keys, rows_max, true)
    }

    /// Any rows, several of an entity among them.
    pub fn of_rows(schema: SchemaRef, keys: Vec<Column>, rows_max: usize) -> Self {
        Self::new(schema, keys, rows_max, false)
    }

    /// Another sample.
    #[must_use]
    pub fn with_seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    fn new(schema: SchemaRef, keys: Vec<Column>, rows_max: usize, distinct: bool) -> Self {
        Self {
            rows_max,
            seed: 0,
            distinct,
            schema,
            keys,
            hashes: Vec::new(),
            parts: Vec::new(),
            greatest: u64::MAX,
            offered: 0,
        }
    }

    /// Takes in rows, whose columns have the keys' names among them.
    pub fn offer(&mut self, rows: &RecordBatch) -> Result<(), ServingError> {
        let arrays = self.keys.iter().map(|key| {
            let missing = || ServingError::Invalid(format!("no key column {}", key.name));
            rows.column_by_name(&key.name).cloned().ok_or_else(missing)
        });
        let arrays = arrays.collect::<Result<Vec<ArrayRef>, _>>()?;
        let keys = match arrays.is_empty() {
            true => EntityKeys::default(),
            false => EntityKeys::encode(&self.keys, &arrays)?,
        };
        let mut kept = vec![false; rows.num_rows()];
        for (row, keep) in kept.iter_mut().enumerate() {
            let key = if arrays.is_empty() {
                None
            } else {
                keys.get(row)
            };
            let mut bytes = match (key, self.distinct) {
                (None, true) => continue,
                (key, _) => key.unwrap_or_default().to_vec(),
            };
            if !self.distinct {
                bytes.extend(self.offered.to_be_bytes());
                self.offered += 1;
            }
            let hash = match self.seed {
                0 => hash_of_key(&bytes),
                seed => hash_of_key(&[&bytes[..], &seed.to_be_bytes()].concat()),
            };
            if hash <= self.greatest {
                *keep = true;
                self.hashes.push((hash, bytes));
            }
        }
        let kept = BooleanArray::from(kept);
        if kept.true_count() > 0 {
            let part = filter_record_batch(rows, &kept).map_err(|e| wrong(&e))?;
            self.parts.push(part);
        }
        if self.hashes.len() > 4 * self.rows_max.max(1_000) {
            self.settle()?;
        }
        Ok(())
    }

    /// The sample.
    pub fn finish(mut self) -> Result<RecordBatch, ServingError> {
        self.settle()?;
        let schema = &self.schema;
        concat_batches(schema, &self.parts).map_err(|e| wrong(&e))
    }

    /// Lets go of what is not in the sample so far.
    fn settle(&mut self) -> Result<(), ServingError> {
        let mut order: Vec<u32> = (0..self.hashes.len() as u32).collect();
        let hash = |row: &u32| &self.hashes[*row as usize];
        order.sort_by(|a, b| hash(a).cmp(hash(b)));
        order.dedup_by(|a, b| hash(a) == hash(b));
        order.truncate(self.rows_max);
        if let (true, Some(last)) = (order.len() == self.rows_max, order.last()) {
            self.greatest = hash(last).0;
        }
        let hashes = order.iter().map(|row| hash(row).clone());
        let hashes = hashes.collect();
        let all = concat_batches(&self.schema, &self.parts).map_err(|e| wrong(&e))?;
        let order = UInt32Array::from(order);
        self.parts = vec![take_record_batch(&all, &order).map_err(|e| wrong(&e))?];
        self.hashes = hashes;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{AsArray, Int64Array};
    use arrow::datatypes::Int64Type;
    use granary_model::FeatureType;

    use super::*;

    fn batch(ids: impl IntoIterator<Item = Option<i64>>) -> RecordBatch {
        let ids: Int64Array = ids.into_iter().collect();
        RecordBatch::try_from_iter_with_nullable([("id", Arc::new(ids) as _, true)]).unwrap()
    }

    fn sample(rows_max: usize, batches: &[RecordBatch]) -> Vec<i64> {
        let keys = vec![Column::new("id", FeatureType::BigInt)];
        let mut sampler = Sampler::of_entities(batches[0].schema(), keys, rows_max);
        for batch in batches {
            sampler.offer(batch).unwrap();
        }
        let sample = sampler.finish().unwrap();
        sample
            .column(0)
            .as_primitive::<Int64Type>()
            .values()
            .to_vec()
    }

    #[test]
    fn a_sample_is_the_same_in_any_order() {
        let all: Vec<Option<i64>> = (0..20_000).map(Some).chain([None]).collect();
        let forward = [batch(all.clone())];
        let backward: Vec<RecordBatch> = { all.chunks(7).rev() }
            .map(|ids| batch(ids.iter().rev().copied().chain([Some(3)])))
            .collect();
        let some = sample(50, &forward);
        assert_eq!(some.len(), 50);
        assert_eq!(some, sample(50, &backward));
        // A larger one has the smaller in it.
        assert_eq!(some, sample(500, &forward)[..50]);
        assert_eq!(sample(9, &[batch([Some(1), Some(1), None])]), [1]);
    }
}
