//! Sets of keys as bits: one bit for each key of a range.

use std::ops::Range;

/// Returns the number of 64-bit words that have one bit for each key of a range.
pub(crate) fn words(range: &Range<u64>) -> u64 {
    (range.end - range.start).div_ceil(64)
}

/// Calls `each` with every key whose bit is set, in ascending order.
#[inline]
pub(crate) fn each_bit(range: &Range<u64>, bits: &[u64], mut each: impl FnMut(u64)) {
    for (word, base) in bits.iter().zip((range.start..).step_by(64)) {
        let mut rest = *word;
        while rest != 0 {
            each(base + u64::from(rest.trailing_zeros()));
            rest &= rest - 1;
        }
    }
}
