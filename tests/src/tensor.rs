//! A tensor with an element type that is known only at run time.
#![allow(unsafe_code)]

use bytemuck::{cast_slice, cast_slice_mut};
use c10d_core::{Buf, BufMut, DType, Device, Span};

/// The number of guard words before and after the elements. No call may write to these words.
const GUARD: usize = 4;
const GUARD_BYTES: usize = GUARD * size_of::<u128>();
const GUARD_WORD: u128 = 0xa5c3_5a3c_a5c3_5a3c_a5c3_5a3c_a5c3_5a3c;

/// Elements of one type in host memory, between guards.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tensor {
    dtype: DType,
    count: usize,
    words: Vec<u128>,
}

impl Tensor {
    /// Makes a tensor whose bytes are all zero.
    pub(crate) fn zeros(dtype: DType, count: usize) -> Tensor {
        let inner = (count * dtype.size()).div_ceil(size_of::<u128>());
        let mut words = vec![GUARD_WORD; inner + 2 * GUARD];
        words[GUARD..GUARD + inner].fill(0);
        Tensor { dtype, count, words }
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &cast_slice(&self.words)[GUARD_BYTES..][..self.count * self.dtype.size()]
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut cast_slice_mut(&mut self.words)[GUARD_BYTES..][..self.count * self.dtype.size()]
    }

    pub(crate) fn dtype(&self) -> DType {
        self.dtype
    }

    /// Returns the offset of an element in bytes, including the guard.
    pub(crate) fn offset(&self, element: usize) -> u64 {
        (GUARD_BYTES + element * self.dtype.size()) as u64
    }

    /// Returns the elements and their guards.
    pub(crate) fn everything(&self) -> &[u8] {
        cast_slice(&self.words)
    }

    pub(crate) fn everything_mut(&mut self) -> &mut [u8] {
        cast_slice_mut(&mut self.words)
    }

    /// Returns whether the guards are unchanged.
    pub(crate) fn is_guarded(&self) -> bool {
        let behind = self.words.len() - GUARD;
        self.words[..GUARD].iter().chain(&self.words[behind..]).all(|word| *word == GUARD_WORD)
    }

    /// Returns the span of some of the elements. The span does not borrow the tensor, so the caller must keep the
    /// tensor until the raw call with the span has ended.
    pub(crate) fn part(&mut self, start: usize, count: usize) -> Span {
        Span::new(self.words.as_mut_ptr().cast(), self.offset(start), count as u64, self.dtype, Device::CPU)
    }

    fn all(&self) -> Span {
        let base = self.words.as_ptr().cast_mut().cast();
        Span::new(base, GUARD_BYTES as u64, self.count as u64, self.dtype, Device::CPU)
    }
}

// SAFETY: the value owns the vector with the elements and does not access it during a call. The elements do not move
// when the value is moved.
unsafe impl Buf for Tensor {
    fn span(&mut self) -> Span {
        self.part(0, self.count)
    }
}
// SAFETY: as above; the value is the only owner.
unsafe impl BufMut for Tensor {}

// SAFETY: the borrow lasts as long as the value, and nothing writes in that time.
unsafe impl Buf for &Tensor {
    fn span(&mut self) -> Span {
        self.all()
    }
}

// SAFETY: the borrow is exclusive and lasts as long as the value.
unsafe impl Buf for &mut Tensor {
    fn span(&mut self) -> Span {
        let count = self.count;
        self.part(0, count)
    }
}
// SAFETY: as above.
unsafe impl BufMut for &mut Tensor {}
