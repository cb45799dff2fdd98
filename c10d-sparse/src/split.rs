//! Which rank reduces which keys: ranges that hold about equally many entries.

use std::ops::Range;

use crate::keys::Key;

/// One range per rank, in order, which together are all keys below `space`. `samples`: for each rank how many entries it
/// has, and keys of them at equal distances. Everybody computes the same.
pub(crate) fn split<K: Key>(space: u64, samples: &[(usize, Vec<K>)]) -> Vec<Range<u64>> {
    let ranks = samples.len() as u128;
    // A sampled key stands for as many entries as there are up to the next one.
    let mut keys: Vec<(K, u128)> = Vec::new();
    for (nnz, sample) in samples {
        let place = |i: usize| i as u128 * *nnz as u128 / sample.len() as u128;
        keys.extend(sample.iter().enumerate().map(|(i, key)| (*key, place(i + 1) - place(i))));
    }
    keys.sort_unstable();
    let total: u128 = keys.iter().map(|(_, weight)| weight).sum();
    let (mut ranges, mut begin, mut before, mut i) = (Vec::with_capacity(samples.len()), 0, 0, 0);
    for rank in 1..ranks {
        while i < keys.len() && before * ranks < total * rank {
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
            // Skewed: squares.
            let sample = |r: u64| (1000, (0..200u32).map(|i| i * i + r as u32).collect::<Vec<_>>());
            let samples: Vec<_> = (0..ranks).map(sample).collect();
            let ranges = split(1 << 20, &samples);
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
    fn few_or_no_entries() {
        assert_eq!(split::<u32>(10, &[(0, vec![]), (0, vec![])]), [0..10, 10..10]);
        assert_eq!(split::<u64>(10, &[(1, vec![4]), (0, vec![]), (0, vec![])]), [0..10, 10..10, 10..10]);
        assert_eq!(split::<u64>(0, &[(0, vec![]), (0, vec![])]), [0..0, 0..0]);
        let ranges = split::<u64>(10, &[(2, vec![4, 6]), (1, vec![4])]);
        assert_eq!(ranges, [0..6, 6..10]);
    }
}
