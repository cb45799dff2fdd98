//! The division of a slice into one part per rank, and of each part into pieces, one per round.

use std::ops::Range;

/// The number of bytes that one rank receives in a round, from all ranks together (more if elements are very large).
/// With this number the bytes stay in the cache until they are combined.
const ROUND_BYTES: usize = 512 << 10;

/// The lengths of the parts and pieces.
pub(super) struct Cut {
    len: usize,
    ranks: usize,
    piece: usize,
}

impl Cut {
    /// Divides `len` elements of `bytes` bytes each over `ranks`. The first parts have one element more if the length
    /// does not divide evenly.
    pub(super) fn new(len: usize, ranks: u32, bytes: usize) -> Cut {
        let ranks = ranks as usize;
        Cut { len, ranks, piece: (ROUND_BYTES / ranks / bytes.max(1)).max(1) }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Returns the number of rounds, at least 1: in the first round the ranks compare their lengths.
    pub(super) fn rounds(&self) -> usize {
        self.len.div_ceil(self.ranks).div_ceil(self.piece).max(1)
    }

    /// Returns the number of elements of the longest piece.
    pub(super) fn piece(&self) -> usize {
        self.piece.min(self.len.div_ceil(self.ranks))
    }

    /// Returns the range of the piece of this rank and round.
    pub(super) fn at(&self, rank: usize, round: usize) -> Range<usize> {
        let (each, longer) = (self.len / self.ranks, self.len % self.ranks);
        let start = rank * each + rank.min(longer);
        let end = start + each + usize::from(rank < longer);
        let from = start.saturating_add(round.saturating_mul(self.piece)).min(end);
        from..from.saturating_add(self.piece).min(end)
    }

    /// Returns the pieces of a round, in rank order.
    pub(super) fn pieces<'a, T>(&self, x: &'a [T], round: usize) -> Vec<&'a [T]> {
        (0..self.ranks).map(|rank| &x[self.at(rank, round)]).collect()
    }

    /// Returns the pieces of a round, in rank order, for writing.
    pub(super) fn pieces_mut<'a, T>(&self, mut x: &'a mut [T], round: usize) -> Vec<&'a mut [T]> {
        let mut begun = 0;
        let piece = |rank| {
            let Range { start, end } = self.at(rank, round);
            let (_, rest) = std::mem::take(&mut x).split_at_mut(start - begun);
            let (piece, rest) = rest.split_at_mut(end - start);
            (x, begun) = (rest, end);
            piece
        };
        (0..self.ranks).map(piece).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_is_in_one_piece_and_pieces_are_in_order() {
        for ranks in 1..=5u32 {
            for len in [0, 1, 2, 3, 7, 100, 1000] {
                for bytes in [1 << 19, 1 << 17, 1 << 16] {
                    let cut = Cut::new(len, ranks, bytes);
                    let mut seen = vec![0; len];
                    for round in 0..cut.rounds() {
                        for (rank, piece) in cut.pieces_mut(&mut seen, round).into_iter().enumerate() {
                            assert!(piece.len() <= cut.piece() && piece.len() == cut.at(rank, round).len());
                            piece.iter_mut().for_each(|n| *n += 1);
                        }
                    }
                    assert!(seen.iter().all(|n| *n == 1), "{len} over {ranks}: {seen:?}");
                    let x: Vec<usize> = (0..len).collect();
                    let cut = &cut;
                    let all: Vec<usize> = (0..ranks as usize)
                        .flat_map(|r| (0..cut.rounds()).flat_map(move |round| cut.at(r, round)))
                        .collect();
                    assert_eq!(all, x);
                }
            }
        }
    }
}
