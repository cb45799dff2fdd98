//! Element types: the form of an element in memory, and the type in which it is accumulated.

use std::convert::identity;

use super::half;

/// An element type, as kernels see it.
pub(super) trait Element: 'static {
    /// The number of `Raw` values in one element of the caller's buffer: 2 for [`Complex`], else 1.
    const PARTS: usize;
    /// The form in memory. Every bit pattern is valid.
    type Raw: Copy;
    /// The type in which elements are accumulated. This type may be wider than `Raw`, to be more exact.
    type Wide: Copy;
    fn widen(raw: Self::Raw) -> Self::Wide;
    fn narrow(wide: Self::Wide) -> Self::Raw;
}

/// `f16`.
pub(super) struct Half;
/// `bf16`.
pub(super) struct BFloat;
/// `bool`: every byte except 0 is true, and the result is 0 or 1.
pub(super) struct Boolean;
/// A complex number, for operations that combine its real and imaginary parts (the product).
pub(super) struct Pair<T>(T);
/// A complex number, for operations that treat its real and imaginary parts separately.
pub(super) struct Complex<T>(T);

/// Implements [`Element`]. Each line has the type, `PARTS`, `Raw`, `Wide`, `widen` and `narrow`.
macro_rules! elements {
    ($($t:ident$(<$part:ident>)? $parts:literal, $raw:ty, $wide:ty, $widen:expr, $narrow:expr;)*) => {$(
        impl$(<$part: Copy + 'static>)? Element for $t$(<$part>)? {
            const PARTS: usize = $parts;
            type Raw = $raw;
            type Wide = $wide;
            #[inline(always)]
            fn widen(raw: $raw) -> $wide {
                $widen(raw)
            }
            #[inline(always)]
            fn narrow(wide: $wide) -> $raw {
                $narrow(wide)
            }
        }
    )*};
}

elements! {
    u8 1, u8, u8, identity, identity;
    i8 1, i8, i8, identity, identity;
    u16 1, u16, u16, identity, identity;
    i16 1, i16, i16, identity, identity;
    u32 1, u32, u32, identity, identity;
    i32 1, i32, i32, identity, identity;
    u64 1, u64, u64, identity, identity;
    i64 1, i64, i64, identity, identity;
    f32 1, f32, f32, identity, identity;
    f64 1, f64, f64, identity, identity;
    Half 1, u16, f32, half::f16_to_f32, half::f32_to_f16;
    BFloat 1, u16, f32, half::bf16_to_f32, half::f32_to_bf16;
    Boolean 1, u8, u8, |byte| u8::from(byte != 0), identity;
    Pair<T> 1, [T; 2], [T; 2], identity, identity;
    Complex<T> 2, T, T, identity, identity;
}
