//! A tree of blocks: combines any range of values in O(fan-out · log n) steps,
//! without ever taking a value out again.

use super::RowRange;

const FAN_OUT: usize = 16;

/// A value that adjacent ranges can be combined to, in order.
pub(in crate::asof) trait Part: Copy {
    /// Of no rows.
    const EMPTY: Self;

    #[must_use]
    fn then(self, next: Self) -> Self;
}

/// Level 0 are the rows, a part of level i + 1 stands for 16 of level i.
pub(in crate::asof) struct Tree<P> {
    levels: Vec<Vec<P>>,
}

impl<P: Part> Tree<P> {
    pub(in crate::asof) fn new(rows: Vec<P>) -> Self {
        let mut levels = vec![rows];
        while let Some(below) = levels.last().filter(|below| below.len() > FAN_OUT) {
            let blocks = below.chunks(FAN_OUT);
            let level =
                blocks.map(|block| block.iter().fold(P::EMPTY, |all, part| all.then(*part)));
            let level = level.collect();
            levels.push(level);
        }
        Self { levels }
    }

    pub(in crate::asof) fn combine(&self, range: &RowRange) -> P {
        let (mut start, mut end) = (range.start as usize, range.end as usize);
        let (mut left, mut right) = (P::EMPTY, P::EMPTY);
        for level in &self.levels {
            while start < end && !start.is_multiple_of(FAN_OUT) {
                left = left.then(level[start]);
                start += 1;
            }
            while start < end && !end.is_multiple_of(FAN_OUT) {
                end -= 1;
                right = level[end].then(right);
            }
            // Whole blocks are left, but a short range needs no further level.
            if end - start <= FAN_OUT {
                for part in &level[start..end] {
                    left = left.then(*part);
                }
                return left.then(right);
            }
            start /= FAN_OUT;
            end /= FAN_OUT;
        }
        left.then(right)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// First and last row, and how many: any wrong order or count shows.
    #[derive(Debug, Clone, Copy, PartialEq)]
    struct Seen(Option<(usize, usize)>, usize);

    impl Part for Seen {
        const EMPTY: Self = Self(None, 0);

        fn then(self, next: Self) -> Self {
            let ends = match (self.0, next.0) {
                (Some((first, last)), Some((start, end))) => {
                    assert_eq!(last + 1, start, "parts are adjacent");
                    Some((first, end))
                }
                (ends, other) => ends.or(other),
            };
            Self(ends, self.1 + next.1)
        }
    }

    #[test]
    fn every_range_is_combined_in_order_and_once() {
        let rows = 700;
        let tree = Tree::new((0..rows).map(|row| Seen(Some((row, row)), 1)).collect());
        for start in 0..rows {
            for end in (start..=rows).step_by(7).chain([rows]) {
                let expected = match end - start {
                    0 => Seen::EMPTY,
                    count => Seen(Some((start, end - 1)), count),
                };
                let range = start as u32..end as u32;
                assert_eq!(tree.combine(&range), expected, "{range:?}");
            }
        }
    }
}
