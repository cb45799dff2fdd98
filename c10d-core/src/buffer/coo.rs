//! Sparse tensors in coordinate form.
#![allow(unsafe_code)]

use std::any::Any;

use super::{Outcome, Sink, Span};
use crate::types::Element;
use crate::{Error, Result};

/// A sparse tensor in host memory: the coordinates of its entries, and their values.
///
/// As in PyTorch, the first `sparse_dim` dimensions are sparse: coordinates index them. Each entry is a dense row over
/// the remaining dimensions. `indices` has `sparse_dim` rows of `nnz` coordinates each, row-major; `values` has `nnz`
/// rows. Entries may be in any order. Several entries with the same coordinates count as one entry: their sum, or their
/// reduction by the operation of the call. A tensor is *coalesced* if its entries are sorted by their coordinates and
/// no coordinates appear twice.
///
/// ```
/// # use c10d_core::Coo;
/// // A 1000 x 2 matrix of which only rows 3 and 7 are stored.
/// let t = Coo::new([1000, 2], 1, vec![3, 7], vec![1f32, 2.0, 3.0, 4.0])?.assume_coalesced();
/// assert_eq!((t.nnz(), t.row()), (2, 2));
/// # Ok::<(), c10d_core::Error>(())
/// ```
///
/// [`op::all_reduce`](crate::op::all_reduce) accepts a tensor by value or by `&mut`. The program must link the crate
/// `c10d-sparse`, which has the kernel. The result has every entry that at least one rank has or, if the option
/// `sparse_indices` is set, the entries at the coordinates in that option.
#[derive(Clone, Debug, PartialEq)]
pub struct Coo<T> {
    layout: CooLayout,
    indices: Vec<i64>,
    values: Vec<T>,
}

/// The layout of a sparse tensor: all its properties except indices and values.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CooLayout {
    /// The sizes of all dimensions, sparse dimensions first.
    pub shape: Box<[usize]>,
    /// The number of sparse dimensions, at least 1.
    pub sparse_dim: usize,
    /// The number of entries.
    pub nnz: usize,
    /// The number of elements of an entry: the product of the dense sizes.
    pub row: usize,
    /// Whether the tensor's owner declares that the tensor is coalesced. The layout does not verify that.
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
            let what = format!("there are {indices} indices, but each entry needs {sparse_dim}");
            return Err(Error::invalid(what));
        }
        if nnz.checked_mul(row) != Some(values) {
            let what =
                format!("{nnz} entries of {row} elements each need {nnz} x {row} values, but there are {values}");
            return Err(Error::invalid(what));
        }
        Ok(CooLayout { shape: shape.into(), sparse_dim, nnz, row, coalesced: false })
    }

    /// Returns the sizes of the sparse dimensions.
    pub fn sparse_shape(&self) -> &[usize] {
        &self.shape[..self.sparse_dim]
    }

    /// Returns a 64-bit hash of the shape and of the number of sparse dimensions.
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
        /// Returns the sizes of all dimensions, sparse dimensions first.
        pub fn shape(&self) -> &[usize] {
            &self.layout.shape
        }

        /// Returns the number of sparse dimensions.
        pub fn sparse_dim(&self) -> usize {
            self.layout.sparse_dim
        }

        /// Returns the number of entries.
        pub fn nnz(&self) -> usize {
            self.layout.nnz
        }

        /// Returns the number of elements of an entry: the product of the dense sizes.
        pub fn row(&self) -> usize {
            self.layout.row
        }

        /// Returns whether the entries are declared to be sorted by their coordinates, without duplicates.
        pub fn is_coalesced(&self) -> bool {
            self.layout.coalesced
        }

        /// Declares that the entries are sorted by their coordinates, without duplicates. An op that relies on this
        /// declaration checks it.
        #[must_use]
        pub fn assume_coalesced(mut self) -> Self {
            self.layout.coalesced = true;
            self
        }
    };
}

impl<T: Element> Coo<T> {
    /// Makes a tensor of this shape. Its first `sparse_dim` dimensions are sparse.
    ///
    /// # Errors
    /// `InvalidArgument` if `sparse_dim` or a length does not fit the shape, or if the shape has too many elements. The
    /// op that uses the tensor checks the coordinates.
    pub fn new(shape: impl Into<Vec<usize>>, sparse_dim: usize, indices: Vec<i64>, values: Vec<T>) -> Result<Coo<T>> {
        let layout = CooLayout::new(shape.into(), sparse_dim, indices.len(), values.len())?;
        Ok(Coo { layout, indices, values })
    }

    facts!();

    /// Returns the coordinates: `sparse_dim` rows of `nnz`.
    pub fn indices(&self) -> &[i64] {
        &self.indices
    }

    /// Returns the values: `nnz` rows.
    pub fn values(&self) -> &[T] {
        &self.values
    }

    /// Returns the values as a mutable slice.
    pub fn values_mut(&mut self) -> &mut [T] {
        &mut self.values
    }

    /// Returns the coordinates and the values.
    pub fn into_parts(self) -> (Vec<i64>, Vec<T>) {
        (self.indices, self.values)
    }

    /// Returns the layout.
    pub fn layout(&self) -> &CooLayout {
        &self.layout
    }

    /// Returns the spans of the values and of the indices. The values are first, since the element type of an op is
    /// that of its first span.
    fn spans(&mut self) -> [Span; 2] {
        let (values, indices) = (&mut self.values, &mut self.indices);
        [Span::host(values.as_mut_ptr(), values.len()), Span::host(indices.as_mut_ptr(), indices.len())]
    }
}

/// What the spans of a call with a sparse tensor do not contain.
#[derive(Debug)]
pub(crate) struct SparseCall {
    pub(crate) layout: CooLayout,
    /// Returns whether an outcome's payload is a tensor of the caller's type.
    is_result: fn(&Outcome) -> bool,
}

impl SparseCall {
    /// Returns whether the caller can accept this result.
    pub(crate) fn accepts(&self, outcome: &Outcome) -> bool {
        (self.is_result)(outcome)
    }
}

/// The buffers of an op that reads a sparse tensor and replaces it by the result.
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
        // SAFETY: the memory belongs to vectors or device buffers that the value owns. It does not move with the value,
        // and no code uses it before `back`.
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
