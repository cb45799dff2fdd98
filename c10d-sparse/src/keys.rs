//! Converts the coordinates of an entry to one number, its key, and back.

use std::ops::Range;

use bytemuck::Pod;
use c10d_core::buffer::CooLayout;
use c10d_core::{Element, Error, Result};

use crate::bits::each_bit;
use crate::memory::zeroed;

/// A key: the row-major index of an entry in the sparse dimensions of the tensor.
pub(crate) trait Key: Element + Pod + Ord + std::hash::Hash {
    fn new(number: u64) -> Self;
    fn number(self) -> u64;
}

impl Key for u32 {
    #[inline]
    fn new(number: u64) -> u32 {
        number as u32
    }
    #[inline]
    fn number(self) -> u64 {
        self.into()
    }
}

impl Key for u64 {
    #[inline]
    fn new(number: u64) -> u64 {
        number
    }
    #[inline]
    fn number(self) -> u64 {
        self
    }
}

/// Returns the number of possible keys.
pub(crate) fn space(layout: &CooLayout) -> u64 {
    // The product does not overflow: validation rejects layouts with more possible keys.
    layout.sparse_shape().iter().map(|size| *size as u64).product()
}

/// Returns the keys of the entries, in the order of the entries.
///
/// # Errors
/// `InvalidArgument` if a coordinate is negative or too large.
pub(crate) fn linearise<K: Key>(layout: &CooLayout, indices: &[i64]) -> Result<Vec<K>> {
    let nnz = indices.len() / layout.sparse_dim;
    let sizes = layout.sparse_shape();
    let mut keys: Vec<K> = zeroed(nnz, 1)?;
    let mut stride = space(layout);
    for (dim, size) in sizes.iter().map(|size| *size as u64).enumerate() {
        // If a size is zero, every coordinate is out of range.
        stride = stride.checked_div(size).unwrap_or(0);
        let row = &indices[dim * nnz..(dim + 1) * nnz];
        let mut outside = false;
        if let [_] = sizes {
            for (key, index) in keys.iter_mut().zip(row) {
                outside |= *index as u64 >= size;
                *key = K::new(*index as u64);
            }
        }
        let several = if sizes.len() > 1 { &mut keys[..] } else { &mut [] };
        for (key, index) in several.iter_mut().zip(row) {
            // As an unsigned number, a negative index is too large.
            let index = *index as u64;
            outside |= index >= size;
            *key = K::new(key.number().wrapping_add(index.wrapping_mul(stride)));
        }
        if outside {
            let bad = row.iter().enumerate().find(|(_, index)| (**index as u64) >= size);
            let (entry, index) = bad.unwrap_or((0, &0));
            let what = format!("index {index} of entry {entry} is not within 0..{size}, dimension {dim} of the tensor");
            return Err(Error::invalid(what));
        }
    }
    Ok(keys)
}

/// Writes the coordinates of sorted entries, entry by entry, into `indices`, which has `sparse_dim` rows.
pub(crate) struct Columns<'a> {
    layout: &'a CooLayout,
    indices: &'a mut [i64],
    /// The column of the next entry.
    at: usize,
    /// The first key and the number of the previous entry's line. A line consists of the keys that differ only in the
    /// last coordinate.
    line: (u64, u64),
}

impl<'a> Columns<'a> {
    pub(crate) fn new(layout: &'a CooLayout, indices: &'a mut [i64]) -> Columns<'a> {
        Columns { layout, indices, at: 0, line: (0, 0) }
    }

    pub(crate) fn list<K: Key>(&mut self, keys: &[K]) {
        if self.layout.sparse_dim == 1 {
            self.indices[self.at..].iter_mut().zip(keys).for_each(|(index, key)| *index = key.number() as i64);
            self.at += keys.len();
        } else {
            keys.iter().for_each(|key| self.several(key.number()));
        }
    }

    pub(crate) fn bits(&mut self, range: &Range<u64>, bits: &[u64]) {
        if self.layout.sparse_dim == 1 {
            let all = self.indices.len();
            let mut free = self.indices[self.at..].iter_mut();
            each_bit(range, bits, |key| {
                if let Some(index) = free.next() {
                    *index = key as i64;
                }
            });
            self.at = all - free.len();
        } else {
            each_bit(range, bits, |key| self.several(key));
        }
    }

    fn several(&mut self, key: u64) {
        let (nnz, outer) = (self.indices.len() / self.layout.sparse_dim, self.layout.sparse_dim - 1);
        let last = self.layout.shape[outer] as u64;
        if key.wrapping_sub(self.line.0) >= last {
            let line = key / last;
            self.line = (line * last, line);
        }
        self.indices[outer * nnz + self.at] = (key - self.line.0) as i64;
        let mut rest = self.line.1;
        for (dim, size) in self.layout.shape[..outer].iter().enumerate().rev() {
            self.indices[dim * nnz + self.at] = (rest % *size as u64) as i64;
            rest /= *size as u64;
        }
        self.at += 1;
    }
}

