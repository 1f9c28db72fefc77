//! How many distinct values: a HyperLogLog sketch.
//!
//! Source: Flajolet et al., "HyperLogLog: the analysis of a near-optimal
//! cardinality estimation algorithm" (2007), with linear counting for small
//! numbers as given there, over 64-bit hashes, so that no correction for large
//! numbers is needed. The standard error with 2^12 registers is 1.6 %.

const INDEX_BITS: u32 = 12;
const REGISTERS: usize = 1 << INDEX_BITS;

/// Counts distinct 64-bit hashes; the same value must have the same hash everywhere.
#[derive(Debug, Clone)]
pub(crate) struct DistinctSketch {
    registers: Box<[u8]>,
}

impl Default for DistinctSketch {
    fn default() -> Self {
        Self {
            registers: vec![0; REGISTERS].into_boxed_slice(),
        }
    }
}

impl DistinctSketch {
    pub(crate) fn add(&mut self, hash: u64) {
        let index = (hash >> (64 - INDEX_BITS)) as usize;
        // The bit below the index ends the run of zeros, however long it is.
        let rank = ((hash << INDEX_BITS) | (1 << (INDEX_BITS - 1))).leading_zeros() as u8 + 1;
        if self.registers[index] < rank {
            self.registers[index] = rank;
        }
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.registers.iter_mut().zip(&other.registers) {
            *mine = (*mine).max(*theirs);
        }
    }

    pub(crate) fn estimate(&self) -> u64 {
        let m = REGISTERS as f64;
        let alpha = 0.7213 / (1.0 + 1.079 / m);
        let sum: f64 = self
            .registers
            .iter()
            .map(|r| 0.5f64.powi(i32::from(*r)))
            .sum();
        let raw = alpha * m * m / sum;
        let empty = self.registers.iter().filter(|r| **r == 0).count();
        if raw <= 2.5 * m && empty > 0 {
            return (m * (m / empty as f64).ln()).round() as u64;
        }
        raw.round() as u64
    }
}

#[cfg(test)]
mod tests {
    use std::hash::BuildHasher;

    use datafusion::common::hash_utils::HLL_RANDOM_STATE;

    use super::*;

    fn sketch(values: std::ops::Range<u64>) -> DistinctSketch {
        let mut sketch = DistinctSketch::default();
        values.for_each(|v| sketch.add(HLL_RANDOM_STATE.hash_one(v)));
        sketch
    }

    #[test]
    fn the_estimate_is_within_five_standard_errors() {
        for distinct in [0u64, 1, 2, 100, 5_000, 12_000, 300_000] {
            let estimate = sketch(0..distinct).estimate();
            let error = estimate.abs_diff(distinct) as f64;
            assert!(error <= 0.08 * distinct as f64, "{distinct}: {estimate}");
        }
    }

    #[test]
    fn merging_is_counting_both() {
        let mut merged = sketch(0..60_000);
        merged.merge(&sketch(40_000..100_000));
        assert_eq!(merged.estimate(), sketch(0..100_000).estimate());
    }
}
