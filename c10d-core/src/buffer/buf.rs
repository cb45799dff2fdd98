//! Single buffers: slices, vectors, and the types of other crates.
#![allow(unsafe_code)]

use std::sync::Arc;

use super::Span;
use crate::Result;
use crate::types::Element;

/// A buffer that a collective may read.
///
/// Implemented for `&[T]`, `&Vec<T>`, `&[T; N]`, the same types with `&mut`, `Vec<T>`, `Box<[T]>` and `Arc<[T]>`.
/// Device crates implement it for their own types.
///
/// # Safety
/// Until the value is dropped, the memory of the returned span stays allocated and readable at the same address, even
/// if the value itself is moved. In this time no code writes to the memory except through this value.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a buffer for collectives",
    label = "use `&[T]`, `Vec<T>`, `Box<[T]>` or a device buffer, with `T` an element type such as `f32`"
)]
pub unsafe trait Buf: Send {
    /// Returns the span of the elements.
    fn span(&mut self) -> Span;

    /// Returns the span of the elements, ready for a call. If the buffer is ready only after work on a stream that is
    /// not the device's default stream, this function makes the default stream wait for that work. If that is not
    /// possible, the function returns an error.
    fn ready(&mut self) -> Result<Span> {
        Ok(self.span())
    }
}

/// A buffer that a collective may also write.
///
/// A shared reference is not writable:
///
/// ```compile_fail,E0277
/// # use c10d_core::{ProcessGroup, ReduceOp};
/// # fn f(pg: ProcessGroup, x: Vec<f32>) -> c10d_core::Result {
/// pg.all_reduce(&x, ReduceOp::Sum)?; // `&Vec<f32>` is not a writable buffer for collectives
/// # Ok(()) }
/// ```
///
/// # Safety
/// The same as for [`Buf`]. In addition, the memory is writable, and no other code reads or writes it until the value
/// is dropped.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a writable buffer for collectives",
    label = "use `&mut [T]`, `&mut Vec<T>`, `Vec<T>`, `Box<[T]>` or a device buffer"
)]
pub unsafe trait BufMut: Buf {}

fn read_only<T: Element>(slice: &[T]) -> Span {
    Span::host(slice.as_ptr().cast_mut(), slice.len())
}

macro_rules! buf {
    ($([$($generics:tt)*] $type:ty, $self:ident => $span:expr;)*) => {$(
        // SAFETY: the memory belongs to a borrow or an owned allocation that lasts as long as the value and does not
        // move with it.
        unsafe impl<$($generics)*> Buf for $type {
            fn span(&mut $self) -> Span { $span }
        }
    )*};
}

buf! {
    [T: Element] &[T], self => read_only(self);
    [T: Element] &Vec<T>, self => read_only(self);
    [T: Element, const N: usize] &[T; N], self => read_only(*self);
    [T: Element] Arc<[T]>, self => read_only(self);
    [T: Element] &mut [T], self => Span::host(self.as_mut_ptr(), self.len());
    [T: Element] &mut Vec<T>, self => Span::host(self.as_mut_ptr(), self.len());
    [T: Element, const N: usize] &mut [T; N], self => Span::host(self.as_mut_ptr(), N);
    [T: Element] Vec<T>, self => Span::host(self.as_mut_ptr(), self.len());
    [T: Element] Box<[T]>, self => Span::host(self.as_mut_ptr(), self.len());
}

// SAFETY: the value is an exclusive borrow or the sole owner of the memory.
unsafe impl<T: Element> BufMut for &mut [T] {}
// SAFETY: as above.
unsafe impl<T: Element> BufMut for &mut Vec<T> {}
// SAFETY: as above.
unsafe impl<T: Element, const N: usize> BufMut for &mut [T; N] {}
// SAFETY: as above.
unsafe impl<T: Element> BufMut for Vec<T> {}
// SAFETY: as above.
unsafe impl<T: Element> BufMut for Box<[T]> {}
