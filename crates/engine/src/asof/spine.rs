//! A part of the spine in memory: its rows grouped by key, by time within a key.

use std::ops::Range;

use arrow::array::{Array, ArrayRef, Int64Array};
use datafusion::error::{DataFusionError, Result};

use super::keys::{KeyGroups, NO_GROUP};

/// Rows of a spine. A *position* counts rows by (group, time); rows with a NULL
/// key or time have none, since nothing is known of them.
#[derive(Debug)]
pub struct Spine {
    groups: KeyGroups,
    /// Positions of group g: `starts[g]..starts[g + 1]`.
    starts: Vec<u32>,
    /// Time of each position.
    times: Vec<i64>,
    /// Row of each position.
    rows: Vec<u32>,
    row_count: usize,
}

impl Spine {
    /// `keys`: a column each; `times`: UTC microseconds; all of one length,
    /// which is below 2^32.
    pub fn new(keys: &[ArrayRef], times: &Int64Array) -> Result<Self> {
        let row_count = times.len();
        if u32::try_from(row_count).is_err() {
            return Err(DataFusionError::ResourcesExhausted(format!(
                "a part of a spine has {row_count} rows, 4294967295 at most are possible"
            )));
        }
        let (groups, ids) = KeyGroups::build(keys)?;
        let placed = |row: usize| ids[row] != NO_GROUP && times.is_valid(row);
        let mut starts = vec![0u32; groups.len() + 1];
        for row in (0..row_count).filter(|row| placed(*row)) {
            starts[ids[row] as usize + 1] += 1;
        }
        for group in 0..groups.len() {
            starts[group + 1] += starts[group];
        }
        let total = starts[groups.len()] as usize;
        let mut next = starts.clone();
        let mut pairs = vec![(0i64, 0u32); total];
        for row in (0..row_count).filter(|row| placed(*row)) {
            let at = &mut next[ids[row] as usize];
            pairs[*at as usize] = (times.value(row), row as u32);
            *at += 1;
        }
        for bounds in starts.windows(2) {
            pairs[bounds[0] as usize..bounds[1] as usize].sort_unstable();
        }
        let (times, rows) = pairs.into_iter().unzip();
        Ok(Self {
            groups,
            starts,
            times,
            rows,
            row_count,
        })
    }

    /// Rows with and without a position.
    pub fn row_count(&self) -> usize {
        self.row_count
    }

    pub fn position_count(&self) -> usize {
        self.times.len()
    }

    pub fn group_count(&self) -> usize {
        self.groups.len()
    }

    /// The group of the key in each row of `keys`, into `found`; `u32::MAX` for
    /// a key that the spine does not have.
    pub fn find(&self, keys: &[ArrayRef], found: &mut Vec<u32>) -> Result<()> {
        self.groups.find(keys, found)
    }

    /// Times of all positions, ascending within a group.
    pub fn times(&self) -> &[i64] {
        &self.times
    }

    /// The row of each position.
    pub fn rows(&self) -> &[u32] {
        &self.rows
    }

    /// Positions of a group.
    pub fn positions(&self, group: u32) -> Range<usize> {
        let group = group as usize;
        self.starts[group] as usize..self.starts[group + 1] as usize
    }

    /// The first position of a group whose time is at or after `time`.
    pub fn first_from(&self, group: u32, time: i64) -> Option<usize> {
        let Range { start, end } = self.positions(group);
        // Most keys have few rows: the first look often is the last.
        if start == end || self.times[end - 1] < time {
            return None;
        }
        if self.times[start] >= time {
            return Some(start);
        }
        Some(start + self.times[start..end].partition_point(|t| *t < time))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn positions_are_by_group_and_time() {
        let keys: ArrayRef = Arc::new(Int64Array::from(vec![
            Some(9),
            Some(4),
            Some(9),
            None,
            Some(4),
        ]));
        let times = Int64Array::from(vec![Some(30), Some(5), Some(10), Some(1), None]);
        let spine = Spine::new(&[keys], &times).unwrap();
        assert_eq!(spine.row_count(), 5);
        assert_eq!(spine.rows(), [2, 0, 1]);
        assert_eq!(spine.times(), [10, 30, 5]);
        let at = |time| spine.first_from(0, time);
        assert_eq!(
            [at(1), at(10), at(11), at(30), at(31)],
            [Some(0), Some(0), Some(1), Some(1), None]
        );
        assert_eq!(spine.first_from(1, 5), Some(2));
    }
}
