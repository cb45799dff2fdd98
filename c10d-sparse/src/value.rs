//! Element types, and how two values become one.

use bytemuck::Zeroable;
use c10d_core::Element;
use half::{bf16, f16};
use num_complex::Complex;

/// An element type as it is reduced: 16-bit floats are widened first, and rounded once.
pub(crate) trait Value: Element + Zeroable {
    /// What values are accumulated in.
    type Wide: Element + Zeroable;

    fn widen(self) -> Self::Wide;

    /// Accumulates into `out` by `reduce`, which writes every element of what it is given.
    fn accumulate(out: &mut [Self], reduce: impl FnOnce(&mut [Self::Wide]));

    /// The values' bytes.
    fn bytes(values: &[Self]) -> &[u8];

    /// As many values as fit, out of bytes.
    fn read(bytes: &[u8], values: &mut [Self]);
}

/// How two values become one.
pub(crate) trait Combine<V>: 'static {
    fn combine(a: V, b: V) -> V;
}

pub(crate) struct Sum;
pub(crate) struct Product;
pub(crate) struct Min;
pub(crate) struct Max;

fn read_plain<V: bytemuck::Pod>(bytes: &[u8], values: &mut [V]) {
    let to = bytemuck::cast_slice_mut::<V, u8>(values);
    let n = to.len().min(bytes.len());
    to[..n].copy_from_slice(&bytes[..n]);
}

macro_rules! as_they_are {
    ($($value:ty)*) => {$(
        impl Value for $value {
            type Wide = $value;
            #[inline]
            fn widen(self) -> $value {
                self
            }
            fn accumulate(out: &mut [$value], reduce: impl FnOnce(&mut [$value])) {
                reduce(out);
            }
            fn bytes(values: &[$value]) -> &[u8] {
                bytemuck::cast_slice(values)
            }
            fn read(bytes: &[u8], values: &mut [$value]) {
                read_plain(bytes, values);
            }
        }
    )*};
}
as_they_are!(u8 i8 u16 i16 u32 i32 u64 i64 f32 f64 Complex<f32> Complex<f64>);

macro_rules! halves {
    ($($value:ty)*) => {$(
        impl Value for $value {
            type Wide = f32;
            #[inline]
            fn widen(self) -> f32 {
                self.to_f32()
            }
            fn accumulate(out: &mut [$value], reduce: impl FnOnce(&mut [f32])) {
                let mut wide = vec![0f32; out.len()];
                reduce(&mut wide);
                out.iter_mut().zip(wide).for_each(|(out, wide)| *out = <$value>::from_f32(wide));
            }
            fn bytes(values: &[$value]) -> &[u8] {
                bytemuck::cast_slice(values)
            }
            fn read(bytes: &[u8], values: &mut [$value]) {
                read_plain(bytes, values);
            }
        }
    )*};
}
halves!(f16 bf16);

impl Value for bool {
    type Wide = bool;
    #[inline]
    fn widen(self) -> bool {
        self
    }
    fn accumulate(out: &mut [bool], reduce: impl FnOnce(&mut [bool])) {
        reduce(out);
    }
    fn bytes(values: &[bool]) -> &[u8] {
        bytemuck::cast_slice(values)
    }
    fn read(bytes: &[u8], values: &mut [bool]) {
        values.iter_mut().zip(bytes).for_each(|(value, byte)| *value = *byte != 0);
    }
}

macro_rules! combine {
    ($($op:ident [$($value:ty)*] |$a:ident, $b:ident| $result:expr;)*) => {$($(
        impl Combine<$value> for $op {
            #[inline]
            fn combine($a: $value, $b: $value) -> $value {
                $result
            }
        }
    )*)*};
}
combine! {
    Sum [u8 i8 u16 i16 u32 i32 u64 i64] |a, b| a.wrapping_add(b);
    Sum [f32 f64 Complex<f32> Complex<f64>] |a, b| a + b;
    Sum [bool] |a, b| a | b;
    Product [u8 i8 u16 i16 u32 i32 u64 i64] |a, b| a.wrapping_mul(b);
    Product [f32 f64 Complex<f32> Complex<f64>] |a, b| a * b;
    Product [bool] |a, b| a & b;
    Min [u8 i8 u16 i16 u32 i32 u64 i64 bool] |a, b| a.min(b);
    Max [u8 i8 u16 i16 u32 i32 u64 i64 bool] |a, b| a.max(b);
    // NaN wins.
    Min [f32 f64] |a, b| if a < b || a.is_nan() { a } else { b };
    Max [f32 f64] |a, b| if a > b || a.is_nan() { a } else { b };
}
