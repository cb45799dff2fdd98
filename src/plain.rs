//! Elements of the program's own types.
//!
//! An [`Element`](crate::Element) is a number type that c10d knows. Any other type of a fixed size without padding or
//! pointers can be [`Plain`]: elements of a finite field, pairs of value and index, small matrices. [`plain`] wraps
//! a slice of such elements as a buffer for every op that moves data, and [`Reductions`](crate::Reductions) combines
//! such elements with a closure.
#![allow(unsafe_code)]

use bytemuck::Pod;
use c10d_core::types::Identity;
use c10d_core::{Buf, BufMut, Error, Result, Span};
use half::{bf16, f16};
use num_complex::{Complex32, Complex64};

/// A type whose values are plain bytes, with a name that is the same on all ranks.
///
/// [`Pod`] guarantees that any bytes are a valid value and that there is no padding; the crate bytemuck can derive it.
/// Ranks compare the type's name and size. If these differ between ranks, the error is a
/// [`Mismatch`](crate::ErrorKind::Mismatch) of `type`. Change the name when the meaning of the bytes changes.
///
/// ```
/// use bytemuck::{Pod, Zeroable};
///
/// #[derive(Clone, Copy, Pod, Zeroable)]
/// #[repr(C)]
/// struct Best {
///     score: f64,
///     index: u64,
/// }
///
/// impl c10d::Plain for Best {
///     const IDENTITY: &'static str = "my_crate::Best/1";
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a plain element type",
    label = "derive `Pod` and `Zeroable` of the crate bytemuck, then implement `c10d::Plain` with a name"
)]
pub trait Plain: Pod + Send + Sync {
    /// The type's name, which must be the same on all ranks, for example `my_crate::Goldilocks/1`.
    const IDENTITY: &'static str;
}

macro_rules! elements {
    ($($type:ty, $name:literal;)*) => {$(
        impl Plain for $type { const IDENTITY: &'static str = $name; }
    )*};
}

elements! {
    u8, "u8"; i8, "i8"; u16, "u16"; i16, "i16"; u32, "u32"; i32, "i32"; u64, "u64"; i64, "i64"; u128, "u128"; i128, "i128";
    f16, "f16"; bf16, "bf16"; f32, "f32"; f64, "f64"; Complex32, "complex64"; Complex64, "complex128";
}

/// Wraps a buffer of plain elements, so that calls accept it. The buffer is a `&[T]`, `&mut [T]`, `Vec<T>`, `Box<[T]>`,
/// or a reference to a vector or an array.
///
/// All ops that move data accept the result. Ops that reduce do not; see [`Reductions`](crate::Reductions). All sizes
/// count elements of `T`, also those that [`splits`](c10d_core::Call::splits) takes.
///
/// ```
/// # #[derive(Clone, Copy, PartialEq, Debug, bytemuck::Pod, bytemuck::Zeroable)]
/// # #[repr(C)]
/// # struct Best { score: f64, index: u64 }
/// # impl c10d::Plain for Best { const IDENTITY: &'static str = "my_crate::Best/1"; }
/// # fn main() -> c10d::Result<()> {
/// let of_rank_1 = c10d::run_ranks(2, |pg| {
///     let mut best = [Best { score: 0.5, index: u64::from(pg.rank()) }];
///     pg.broadcast(c10d::plain(&mut best), 1)?;
///     Ok(best[0].index)
/// })?;
/// assert_eq!(of_rank_1, [1, 1]);
/// # Ok(()) }
/// ```
pub fn plain<B>(buffer: B) -> PlainBuf<B>
where
    PlainBuf<B>: Buf,
{
    PlainBuf { buffer, by: "" }
}

/// A buffer of [`Plain`] elements; see [`plain`].
#[derive(Debug)]
pub struct PlainBuf<B> {
    buffer: B,
    by: &'static str,
}

impl<B> PlainBuf<B> {
    /// Returns the wrapped buffer, for example after a call that owned it has returned it.
    pub fn into_inner(self) -> B {
        self.buffer
    }

    /// Wraps elements for a call whose fingerprint also has the hash of `by`. `by` names the operation that reduces the
    /// elements, or the data (such as `objects`).
    pub(crate) fn reduced_by(buffer: B, by: &'static str) -> PlainBuf<B> {
        PlainBuf { buffer, by }
    }
}

/// Returns the span of the elements with their identity, which is missing if the elements have a size of 0, or if the
/// program uses too many names.
fn span<T: Plain>(at: *mut T, len: usize, by: &'static str) -> Span {
    let bytes = Span::host(at.cast::<u8>(), len.saturating_mul(size_of::<T>()));
    Identity::new(T::IDENTITY, size_of::<T>(), by).map_or(bytes, |identity| bytes.identified(identity))
}

/// Returns the span, or an error if it has no identity.
fn named<T: Plain>(span: Span) -> Result<Span> {
    if span.identity().is_some() {
        return Ok(span);
    }
    let name = T::IDENTITY;
    let what = match size_of::<T>() {
        0 => format!("elements of {name} have a size of 0 bytes, so there is nothing to move"),
        _ => format!("{name} cannot be registered: the program uses too many names of types and operations"),
    };
    Err(Error::invalid(what))
}

macro_rules! buf {
    ($([$($generics:tt)*] $type:ty, $b:ident => $at:expr;)*) => {$(
        // SAFETY: the memory belongs to a borrow or an owned allocation that lasts as long as the value and does not
        // move with it. Any bytes are a valid `T`, and `T` has no padding, so its memory may be read and written as
        // bytes.
        unsafe impl<$($generics)*> Buf for PlainBuf<$type> {
            fn span(&mut self) -> Span {
                let $b = &mut self.buffer;
                span::<T>($at, $b.len(), self.by)
            }
            fn ready(&mut self) -> Result<Span> {
                named::<T>(self.span())
            }
        }
    )*};
}

buf! {
    [T: Plain] &[T], b => b.as_ptr().cast_mut();
    [T: Plain] &Vec<T>, b => b.as_ptr().cast_mut();
    [T: Plain, const N: usize] &[T; N], b => b.as_ptr().cast_mut();
    [T: Plain] &mut [T], b => b.as_mut_ptr();
    [T: Plain] &mut Vec<T>, b => b.as_mut_ptr();
    [T: Plain, const N: usize] &mut [T; N], b => b.as_mut_ptr();
    [T: Plain] Vec<T>, b => b.as_mut_ptr();
    [T: Plain] Box<[T]>, b => b.as_mut_ptr();
}

// SAFETY: the value borrows the memory exclusively or owns it.
unsafe impl<T: Plain> BufMut for PlainBuf<&mut [T]> {}
// SAFETY: as above.
unsafe impl<T: Plain> BufMut for PlainBuf<&mut Vec<T>> {}
// SAFETY: as above.
unsafe impl<T: Plain, const N: usize> BufMut for PlainBuf<&mut [T; N]> {}
// SAFETY: as above.
unsafe impl<T: Plain> BufMut for PlainBuf<Vec<T>> {}
// SAFETY: as above.
unsafe impl<T: Plain> BufMut for PlainBuf<Box<[T]>> {}
