//! A multiset of rows that is moved from range to range: what enters is added,
//! what leaves is removed. Only for what can be removed exactly.

use super::RowRange;

/// Rows of which it is known which are in.
pub(super) trait Multiset {
    fn add(&mut self, row: u32);
    fn remove(&mut self, row: u32);
}

/// Calls `at` with the rows of each range in the set; with no set for a range
/// without rows.
pub(super) fn slide<M: Multiset>(
    ranges: &[RowRange],
    mut set: M,
    mut at: impl FnMut(Option<&M>, &RowRange),
) {
    let mut window = 0..0;
    for range in ranges {
        if range.is_empty() {
            // The next one rarely is far from the last.
            at(None, range);
            continue;
        }
        if range.start >= window.end || range.end <= window.start {
            window.for_each(|row| set.remove(row));
            window = range.start..range.start;
        }
        // In this order, so that nothing is removed that is not in.
        (range.start..window.start).for_each(|row| set.add(row));
        (window.end..range.end).for_each(|row| set.add(row));
        (window.start..range.start).for_each(|row| set.remove(row));
        (range.end..window.end).for_each(|row| set.remove(row));
        window = range.clone();
        at(Some(&set), range);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Panics where a row is added twice or removed without being in.
    struct Rows(std::collections::BTreeSet<u32>);

    impl Multiset for Rows {
        fn add(&mut self, row: u32) {
            assert!(self.0.insert(row), "{row} is in");
        }

        fn remove(&mut self, row: u32) {
            assert!(self.0.remove(&row), "{row} is not in");
        }
    }

    #[test]
    fn the_rows_of_every_range_are_in() {
        let bounds = (0..7u32).flat_map(|start| (start..7).map(move |end| start..end));
        let all: Vec<RowRange> = bounds.collect();
        // Every range after every other.
        let pairs = all
            .iter()
            .flat_map(|a| all.iter().flat_map(move |b| [a, b]));
        let ranges: Vec<RowRange> = pairs.cloned().collect();
        let mut seen = 0;
        slide(&ranges, Rows(Default::default()), |rows, range| {
            let rows = rows.map(|rows| rows.0.iter().copied().collect::<Vec<u32>>());
            assert_eq!(
                rows.unwrap_or_default(),
                range.clone().collect::<Vec<u32>>()
            );
            seen += 1;
        });
        assert_eq!(seen, ranges.len());
    }
}