/// Returns whether the keys are sorted and without duplicates.
pub(crate) fn is_coalesced<K: Key>(keys: &[K]) -> bool {
    // Without an early exit inside a block, the compiler can vectorise the loop.
    let pairs = |block: &[K]| block.iter().zip(&block[1..]).fold(true, |sorted, (a, b)| sorted & (a < b));
    let blocks = (0..keys.len()).step_by(1024);
    blocks.into_iter().all(|begin| pairs(&keys[begin..keys.len().min(begin + 1025)]))
}

#[cfg(test)]
mod tests {
    use c10d_core::Coo;

    use super::*;

    #[test]
    fn coordinates_convert_to_keys_and_back() {
        for (shape, sparse_dim, indices) in [
            (vec![5], 1, vec![0, 4, 2]),
            (vec![3, 4, 2], 3, vec![0, 2, 1, 3, 0, 1, 1, 1, 0]),
            (vec![3, 4, 2], 2, vec![0, 2, 1, 3, 0, 1]),
        ] {
            let layout = layout(&shape, sparse_dim);
            let mut keys: Vec<u64> = linearise(&layout, &indices).unwrap();
            let narrow: Vec<u32> = linearise(&layout, &indices).unwrap();
            assert!(keys.iter().zip(&narrow).all(|(a, b)| *a == u64::from(*b)));
            let n = keys.len();
            let columns: Vec<Vec<i64>> =
                (0..n).map(|i| (0..sparse_dim).map(|d| indices[d * n + i]).collect()).collect();
            let mut order: Vec<usize> = (0..n).collect();
            order.sort_by_key(|i| columns[*i].clone());
            keys.sort_unstable();
            let mut back = vec![-1; indices.len()];
            Columns::new(&layout, &mut back).list(&keys);
            let want: Vec<i64> =
                (0..sparse_dim).flat_map(|d| order.iter().map(move |i| (d, *i))).map(|(d, i)| columns[i][d]).collect();
            assert_eq!(back, want);
        }
    }

    #[test]
    fn coordinates_outside_the_tensor_are_rejected() {
        let layout = layout(&[3, 4], 2);
        for (indices, word) in [
            (vec![0, -1, 0, 0], "index -1 of entry 1 is not within 0..3"),
            (vec![0, 3, 0, 0], "index 3 of entry 1"),
            (vec![0, 0, 4, 0], "index 4 of entry 0 is not within 0..4, dimension 1"),
            (vec![0, 0, i64::MAX, i64::MIN], "dimension 1"),
        ] {
            let e = linearise::<u32>(&layout, &indices).unwrap_err();
            assert!(e.to_string().contains(word), "{e}");
        }
    }

    #[test]
    fn one_duplicate_anywhere_is_not_coalesced() {
        let mut keys: Vec<u32> = (0..5000).collect();
        assert!(is_coalesced(&keys) && is_coalesced::<u64>(&[]) && is_coalesced(&[7u64]));
        for at in [0, 1022, 1023, 1024, 4998] {
            keys[at + 1] = keys[at];
            assert!(!is_coalesced(&keys), "{at}");
            keys[at + 1] = at as u32 + 1;
        }
        assert!(is_coalesced(&keys));
    }

    fn layout(shape: &[usize], sparse_dim: usize) -> CooLayout {
        Coo::<u8>::new(shape, sparse_dim, vec![], vec![]).unwrap().layout().clone()
    }
}
