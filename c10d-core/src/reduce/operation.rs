//! How two accumulated values are combined.

/// An operation on accumulated values.
pub(super) trait Operation<W: Copy>: 'static {
    /// Changes the value of a source before it is combined.
    #[inline(always)]
    fn enter(value: W, _scale: f64) -> W {
        value
    }
    fn combine(a: W, b: W) -> W;
    /// Changes the combined value before it is written.
    #[inline(always)]
    fn leave(value: W, _scale: f64) -> W {
        value
    }
}

pub(super) struct Sum;
/// The sum, divided by the world size at the end.
pub(super) struct Average;
/// The sum of the values, each multiplied by a factor.
pub(super) struct PreMultiplied;
pub(super) struct Product;
/// The minimum: NaN if one of the values is NaN; -0 is smaller than +0.
pub(super) struct Min;
/// The maximum: NaN if one of the values is NaN; +0 is larger than -0.
pub(super) struct Max;
pub(super) struct And;
pub(super) struct Or;
pub(super) struct Xor;

macro_rules! operation {
    ($op:ident, $($t:ty)*, |$a:ident, $b:ident| $combine:expr) => {$(
        impl Operation<$t> for $op {
            #[inline(always)]
            fn combine($a: $t, $b: $t) -> $t {
                $combine
            }
        }
    )*};
}

operation!(Sum, u8 u16 u32 u64, |a, b| a.wrapping_add(b));
operation!(Sum, f32 f64, |a, b| a + b);
operation!(Product, u8 u16 u32 u64, |a, b| a.wrapping_mul(b));
operation!(Product, f32 f64, |a, b| a * b);
operation!(Product, [f32; 2] [f64; 2], |a, b| [a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]]);
operation!(And, u8 u16 u32 u64, |a, b| a & b);
operation!(Or, u8 u16 u32 u64, |a, b| a | b);
operation!(Xor, u8 u16 u32 u64, |a, b| a ^ b);
operation!(Min, u8 i8 u16 i16 u32 i32 u64 i64, |a, b| a.min(b));
operation!(Max, u8 i8 u16 i16 u32 i32 u64 i64, |a, b| a.max(b));

macro_rules! floats {
    ($($t:ident)*) => {$(
        impl Operation<$t> for Average {
            #[inline(always)]
            fn combine(a: $t, b: $t) -> $t {
                a + b
            }
            #[inline(always)]
            fn leave(value: $t, scale: f64) -> $t {
                value / scale as $t
            }
        }

        impl Operation<$t> for PreMultiplied {
            #[inline(always)]
            fn enter(value: $t, scale: f64) -> $t {
                value * scale as $t
            }
            #[inline(always)]
            fn combine(a: $t, b: $t) -> $t {
                a + b
            }
        }

        // Equal values have equal bits, except +0 and -0. Of these, a bitwise "or" gives -0, and a bitwise "and" (see
        // `Max`) gives +0.
        impl Operation<$t> for Min {
            #[inline(always)]
            fn combine(a: $t, b: $t) -> $t {
                let equal = $t::from_bits(a.to_bits() | b.to_bits());
                let ordered = if a == b { equal } else if a < b { a } else { b };
                if a.is_nan() { a } else { ordered }
            }
        }

        impl Operation<$t> for Max {
            #[inline(always)]
            fn combine(a: $t, b: $t) -> $t {
                let equal = $t::from_bits(a.to_bits() & b.to_bits());
                let ordered = if a == b { equal } else if a > b { a } else { b };
                if a.is_nan() { a } else { ordered }
            }
        }
    )*};
}
floats!(f32 f64);
