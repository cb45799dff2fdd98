//! Element types, and the operations that combine two values.

use bytemuck::{NoUninit, Zeroable};
use c10d_core::{Element, Result};
use half::{bf16, f16};
use num_complex::Complex;

use crate::memory::zeroed;

/// An element type of reductions. A reduction converts 16-bit floats to f32, and rounds each of its results once.
pub(crate) trait Value: Element + NoUninit + Zeroable {
    /// The type in which values are accumulated.
    type Wide: Element + Zeroable;

    fn widen(self) -> Self::Wide;

    /// Calls `reduce` with memory for the wider type, and converts the result into `out`. `reduce` writes every
    /// element.
    ///
    /// # Errors
    /// `Resource` if there is not enough memory for the wider values.
    fn accumulate(out: &mut [Self], reduce: impl FnOnce(&mut [Self::Wide]) -> Result) -> Result;

    fn bytes(values: &[Self]) -> &[u8] {
        bytemuck::cast_slice(values)
    }

    /// Reads as many values as there are bytes for.
    fn read(bytes: &[u8], values: &mut [Self]);
}

/// An operation that combines two values.
pub(crate) trait Combine<V>: 'static {
    /// The neutral value: combined with any value x, the result is bit-identical to x. `None` if the operation has no
    /// such value.
    const NEUTRAL: Option<V>;
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
            fn accumulate(out: &mut [$value], reduce: impl FnOnce(&mut [$value]) -> Result) -> Result {
                reduce(out)
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
            fn accumulate(out: &mut [$value], reduce: impl FnOnce(&mut [f32]) -> Result) -> Result {
                let mut wide = zeroed(out.len(), 1)?;
                reduce(&mut wide)?;
                out.iter_mut().zip(wide).for_each(|(out, wide)| *out = <$value>::from_f32(wide));
                Ok(())
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
    fn accumulate(out: &mut [bool], reduce: impl FnOnce(&mut [bool]) -> Result) -> Result {
        reduce(out)
    }
    fn read(bytes: &[u8], values: &mut [bool]) {
        values.iter_mut().zip(bytes).for_each(|(value, byte)| *value = *byte != 0);
    }
}

macro_rules! combine {
    ($($op:ident [$($value:ty)*] $neutral:expr, |$a:ident, $b:ident| $result:expr;)*) => {$($(
        impl Combine<$value> for $op {
            const NEUTRAL: Option<$value> = $neutral;
            #[inline]
            fn combine($a: $value, $b: $value) -> $value {
                $result
            }
        }
    )*)*};
}
combine! {
    Sum [u8 i8 u16 i16 u32 i32 u64 i64] Some(0), |a, b| a.wrapping_add(b);
    // The neutral value is -0.0. 0.0 is not neutral, since the sum of 0.0 and -0.0 is 0.0.
    Sum [f32 f64] Some(-0.0), |a, b| a + b;
    Sum [Complex<f32> Complex<f64>] Some(Complex::new(-0.0, -0.0)), |a, b| a + b;
    Sum [bool] Some(false), |a, b| a | b;
    Product [u8 i8 u16 i16 u32 i32 u64 i64] Some(1), |a, b| a.wrapping_mul(b);
    Product [f32 f64] Some(1.0), |a, b| a * b;
    // There is no neutral value: the product of (infinity, 0) and (1, 0) has NaN as its imaginary part.
    Product [Complex<f32> Complex<f64>] None, |a, b| a * b;
    Product [bool] Some(true), |a, b| a & b;
    Min [bool] Some(true), |a, b| a & b;
    Max [bool] Some(false), |a, b| a | b;
    Min [u8] Some(u8::MAX), |a, b| a.min(b);
    Min [i8] Some(i8::MAX), |a, b| a.min(b);
    Min [u16] Some(u16::MAX), |a, b| a.min(b);
    Min [i16] Some(i16::MAX), |a, b| a.min(b);
    Min [u32] Some(u32::MAX), |a, b| a.min(b);
    Min [i32] Some(i32::MAX), |a, b| a.min(b);
    Min [u64] Some(u64::MAX), |a, b| a.min(b);
    Min [i64] Some(i64::MAX), |a, b| a.min(b);
    Max [u8] Some(u8::MIN), |a, b| a.max(b);
    Max [i8] Some(i8::MIN), |a, b| a.max(b);
    Max [u16] Some(u16::MIN), |a, b| a.max(b);
    Max [i16] Some(i16::MIN), |a, b| a.max(b);
    Max [u32] Some(u32::MIN), |a, b| a.max(b);
    Max [i32] Some(i32::MIN), |a, b| a.max(b);
    Max [u64] Some(u64::MIN), |a, b| a.max(b);
    Max [i64] Some(i64::MIN), |a, b| a.max(b);
    // NaN propagates.
    Min [f32] Some(f32::INFINITY), |a, b| if a < b || a.is_nan() { a } else { b };
    Min [f64] Some(f64::INFINITY), |a, b| if a < b || a.is_nan() { a } else { b };
    Max [f32] Some(f32::NEG_INFINITY), |a, b| if a > b || a.is_nan() { a } else { b };
    Max [f64] Some(f64::NEG_INFINITY), |a, b| if a > b || a.is_nan() { a } else { b };
}
