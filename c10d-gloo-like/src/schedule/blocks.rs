//! The division of a space into one block per rank.

use std::ops::Range;

use crate::plan::{Region, Space};

/// The bytes of a space, divided into one block per rank.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Blocks<'a> {
    /// The `total` bytes are divided into units of `unit` bytes, of which the last may be shorter. The first `rem`
    /// blocks have `q + 1` units each, the others `q`.
    Even { total: usize, unit: usize, q: usize, rem: usize },
    /// The offset of each block, and the end of the last block.
    Listed(&'a [usize]),
}

/// If blocks have at least this many bytes, they begin on cache lines.
const ALIGN_FROM: usize = 1024;
const LINE: usize = 64;

impl Blocks<'static> {
    /// Makes `parts` blocks of `len` bytes each.
    pub(crate) fn uniform(parts: u32, len: usize) -> Self {
        Blocks::Even { total: len * parts as usize, unit: len, q: 1, rem: 0 }
    }

    /// Divides `total` bytes into `parts` blocks of about equal size, each a multiple of `elem` (a power of two).
    pub(crate) fn split(total: usize, parts: u32, elem: usize) -> Self {
        let parts = parts as usize;
        let unit = if total / parts >= ALIGN_FROM { LINE.max(elem) } else { elem };
        let units = total.div_ceil(unit);
        Blocks::Even { total, unit, q: units / parts, rem: units % parts }
    }
}

impl Blocks<'_> {
    /// Whether all blocks are known to have the same length.
    pub(crate) fn are_equal(&self) -> bool {
        matches!(self, Blocks::Even { rem: 0, total, unit, q } if total % (unit * q).max(1) == 0)
    }

    /// Returns the offset of rank `p`'s block; for `p` = world, the end of the last block.
    pub(crate) fn offset(&self, p: u32) -> usize {
        let p = p as usize;
        match *self {
            Blocks::Even { total, unit, q, rem } => ((p * q + p.min(rem)) * unit).min(total),
            Blocks::Listed(starts) => starts[p],
        }
    }

    pub(crate) fn len(&self, p: u32) -> usize {
        self.offset(p + 1) - self.offset(p)
    }

    pub(crate) fn region(&self, space: Space, p: u32) -> Region {
        space.at(self.offset(p), self.len(p))
    }

    /// Returns the blocks of consecutive ranks in `space`.
    pub(crate) fn range(&self, space: Space, ranks: Range<u32>) -> Region {
        let start = self.offset(ranks.start);
        space.at(start, self.offset(ranks.end) - start)
    }

    /// Returns `count` ranks from `first` on, around the circle of `world` ranks, as one or two ranges of consecutive
    /// ranks.
    pub(crate) fn circle(first: u32, count: u32, world: u32) -> impl Iterator<Item = Range<u32>> {
        let end = first + count;
        let wrapped = end.saturating_sub(world);
        [first..end.min(world), 0..wrapped].into_iter().filter(|r| !r.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_covers_all_in_whole_elements_and_evenly() {
        for parts in 1..=33 {
            for elem in [1, 2, 4, 8, 16] {
                for count in [0, 1, 2, 31, 33, 1000, 5000] {
                    let b = Blocks::split(count * elem, parts, elem);
                    let lens: Vec<_> = (0..parts).map(|p| b.len(p)).collect();
                    assert_eq!(b.offset(0), 0);
                    assert_eq!(b.offset(parts), count * elem);
                    assert!(lens.iter().all(|l| l % elem == 0));
                    let (min, max) = (lens.iter().min().unwrap(), lens.iter().max().unwrap());
                    assert!(max - min <= 2 * LINE.max(elem), "{lens:?}");
                }
            }
        }
    }

    #[test]
    fn a_circle_wraps_at_most_once() {
        let stretches = |f, c| Blocks::circle(f, c, 5).map(|r| (r.start, r.end)).collect::<Vec<_>>();
        assert_eq!(stretches(1, 3), [(1, 4)]);
        assert_eq!(stretches(3, 2), [(3, 5)]);
        assert_eq!(stretches(4, 3), [(4, 5), (0, 2)]);
        assert_eq!(stretches(2, 0), []);
    }
}
