//! How `perf` fills and compares elements of each type.

use c10d::types::{Element, F8E4M3, F8E5M2};
use half::{bf16, f16};
use num_complex::Complex;

/// An element type that can represent small whole numbers.
pub(super) trait Sample: Element + PartialEq {
    /// Returns the element for `value`. Integers wrap. An 8-bit float, which no op reduces, gets the low bits of
    /// `value`.
    fn whole(value: i64) -> Self;
    /// Whether this equals `other` within the relative `tolerance`. The default ignores `tolerance`: the elements must
    /// be equal.
    fn is_near(self, other: Self, tolerance: f64) -> bool {
        let _ = tolerance;
        self == other
    }
}

/// Expands to `$body` with `$T` as the Rust type of the element type `$dtype`.
macro_rules! with_sample {
    (@ $dtype:expr, $T:ident => $body:expr, $($variant:ident $rust:ty,)*) => {
        match $dtype {
            $(c10d::DType::$variant => {
                type $T = $rust;
                $body
            })*
        }
    };
    ($dtype:expr, $T:ident => $body:expr) => {
        with_sample!(@ $dtype, $T => $body,
            U8 u8,
            I8 i8,
            U16 u16,
            I16 i16,
            U32 u32,
            I32 i32,
            U64 u64,
            I64 i64,
            F16 half::f16,
            BF16 half::bf16,
            F32 f32,
            F64 f64,
            Bool bool,
            Complex64 num_complex::Complex32,
            Complex128 num_complex::Complex64,
            F8E4M3 c10d::types::F8E4M3,
            F8E5M2 c10d::types::F8E5M2,
        )
    };
}
pub(super) use with_sample;

macro_rules! sample {
    (whole: $($int:ty)*) => {$(
        impl Sample for $int {
            fn whole(value: i64) -> Self { value as $int }
        }
    )*};
    (float: $($float:ty, $value:ident => $of:expr, $wide:ident => $widen:expr;)*) => {$(
        impl Sample for $float {
            fn whole($value: i64) -> Self { $of }
            fn is_near(self, other: Self, tolerance: f64) -> bool {
                let widen = |$wide: $float| -> f64 { $widen };
                near(widen(self), widen(other), tolerance)
            }
        }
    )*};
}

sample!(whole: u8 i8 u16 i16 u32 i32 u64 i64);
sample! { float:
    f16, v => f16::from_f64(v as f64), x => x.to_f64();
    bf16, v => bf16::from_f64(v as f64), x => x.to_f64();
    f32, v => v as f32, x => x.into();
    f64, v => v as f64, x => x;
}

impl Sample for bool {
    fn whole(value: i64) -> Self {
        value != 0
    }
}

impl Sample for Complex<f32> {
    fn whole(value: i64) -> Self {
        Complex::new(value as f32, 0.0)
    }
    fn is_near(self, other: Self, tolerance: f64) -> bool {
        self.re.is_near(other.re, tolerance) && self.im.is_near(other.im, tolerance)
    }
}

impl Sample for Complex<f64> {
    fn whole(value: i64) -> Self {
        Complex::new(value as f64, 0.0)
    }
    fn is_near(self, other: Self, tolerance: f64) -> bool {
        near(self.re, other.re, tolerance) && near(self.im, other.im, tolerance)
    }
}

impl Sample for F8E4M3 {
    fn whole(value: i64) -> Self {
        F8E4M3(value as u8)
    }
}

impl Sample for F8E5M2 {
    fn whole(value: i64) -> Self {
        F8E5M2(value as u8)
    }
}

fn near(a: f64, b: f64, tolerance: f64) -> bool {
    (a - b).abs() <= tolerance * b.abs().max(1.0)
}
