//! The values that ranks put into their buffers, and the expected results.
//!
//! A piece (a tensor, or a rank's part of a tensor) repeats a pattern of small whole numbers. The pattern depends on
//! the rank and on the number of the piece, so that the check finds data of a wrong rank, piece or position. The
//! numbers are so small that sums, products, minima, maxima and bitwise operations are exact in every element type.
//! Averages and scaled sums are compared with a tolerance. At each place of a sum, at most [`TERMS`] ranks have a
//! number other than 0 (of an average: [`AVERAGED`] ranks), so the results stay small for any number of ranks.

use c10d::{DType, ReduceOp};

use super::sample::Sample;

/// The period of the pattern. It is prime, so that a shift by any chunk size is noticed.
const PERIOD: usize = 251;
/// The largest number of terms of a sum that are not 0. Each is at most 4, so the sum is at most 256. `bf16` can
/// represent all whole numbers up to 256.
const TERMS: u32 = 64;
/// The largest number of terms of an average that are not 0. There are few, since each addition may round the sum.
const AVERAGED: u32 = 4;

/// Returns the number at index `i` of piece `piece` of `rank`'s buffers.
fn number(rank: u32, piece: usize, i: usize) -> u64 {
    let mut x = (u64::from(rank) + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)
        ^ (piece as u64 + 1).wrapping_mul(0xBF58_476D_1CE4_E5B9)
        ^ (i as u64 + 1).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^= x >> 31;
    x = x.wrapping_mul(0xD6E8_FEB8_6659_FD93);
    x >> 33
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Patterns {
    pub(super) ranks: u32,
    pub(super) dtype: DType,
    /// The reduce operation; `None` if values are only moved.
    pub(super) reduce: Option<ReduceOp>,
}

impl Patterns {
    /// Returns the values that `rank` puts into piece `piece`.
    pub(super) fn given<T: Sample>(&self, rank: u32, piece: usize) -> Vec<T> {
        (0..PERIOD).map(|i| T::whole(self.value(rank, piece, i))).collect()
    }

    /// Returns the expected reduction of the ranks' pieces that have the number `piece`.
    pub(super) fn reduced<T: Sample>(&self, piece: usize) -> Vec<T> {
        (0..PERIOD).map(|i| T::whole(self.combined(piece, i))).collect()
    }

    pub(super) fn zeros<T: Sample>() -> Vec<T> {
        vec![T::whole(0); PERIOD]
    }

    /// Returns the allowed relative deviation from the expected value. Averages and scaled sums are not exact: backends
    /// round them in different ways.
    pub(super) fn tolerance(&self) -> f64 {
        match self.reduce {
            Some(ReduceOp::Avg | ReduceOp::PreMulSum(_)) if self.dtype.size() == 2 => 2e-2,
            Some(ReduceOp::Avg | ReduceOp::PreMulSum(_)) => 1e-5,
            _ => 0.0,
        }
    }

    fn value(&self, rank: u32, piece: usize, i: usize) -> i64 {
        let x = number(rank, piece, i);
        let value = match self.reduce {
            _ if self.dtype == DType::Bool => x % 2,
            None => x % 113,
            Some(ReduceOp::Sum | ReduceOp::PreMulSum(_)) => x % 5 * self.weight(rank, piece, i, TERMS),
            Some(ReduceOp::Avg) => u64::from(self.ranks) * (x % 3) * self.weight(rank, piece, i, AVERAGED),
            Some(ReduceOp::Product) => 1 + x % 2 * u64::from(rank < 6),
            Some(_) => x % 113,
        };
        value as i64
    }

    /// Returns 1 if this rank may have a number other than 0 at this place of a sum, and 0 otherwise. At each place,
    /// the result is 1 for `most` ranks, or for all if there are fewer. For a rank that does not exist, it is always 1.
    fn weight(&self, rank: u32, piece: usize, i: usize, most: u32) -> u64 {
        let turn = u64::from(rank) + piece as u64 + i as u64 * u64::from(most);
        u64::from(rank >= self.ranks || turn % u64::from(self.ranks) < u64::from(most))
    }

    fn combined(&self, piece: usize, i: usize) -> i64 {
        let values = (0..self.ranks).map(|rank| self.value(rank, piece, i));
        let combined = match self.reduce {
            Some(ReduceOp::Sum) | None => values.reduce(|a, b| a + b),
            Some(ReduceOp::PreMulSum(factor)) => values.reduce(|a, b| a + b).map(|sum| (sum as f64 * factor) as i64),
            Some(ReduceOp::Avg) => values.reduce(|a, b| a + b).map(|sum| sum / i64::from(self.ranks)),
            Some(ReduceOp::Product) => values.reduce(|a, b| a * b),
            Some(ReduceOp::Min) => values.min(),
            Some(ReduceOp::Max) => values.max(),
            Some(ReduceOp::Band) => values.reduce(|a, b| a & b),
            Some(ReduceOp::Bor) => values.reduce(|a, b| a | b),
            Some(ReduceOp::Bxor) => values.reduce(|a, b| a ^ b),
        };
        combined.unwrap_or(0)
    }
}

pub(super) fn fill<T: Sample>(piece: &mut [T], pattern: &[T]) {
    for chunk in piece.chunks_mut(PERIOD) {
        chunk.copy_from_slice(&pattern[..chunk.len()]);
    }
}

/// Returns how many elements of `piece` differ from the repeated `pattern`.
pub(super) fn errors<T: Sample>(piece: &[T], pattern: &[T], tolerance: f64) -> u64 {
    let mut wrong = 0;
    for chunk in piece.chunks(PERIOD) {
        if *chunk != pattern[..chunk.len()] {
            wrong += chunk.iter().zip(pattern).filter(|(a, b)| !a.is_near(**b, tolerance)).count() as u64;
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    #[test]
    fn a_wrong_element_is_counted() {
        let p = Patterns { ranks: 4, dtype: DType::F32, reduce: Some(ReduceOp::Sum) };
        let pattern = p.reduced::<f32>(0);
        let mut piece = vec![0f32; 1000];
        fill(&mut piece, &pattern);
        assert_eq!(errors(&piece, &pattern, 0.0), 0);
        piece[999] += 1.0;
        piece[0] = f32::NAN;
        assert_eq!(errors(&piece, &pattern, 1e-5), 2);
    }

    #[test]
    fn ranks_pieces_and_places_differ() {
        let p = Patterns { ranks: 4, dtype: DType::U8, reduce: None };
        assert_ne!(p.given::<u8>(0, 0), p.given::<u8>(1, 0));
        assert_ne!(p.given::<u8>(0, 0), p.given::<u8>(0, 1));
        let mut piece = vec![0u8; 4096];
        fill(&mut piece, &p.given(0, 0));
        piece.rotate_left(1024);
        assert!(errors(&piece, &p.given(0, 0), 0.0) > 2048);
    }

    /// Sums the values of `last` ranks in `bf16`, beginning with rank `first`, and rounds after each addition.
    fn summed(p: &Patterns, first: u32, last: u32) -> Vec<bf16> {
        let order = (0..p.ranks).map(|rank| p.given::<bf16>((rank + first) % p.ranks, 3)).take(last as usize);
        order.reduce(|a, b| a.iter().zip(&b).map(|(a, b)| bf16::from_f32(a.to_f32() + b.to_f32())).collect()).unwrap()
    }

    #[test]
    fn sums_of_many_ranks_have_no_errors() {
        for ranks in [2, 63, 64, 65, 100, 200, 1024] {
            let sum = Patterns { ranks, dtype: DType::BF16, reduce: Some(ReduceOp::Sum) };
            let avg = Patterns { reduce: Some(ReduceOp::Avg), ..sum };
            for first in [0, ranks / 2] {
                assert_eq!(errors(&summed(&sum, first, ranks), &sum.reduced(3), sum.tolerance()), 0, "{ranks}");
                let averages = summed(&avg, first, ranks);
                let averages: Vec<bf16> = averages.iter().map(|x| bf16::from_f32(x.to_f32() / ranks as f32)).collect();
                assert_eq!(errors(&averages, &avg.reduced(3), avg.tolerance()), 0, "{ranks}");
                assert_ne!(errors(&summed(&sum, first, ranks - 1), &sum.reduced(3), sum.tolerance()), 0, "{ranks}");
            }
        }
    }

    #[test]
    fn reductions_stay_within_the_smallest_types() {
        for reduce in [ReduceOp::Sum, ReduceOp::Product, ReduceOp::Max, ReduceOp::Bxor] {
            let p = Patterns { ranks: 640, dtype: DType::BF16, reduce: Some(reduce) };
            assert!((0..PERIOD).all(|i| (0..=256).contains(&p.combined(3, i))), "{reduce}");
        }
    }
}
