//! Sparse tensors in coordinate form.
#![allow(unsafe_code)]

use std::any::Any;

use super::{Outcome, Sink, Span};
use crate::types::Element;
use crate::{Error, Result};

/// A sparse tensor in host memory: coordinates of its entries, and their values.
///
/// As in PyTorch, the first `sparse_dim` dimensions are those that coordinates speak of, and each entry is a dense row of
/// the remaining ones. `indices` has `sparse_dim` rows of `nnz` coordinates each, row-major; `values` has `nnz` rows.
/// Entries may come in any order, and several may have the same coordinates: they count as their sum (or whatever the
/// operation makes of them). *Coalesced* means sorted, and each at most once.
///
/// ```
/// # use c10d_core::Coo;
/// // A 1000 x 2 matrix in which rows 3 and 7 are present.
/// let t = Coo::new([1000, 2], 1, vec![3, 7], vec![1f32, 2.0, 3.0, 4.0])?.assume_coalesced();
/// assert_eq!((t.nnz(), t.row()), (2, 2));
/// # Ok::<(), c10d_core::Error>(())
/// ```
///
/// [`op::all_reduce`](crate::op::all_reduce) takes it by value or by `&mut`, where a crate with the kernel is linked
/// (`c10d-sparse`); the result is a tensor of its own, with as many entries as there are on any rank.
#[derive(Clone, Debug, PartialEq)]
pub struct Coo<T> {
    layout: CooLayout,
    indices: Vec<i64>,
    values: Vec<T>,
}

/// What a sparse tensor is, but for its contents.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CooLayout {
    /// The sizes of all dimensions, sparse ones first.
    pub shape: Box<[usize]>,
    /// How many of them are sparse; at least one.
    pub sparse_dim: usize,
    /// How many entries.
    pub nnz: usize,
    /// Elements of an entry: the product of the dense sizes.
    pub row: usize,
    /// Whether the tensor's owner says that it is coalesced. Not verified.
    pub coalesced: bool,
}

impl CooLayout {
    pub(crate) fn new(shape: Vec<usize>, sparse_dim: usize, indices: usize, values: usize) -> Result<CooLayout> {
        if sparse_dim == 0 || sparse_dim > shape.len() {
            let what =
                format!("a tensor of shape {shape:?} has 1 to {} sparse dimensions, not {sparse_dim}", shape.len());
            return Err(Error::invalid(what));
        }
        let product = |sizes: &[usize]| sizes.iter().try_fold(1usize, |all, size| all.checked_mul(*size));
        let too_large = || Error::invalid(format!("shape {shape:?} has more entries than can be numbered"));
        product(&shape[..sparse_dim]).ok_or_else(too_large)?;
        let row = product(&shape[sparse_dim..]).ok_or_else(too_large)?;
        let nnz = indices / sparse_dim;
        if !indices.is_multiple_of(sparse_dim) {
            let what = format!("{indices} indices are not {sparse_dim} for each entry");
            return Err(Error::invalid(what));
        }
        if nnz.checked_mul(row) != Some(values) {
            let what = format!("{nnz} entries of {row} elements each need {nnz} x {row} values, here are {values}");
            return Err(Error::invalid(what));
        }
        Ok(CooLayout { shape: shape.into(), sparse_dim, nnz, row, coalesced: false })
    }

    /// The sizes of the sparse dimensions.
    pub fn sparse_shape(&self) -> &[usize] {
        &self.shape[..self.sparse_dim]
    }

    /// A number of 64 bits in which tensors of different shape differ.
    pub fn shape_hash(&self) -> u64 {
        let mix = |hash: u64, value: usize| {
            (hash ^ value as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29).wrapping_add(1)
        };
        self.shape.iter().fold(mix(self.shape.len() as u64, self.sparse_dim), |hash, size| mix(hash, *size))
    }
}

impl std::fmt::Display for CooLayout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} of which {} sparse", self.shape, self.sparse_dim)
    }
}

macro_rules! facts {
    () => {
        /// The sizes of all dimensions, sparse ones first.
        pub fn shape(&self) -> &[usize] {
            &self.layout.shape
        }

        /// How many dimensions are sparse.
        pub fn sparse_dim(&self) -> usize {
            self.layout.sparse_dim
        }

        /// How many entries there are.
        pub fn nnz(&self) -> usize {
            self.layout.nnz
        }

        /// Elements of an entry: the product of the dense sizes.
        pub fn row(&self) -> usize {
            self.layout.row
        }

        /// Whether the entries are said to be sorted by their coordinates, each at most once.
        pub fn is_coalesced(&self) -> bool {
            self.layout.coalesced
        }

        /// Says that the entries are sorted by their coordinates, each at most once. It is checked by the op that relies
        /// on it.
        #[must_use]
        pub fn assume_coalesced(mut self) -> Self {
            self.layout.coalesced = true;
            self
        }
    };
}

