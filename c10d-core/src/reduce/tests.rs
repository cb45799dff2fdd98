//! Compares every operation on every type, bit by bit, with plain scalar code, for every instruction set of this
//! machine.

use crate::types::Element;
use ::half::{bf16, f16};
use num_complex::{Complex32, Complex64};

use super::*;

/// The definition of an operation on a list of values (one per source), as simple code. `last` is explained at
/// [`kernel`].
trait Reference: Element + std::fmt::Debug {
    fn reduce(op: ReduceOp, last: bool, values: &[Self], scale: f64) -> Self;
    /// Makes a value from random bits, often a special value.
    fn any(random: u64) -> Self;
    fn bits(self) -> u128;
}

fn fold<T: Copy>(values: &[T], f: impl Fn(T, T) -> T) -> T {
    values[1..].iter().fold(values[0], |a, b| f(a, *b))
}

macro_rules! integers {
    ($($t:ty)*) => {$(impl Reference for $t {
        fn reduce(op: ReduceOp, _: bool, v: &[$t], _: f64) -> $t {
            match op {
                ReduceOp::Sum => fold(v, <$t>::wrapping_add),
                ReduceOp::Product => fold(v, <$t>::wrapping_mul),
                ReduceOp::Min => *v.iter().min().unwrap(),
                ReduceOp::Max => *v.iter().max().unwrap(),
                ReduceOp::Band => fold(v, |a, b| a & b),
                ReduceOp::Bor => fold(v, |a, b| a | b),
                _ => fold(v, |a, b| a ^ b),
            }
        }
        fn any(random: u64) -> $t {
            match random % 5 {
                0 => <$t>::MAX,
                1 => <$t>::MIN,
                _ => (random >> 8) as $t,
            }
        }
        fn bits(self) -> u128 {
            self as u128
        }
    })*};
}
integers!(u8 i8 u16 i16 u32 i32 u64 i64);

impl Reference for bool {
    fn reduce(op: ReduceOp, _: bool, v: &[bool], _: f64) -> bool {
        match op {
            ReduceOp::Sum | ReduceOp::Max | ReduceOp::Bor => v.contains(&true),
            ReduceOp::Product | ReduceOp::Min | ReduceOp::Band => !v.contains(&false),
            _ => v.iter().filter(|b| **b).count() % 2 == 1,
        }
    }
    fn any(random: u64) -> bool {
        random & 256 != 0
    }
    fn bits(self) -> u128 {
        self.into()
    }
}

/// Returns the first NaN, or else the smallest (or largest) value in the total order, where -0 is below +0.
fn extreme(largest: bool, v: &[f64]) -> f64 {
    let sorted = |a: &&f64, b: &&f64| if largest { b.total_cmp(a) } else { a.total_cmp(b) };
    v.iter().find(|x| x.is_nan()).or(v.iter().min_by(sorted)).copied().unwrap()
}

macro_rules! floats {
    ($($t:ident as $wide:ident, $to:expr, $from:expr;)*) => {$(impl Reference for $t {
        fn reduce(op: ReduceOp, last: bool, v: &[$t], scale: f64) -> $t {
            let v: Vec<$wide> = v.iter().map(|x| $to(*x)).collect();
            let as_f64: Vec<f64> = v.iter().map(|x| *x as f64).collect();
            $from(match op {
                ReduceOp::Avg if last => fold(&v, |a, b| a + b) / scale as $wide,
                ReduceOp::Sum | ReduceOp::Avg => fold(&v, |a, b| a + b),
                ReduceOp::Product => fold(&v, |a, b| a * b),
                ReduceOp::Min => extreme(false, &as_f64) as $wide,
                ReduceOp::Max => extreme(true, &as_f64) as $wide,
                _ => fold(&v.iter().map(|x| x * scale as $wide).collect::<Vec<_>>(), |a, b| a + b),
            })
        }
        fn any(random: u64) -> $t {
            match random % 12 {
                0 => $t::NAN,
                1 => $t::INFINITY,
                2 => $t::NEG_INFINITY,
                3 => $from(0.0),
                4 => $from(-0.0),
                5 => $t::from_bits((random >> 60) as _), // subnormal
                6 => $t::MAX,
                7 => $t::from_bits((random >> 8) as _),
                _ => $from((random >> 40) as i32 as $wide / 1000.0 - 8000.0),
            }
        }
        /// All NaNs count as equal.
        fn bits(self) -> u128 {
            if self.is_nan() { $t::NAN.to_bits().into() } else { self.to_bits().into() }
        }
    })*};
}
floats! {
    f32 as f32, |x| x, |x| x;
    f64 as f64, |x| x, |x| x;
    f16 as f32, f16::to_f32, f16::from_f32;
    bf16 as f32, bf16::to_f32, bf16::from_f32;
}

macro_rules! complex {
    ($($t:ident of $part:ident;)*) => {$(impl Reference for $t {
        fn reduce(op: ReduceOp, last: bool, v: &[$t], scale: f64) -> $t {
            match op {
                ReduceOp::Avg if last => fold(v, |a, b| a + b) / scale as $part,
                ReduceOp::Sum | ReduceOp::Avg => fold(v, |a, b| a + b),
                ReduceOp::Product => fold(v, |a, b| a * b),
                _ => fold(&v.iter().map(|x| x * scale as $part).collect::<Vec<_>>(), |a, b| a + b),
            }
        }
        fn any(random: u64) -> $t {
            $t::new($part::any(random), $part::any(random.rotate_left(32)))
        }
        fn bits(self) -> u128 {
            self.re.bits() << 64 | self.im.bits()
        }
    })*};
}
complex! {
    Complex32 of f32;
    Complex64 of f64;
}

fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
    (*state ^ *state >> 29).wrapping_mul(0xBF58_476D_1CE4_E5B9)
}

/// Reduces `k` sources of `n` elements, and compares the results with the reference. Each source begins `skew` bytes
/// after the start of its memory.
fn check<T: Reference>(machine: Machine, op: ReduceOp, last: bool, n: usize, k: usize, skew: usize) {
    let size = size_of::<T>();
    let what = format!("{op} of {k} times {n} {} at {skew}, last {last}, on {machine:?}", T::DTYPE);
    let kernel = kernel_on(machine, op, T::DTYPE, last).unwrap();
    let mut state = (n * 31 + k * 7 + skew) as u64 + 12345;
    let scale = if let ReduceOp::PreMulSum(f) = op { f } else { 3.0 };
    let values: Vec<Vec<T>> = (0..k).map(|_| (0..n).map(|_| T::any(random(&mut state))).collect()).collect();
    let expected: Vec<u128> =
        (0..n).map(|i| T::reduce(op, last, &values.iter().map(|v| v[i]).collect::<Vec<_>>(), scale).bits()).collect();
    // The kernel runs once with a separate target, and once with each source as the target.
    for target in 0..=k {
        let mut memory: Vec<Vec<u8>> = vec![vec![0xA5; n * size + skew + 8]; k + 1];
        for (bytes, values) in memory.iter_mut().zip(&values) {
            // SAFETY: `bytes` has room for `n` values after `skew` bytes; a copy of bytes needs no alignment.
            unsafe { std::ptr::copy_nonoverlapping(values.as_ptr().cast(), bytes.as_mut_ptr().add(skew), n * size) };
        }
        // SAFETY: `skew` is inside each vector.
        let at: Vec<*mut u8> = memory.iter_mut().map(|m| unsafe { m.as_mut_ptr().add(skew) }).collect();
        let sources: Vec<*const u8> = at[..k].iter().map(|p| p.cast_const()).collect();
        // SAFETY: each vector holds `n` elements after `skew`; the target is one of the sources or another vector.
        unsafe { kernel(at[target], &sources, n, scale) };
        for (i, expected) in expected.iter().enumerate() {
            // SAFETY: `i < n`, and the kernel has written a valid value there.
            let got = unsafe { at[target].cast::<T>().add(i).read_unaligned() };
            assert_eq!(got.bits(), *expected, "element {i} is {got:?} in {what} into {target}");
        }
        let rest = &memory[target];
        assert!(
            rest[..skew].iter().chain(&rest[skew + n * size..]).all(|b| *b == 0xA5),
            "{what} wrote outside of the target"
        );
    }
}

fn check_type<T: Reference>() {
    let ops = (0..ReduceOp::COUNT as u8).map(|code| ReduceOp::from_code(code, 1.5).unwrap());
    for op in ops {
        for last in [false, true] {
            assert_eq!(kernel(op, T::DTYPE, last).is_some(), op.is_defined_on(T::DTYPE), "{op} on {}", T::DTYPE);
            if !op.is_defined_on(T::DTYPE) {
                continue;
            }
            for machine in Machine::all() {
                for n in 0..=130 {
                    check::<T>(machine, op, last, n, 1 + n % 5, n % 3);
                }
                for (n, k) in [(1023, 2), (1024, 3), (1025, 4), (2500, 5)] {
                    check::<T>(machine, op, last, n, k, 1);
                }
            }
        }
    }
}

macro_rules! types {
    ($($name:ident $t:ty;)*) => {$(
        #[test]
        fn $name() {
            check_type::<$t>();
        }
    )*};
}
types! {
    on_u8 u8; on_i8 i8; on_u16 u16; on_i16 i16; on_u32 u32; on_i32 i32; on_u64 u64; on_i64 i64;
    on_f16 f16; on_bf16 bf16; on_f32 f32; on_f64 f64; on_bool bool;
    on_complex64 Complex32; on_complex128 Complex64;
}

#[test]
fn every_type_is_tested() {
    for dtype in DType::ALL {
        let any =
            (0..ReduceOp::COUNT as u8).any(|c| kernel(ReduceOp::from_code(c, 1.0).unwrap(), *dtype, true).is_some());
        assert_eq!(any, !matches!(dtype, DType::F8E4M3 | DType::F8E5M2), "{dtype}");
    }
}

/// 2048 + 1 + 1 in f16 is 2048 if each step is rounded, and 2050 if only the result is rounded.
#[test]
fn halves_are_rounded_once() {
    let values = [2048.0, 1.0, 1.0].map(f16::from_f32);
    let sources = values.each_ref().map(|v| (v as *const f16).cast::<u8>());
    let mut sum = f16::ZERO;
    let kernel = kernel(ReduceOp::Sum, DType::F16, true).unwrap();
    // SAFETY: each source and the target have one element.
    unsafe { kernel((&raw mut sum).cast(), &sources, 1, 0.0) };
    assert_eq!(sum.to_f32(), 2050.0);
}

/// Every byte except 0 is true.
#[test]
fn bools_are_normalised() {
    let values = [[0u8, 2, 255, 0], [0, 0, 4, 1]];
    let sources = values.each_ref().map(|v| v.as_ptr());
    let mut to = [9u8; 4];
    for (op, expected) in
        [(ReduceOp::Sum, [0, 1, 1, 1]), (ReduceOp::Band, [0, 0, 1, 0]), (ReduceOp::Bxor, [0, 1, 0, 1])]
    {
        let kernel = kernel(op, DType::Bool, true).unwrap();
        // SAFETY: each source and the target have four elements.
        unsafe { kernel(to.as_mut_ptr(), &sources, 4, 0.0) };
        assert_eq!(to, expected, "{op}");
    }
}
