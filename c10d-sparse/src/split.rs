//! Divides the keys into ranges with about the same number of entries, one range per rank.

use std::ops::Range;

use crate::keys::Key;

/// The ranges of all ranks, each divided into chunks. All ranks compute the same ranges.
pub(crate) struct Ranges {
    chunks: Vec<Range<u64>>,
    per_rank: usize,
}

impl Ranges {
    /// Computes the ranges. `samples` has the number of entries of each rank, and a sample of its keys, at equal
    /// distances in the sorted list of keys.
    pub(crate) fn new<K: Key>(space: u64, samples: &[(usize, Vec<K>)], per_rank: usize) -> Ranges {
        let mut chunks = split(space, samples, samples.len() * per_rank);
        for chunks in chunks.chunks_mut(per_rank) {
            // If a range is stored as one bit for each key, a chunk begins at the first bit of a word.
            let begin = chunks[0].start;
            for i in 1..per_rank {
                let end = begin + (chunks[i].start - begin) / 64 * 64;
                (chunks[i - 1].end, chunks[i].start) = (end, end);
            }
        }
        Ranges { chunks, per_rank }
    }

    pub(crate) fn per_rank(&self) -> usize {
        self.per_rank
    }

    pub(crate) fn of(&self, rank: usize) -> Range<u64> {
        let chunks = self.chunks_of(rank);
        chunks[0].start..chunks[self.per_rank - 1].end
    }

    pub(crate) fn chunks_of(&self, rank: usize) -> &[Range<u64>] {
        &self.chunks[rank * self.per_rank..(rank + 1) * self.per_rank]
    }

    pub(crate) fn chunks(&self) -> &[Range<u64>] {
        &self.chunks
    }

    pub(crate) fn ranges(&self) -> impl Iterator<Item = Range<u64>> {
        (0..self.chunks.len() / self.per_rank).map(|rank| self.of(rank))
    }
}

/// Divides all keys below `space` into `parts` ranges, which are in order.
fn split<K: Key>(space: u64, samples: &[(usize, Vec<K>)], parts: usize) -> Vec<Range<u64>> {
    let parts = parts as u128;
    // A sampled key represents all entries from it up to the next sampled key.
    let mut keys: Vec<(K, u128)> = Vec::new();
    for (nnz, sample) in samples {
        let place = |i: usize| i as u128 * *nnz as u128 / sample.len() as u128;
        keys.extend(sample.iter().enumerate().map(|(i, key)| (*key, place(i + 1) - place(i))));
    }
    keys.sort_unstable();
    let total: u128 = keys.iter().map(|(_, weight)| weight).sum();
    let (mut ranges, mut begin, mut before, mut i) = (Vec::with_capacity(parts as usize), 0, 0, 0);
    for part in 1..parts {
        while i < keys.len() && before * parts < total * part {
            before += keys[i].1;
            i += 1;
        }
        let end = keys.get(i).map_or(space, |(key, _)| key.number()).max(begin);
        ranges.push(begin..end);
        begin = end;
    }
    ranges.push(begin..space);
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_a_partition_of_equal_parts() {
        for ranks in 1..9u64 {
            // The keys are squares, so they are not spread evenly.
            let sample = |r: u64| (1000, (0..200u32).map(|i| i * i + r as u32).collect::<Vec<_>>());
            let samples: Vec<_> = (0..ranks).map(sample).collect();
            let ranges = split(1 << 20, &samples, ranks as usize);
            assert_eq!((ranges.len() as u64, ranges[0].start, ranges.last().unwrap().end), (ranks, 0, 1 << 20));
            assert!(ranges.windows(2).all(|pair| pair[0].end == pair[1].start));
            for range in ranges {
                let inside = |key: &&u32| range.contains(&u64::from(**key));
                let held: usize = samples.iter().map(|(_, keys)| keys.iter().filter(inside).count()).sum();
                assert!((held as i64 - 200).abs() < 10, "{held} of 200");
            }
        }
    }

    #[test]
    fn ranges_of_few_or_no_entries_cover_all_keys() {
        assert_eq!(split::<u32>(10, &[(0, vec![]), (0, vec![])], 2), [0..10, 10..10]);
        assert_eq!(split::<u64>(10, &[(1, vec![4]), (0, vec![]), (0, vec![])], 3), [0..10, 10..10, 10..10]);
        assert_eq!(split::<u64>(0, &[(0, vec![]), (0, vec![])], 2), [0..0, 0..0]);
        let ranges = split::<u64>(10, &[(2, vec![4, 6]), (1, vec![4])], 2);
        assert_eq!(ranges, [0..6, 6..10]);
    }

    #[test]
    fn chunks_begin_at_the_first_bit_of_a_word() {
        let samples: Vec<_> = (0..3).map(|r| (5000, (0..240u32).map(|i| i * i * 7 + r).collect::<Vec<_>>())).collect();
        let ranges = Ranges::new(1 << 20, &samples, 8);
        assert!(ranges.chunks().windows(2).all(|pair| pair[0].end == pair[1].start));
        for rank in 0..3 {
            let range = ranges.of(rank);
            assert_eq!(ranges.chunks_of(rank).len(), 8);
            assert!(ranges.chunks_of(rank).iter().all(|chunk| (chunk.start - range.start).is_multiple_of(64)));
        }
        assert_eq!((ranges.of(0).start, ranges.of(2).end), (0, 1 << 20));
    }
}
