//! The form of an element in memory, and the type in which it is accumulated.

use super::half;

/// An element type.
pub(super) trait Element: 'static {
    /// How many elements of this type make one element as callers count them.
    const PARTS: usize = 1;
    /// Its bytes; every pattern is valid.
    type Raw: Copy;
    /// The type in which it is accumulated, which is wider if that is more exact.
    type Wide: Copy;
    fn widen(raw: Self::Raw) -> Self::Wide;
    fn narrow(wide: Self::Wide) -> Self::Raw;
}

macro_rules! plain {
    ($($t:ty)*) => {$(
        impl Element for $t {
            type Raw = $t;
            type Wide = $t;
            #[inline(always)]
            fn widen(raw: $t) -> $t {
                raw
            }
            #[inline(always)]
            fn narrow(wide: $t) -> $t {
                wide
            }
        }
    )*};
}
plain!(u8 i8 u16 i16 u32 i32 u64 i64 f32 f64);

/// `f16`.
pub(super) struct Half;

impl Element for Half {
    type Raw = u16;
    type Wide = f32;
    #[inline(always)]
    fn widen(raw: u16) -> f32 {
        half::f16_to_f32(raw)
    }
    #[inline(always)]
    fn narrow(wide: f32) -> u16 {
        half::f32_to_f16(wide)
    }
}

/// `bf16`.
pub(super) struct BFloat;

impl Element for BFloat {
    type Raw = u16;
    type Wide = f32;
    #[inline(always)]
    fn widen(raw: u16) -> f32 {
        half::bf16_to_f32(raw)
    }
    #[inline(always)]
    fn narrow(wide: f32) -> u16 {
        half::f32_to_bf16(wide)
    }
}

/// `bool`: any byte but 0 is true, the result is 0 or 1.
pub(super) struct Boolean;

impl Element for Boolean {
    type Raw = u8;
    type Wide = u8;
    #[inline(always)]
    fn widen(raw: u8) -> u8 {
        u8::from(raw != 0)
    }
    #[inline(always)]
    fn narrow(wide: u8) -> u8 {
        wide
    }
}

/// A complex number, for operations that combine its parts.
pub(super) struct Pair<T>(T);

impl<T: Copy + 'static> Element for Pair<T> {
    type Raw = [T; 2];
    type Wide = [T; 2];
    #[inline(always)]
    fn widen(raw: [T; 2]) -> [T; 2] {
        raw
    }
    #[inline(always)]
    fn narrow(wide: [T; 2]) -> [T; 2] {
        wide
    }
}

/// A complex number, for operations that treat its parts separately.
pub(super) struct Complex<T>(T);

impl<T: Copy + 'static> Element for Complex<T> {
    const PARTS: usize = 2;
    type Raw = T;
    type Wide = T;
    #[inline(always)]
    fn widen(raw: T) -> T {
        raw
    }
    #[inline(always)]
    fn narrow(wide: T) -> T {
        wide
    }
}