impl<T: Element> Coo<T> {
    /// A tensor of this shape, of whose dimensions the first `sparse_dim` are sparse.
    ///
    /// # Errors
    /// `InvalidArgument` if the lengths do not fit each other. The coordinates are checked by the op that uses them.
    pub fn new(shape: impl Into<Vec<usize>>, sparse_dim: usize, indices: Vec<i64>, values: Vec<T>) -> Result<Coo<T>> {
        let layout = CooLayout::new(shape.into(), sparse_dim, indices.len(), values.len())?;
        Ok(Coo { layout, indices, values })
    }

    facts!();

    /// The coordinates: `sparse_dim` rows of `nnz`.
    pub fn indices(&self) -> &[i64] {
        &self.indices
    }

    /// The values: `nnz` rows.
    pub fn values(&self) -> &[T] {
        &self.values
    }

    /// The values, to be changed.
    pub fn values_mut(&mut self) -> &mut [T] {
        &mut self.values
    }

    /// Coordinates and values.
    pub fn into_parts(self) -> (Vec<i64>, Vec<T>) {
        (self.indices, self.values)
    }

    /// What it is, but for its contents.
    pub fn layout(&self) -> &CooLayout {
        &self.layout
    }

    /// The values first: an op's element type is that of its first span.
    fn spans(&mut self) -> [Span; 2] {
        let (values, indices) = (&mut self.values, &mut self.indices);
        [Span::host(values.as_mut_ptr(), values.len()), Span::host(indices.as_mut_ptr(), indices.len())]
    }
}

/// What a call with a sparse tensor has besides its spans.
#[derive(Debug)]
pub(crate) struct SparseCall {
    pub(crate) layout: CooLayout,
    /// Whether an outcome's payload is a tensor of the caller's kind.
    is_result: fn(&Outcome) -> bool,
}

impl SparseCall {
    /// Whether the caller can take this result.
    pub(crate) fn accepts(&self, outcome: &Outcome) -> bool {
        (self.is_result)(outcome)
    }
}

/// One sparse tensor, read and replaced.
pub struct Sparse<C>(pub(crate) C);

impl<C> Sparse<C> {
    pub(crate) fn write<R: 'static>(sink: &mut Sink, layout: &CooLayout, spans: [Span; 2]) {
        spans.into_iter().for_each(|span| sink.input(span));
        let is_result = |outcome: &Outcome| outcome.payload.as_deref().is_some_and(<dyn Any + Send>::is::<R>);
        sink.sparse = Some(Box::new(SparseCall { layout: layout.clone(), is_result }));
    }
}

macro_rules! sparse {
    ($([$($generics:tt)*] $tensor:ty;)*) => {$(
        // SAFETY: the memory is that of vectors or device buffers which the value owns, and which nobody touches before
        // `back`; it does not move with the value.
        unsafe impl<$($generics)*> $crate::buffer::Buffers for $crate::buffer::Sparse<$tensor> {
            type Back = $tensor;
            fn describe(&mut self, sink: &mut $crate::buffer::Sink) -> $crate::Result {
                let spans = self.0.spans();
                Self::write::<$tensor>(sink, &self.0.layout, spans);
                Ok(())
            }
            fn back(self, outcome: $crate::buffer::Outcome) -> $tensor {
                outcome.payload.and_then(|p| p.downcast().ok()).map_or(self.0, |result| *result)
            }
        }

        // SAFETY: as above; the value is borrowed exclusively.
        unsafe impl<'a, $($generics)*> $crate::buffer::Buffers for $crate::buffer::Sparse<&'a mut $tensor> {
            type Back = &'a mut $tensor;
            fn describe(&mut self, sink: &mut $crate::buffer::Sink) -> $crate::Result {
                let spans = self.0.spans();
                Self::write::<$tensor>(sink, &self.0.layout, spans);
                Ok(())
            }
            fn back(self, outcome: $crate::buffer::Outcome) -> &'a mut $tensor {
                if let Some(result) = outcome.payload.and_then(|p| p.downcast().ok()) {
                    *self.0 = *result;
                }
                self.0
            }
        }

        impl<$($generics)*> $crate::buffer::InPlace for $tensor {
            type Buffers = $crate::buffer::Sparse<$tensor>;
            fn into_buffers(self) -> $crate::buffer::Sparse<$tensor> {
                $crate::buffer::Sparse(self)
            }
        }

        impl<'a, $($generics)*> $crate::buffer::InPlace for &'a mut $tensor {
            type Buffers = $crate::buffer::Sparse<&'a mut $tensor>;
            fn into_buffers(self) -> $crate::buffer::Sparse<&'a mut $tensor> {
                $crate::buffer::Sparse(self)
            }
        }
    )*};
}

pub(crate) use {facts, sparse};

sparse! {
    [T: Element] Coo<T>;
}
