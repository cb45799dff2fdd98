//! The definition of reductions: the elements of the ranks are combined in rank order.

use bytemuck::{AnyBitPattern, NoUninit, pod_read_unaligned};
use c10d_core::{DType, ReduceOp};
use half::{bf16, f16};

/// The result of a reduction in rank order, and how far a result in another order may differ from it.
pub(crate) struct Folded {
    pub(crate) bytes: Vec<u8>,
    /// The bound for each real number of the result; empty if every order gives the same result.
    pub(crate) bounds: Vec<f64>,
}

/// Returns the expected result of reducing these inputs, one per rank, in rank order. In sums and products of floats,
/// another order may give other bits.
///
/// # Panics
/// Panics if there are no inputs.
pub fn reduced(dtype: DType, op: ReduceOp, inputs: &[&[u8]]) -> Vec<u8> {
    fold(dtype, op, inputs).bytes
}

pub(crate) fn fold(dtype: DType, op: ReduceOp, inputs: &[&[u8]]) -> Folded {
    use DType::*;
    match dtype {
        U8 => exact(inputs, |a: u8, b| integer!(op, a, b)),
        I8 => exact(inputs, |a: i8, b| integer!(op, a, b)),
        U16 => exact(inputs, |a: u16, b| integer!(op, a, b)),
        I16 => exact(inputs, |a: i16, b| integer!(op, a, b)),
        U32 => exact(inputs, |a: u32, b| integer!(op, a, b)),
        I32 => exact(inputs, |a: i32, b| integer!(op, a, b)),
        U64 => exact(inputs, |a: u64, b| integer!(op, a, b)),
        I64 => exact(inputs, |a: i64, b| integer!(op, a, b)),
        Bool => exact(inputs, |a: u8, b| match op {
            ReduceOp::Sum | ReduceOp::Max | ReduceOp::Bor => a | b,
            ReduceOp::Bxor => a ^ b,
            _ => a & b,
        }),
        F32 if is_rational(op) => real(op, inputs, f64::from(f32::EPSILON), |x: f32| x, |x| x),
        F64 if is_rational(op) => real(op, inputs, f64::EPSILON, |x: f64| x, |x| x),
        F16 if is_rational(op) => real(op, inputs, f16::EPSILON.to_f64(), f16::to_f32, f16::from_f32),
        BF16 if is_rational(op) => real(op, inputs, bf16::EPSILON.to_f64(), bf16::to_f32, bf16::from_f32),
        F32 => exact(inputs, |a: f32, b| extreme(op, a, b)),
        F64 => exact(inputs, |a: f64, b| extreme(op, a, b)),
        F16 => exact(inputs, |a: f16, b| f16::from_f32(extreme(op, a.to_f32(), b.to_f32()))),
        BF16 => exact(inputs, |a: bf16, b| bf16::from_f32(extreme(op, a.to_f32(), b.to_f32()))),
        Complex64 if op == ReduceOp::Product => product(inputs, f64::from(f32::EPSILON), |x: f32| x),
        Complex128 if op == ReduceOp::Product => product(inputs, f64::EPSILON, |x: f64| x),
        Complex64 => real(op, inputs, f64::from(f32::EPSILON), |x: f32| x, |x| x),
        Complex128 => real(op, inputs, f64::EPSILON, |x: f64| x, |x| x),
        F8E4M3 | F8E5M2 => Folded { bytes: inputs[0].to_vec(), bounds: Vec::new() },
    }
}

fn is_rational(op: ReduceOp) -> bool {
    !matches!(op, ReduceOp::Min | ReduceOp::Max)
}

macro_rules! integer {
    ($op:expr, $a:expr, $b:expr) => {
        match $op {
            ReduceOp::Product => $a.wrapping_mul($b),
            ReduceOp::Min => $a.min($b),
            ReduceOp::Max => $a.max($b),
            ReduceOp::Band => $a & $b,
            ReduceOp::Bor => $a | $b,
            ReduceOp::Bxor => $a ^ $b,
            _ => $a.wrapping_add($b),
        }
    };
}
use integer;

fn read<T: AnyBitPattern>(bytes: &[u8]) -> impl Iterator<Item = T> + '_ {
    bytes.chunks_exact(size_of::<T>()).map(pod_read_unaligned)
}

fn exact<T: AnyBitPattern + NoUninit>(inputs: &[&[u8]], combine: impl Fn(T, T) -> T) -> Folded {
    let mut acc: Vec<T> = read(inputs[0]).collect();
    for input in &inputs[1..] {
        acc.iter_mut().zip(read(input)).for_each(|(a, b)| *a = combine(*a, b));
    }
    Folded { bytes: bytemuck::cast_slice(&acc).to_vec(), bounds: Vec::new() }
}

/// The type in which sums of a float type are computed.
trait Real:
    Copy + Into<f64> + std::ops::Add<Output = Self> + std::ops::Mul<Output = Self> + std::ops::Div<Output = Self>
{
    fn of(x: f64) -> Self;
}

impl Real for f32 {
    fn of(x: f64) -> f32 {
        x as f32
    }
}

impl Real for f64 {
    fn of(x: f64) -> f64 {
        x
    }
}

fn real<T: AnyBitPattern + NoUninit, A: Real>(
    op: ReduceOp,
    inputs: &[&[u8]],
    epsilon: f64,
    widen: impl Fn(T) -> A,
    narrow: impl Fn(A) -> T,
) -> Folded {
    let world = inputs.len() as f64;
    let (before, after) = match op {
        ReduceOp::PreMulSum(factor) => (Some(A::of(factor)), None),
        ReduceOp::Avg => (None, Some(A::of(world))),
        _ => (None, None),
    };
    let load = |x: T| before.map_or(widen(x), |factor| widen(x) * factor);
    let mut acc: Vec<A> = read(inputs[0]).map(load).collect();
    let mut weight: Vec<f64> = acc.iter().map(|a| (*a).into().abs()).collect();
    for input in &inputs[1..] {
        for ((a, w), b) in acc.iter_mut().zip(&mut weight).zip(read(input).map(load)) {
            if op == ReduceOp::Product {
                *a = *a * b;
                *w = (*a).into().abs();
            } else {
                *a = *a + b;
                *w += b.into().abs();
            }
        }
    }
    let done = acc.into_iter().map(|a| narrow(after.map_or(a, |divisor| a / divisor)));
    let done: Vec<T> = done.collect();
    // The error is at most one rounding per rank and two for the factor or divisor. Each rounding is relative to the
    // sum of the absolute values, or to the absolute value of the product.
    let bounds = weight.into_iter().map(|w| w * epsilon * (world + 2.0)).collect();
    Folded { bytes: bytemuck::cast_slice(&done).to_vec(), bounds }
}

fn product<T>(inputs: &[&[u8]], epsilon: f64, same: impl Fn(T) -> T) -> Folded
where
    T: AnyBitPattern + NoUninit + Real + std::ops::Sub<Output = T>,
{
    let mut acc: Vec<T> = read(inputs[0]).map(same).collect();
    for input in &inputs[1..] {
        let b: Vec<T> = read(input).collect();
        for (a, b) in acc.chunks_exact_mut(2).zip(b.chunks_exact(2)) {
            (a[0], a[1]) = (a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]);
        }
    }
    let scale = 4.0 * epsilon * inputs.len() as f64;
    let bound = |z: &[T]| scale * (z[0].into().abs() + z[1].into().abs());
    let bounds = acc.chunks_exact(2).flat_map(|z| [bound(z); 2]).collect();
    Folded { bytes: bytemuck::cast_slice(&acc).to_vec(), bounds }
}

fn extreme<T: PartialOrd + Copy>(op: ReduceOp, a: T, b: T) -> T {
    // Only NaN is different from itself.
    #[allow(clippy::eq_op)]
    let is_nan = |x: T| x != x;
    if is_nan(a) {
        a
    } else if is_nan(b) || (op == ReduceOp::Min && b < a) || (op == ReduceOp::Max && b > a) {
        b
    } else {
        a
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(dtype: DType, op: ReduceOp, inputs: &[&[u8]]) -> Vec<u8> {
        fold(dtype, op, inputs).bytes
    }

    #[test]
    fn reductions_equal_results_computed_by_hand() {
        assert_eq!(of(DType::U8, ReduceOp::Sum, &[&[200, 1], &[100, 2]]), [44, 3]);
        assert_eq!(of(DType::I8, ReduceOp::Min, &[&[200], &[100]]), [200]);
        assert_eq!(of(DType::Bool, ReduceOp::Product, &[&[1, 1], &[0, 1]]), [0, 1]);
        let f = |x: &[f32]| bytemuck::cast_slice(x).to_vec();
        assert_eq!(of(DType::F32, ReduceOp::Avg, &[&f(&[1.0]), &f(&[2.0])]), f(&[1.5]));
        assert_eq!(of(DType::F32, ReduceOp::PreMulSum(0.5), &[&f(&[1.0]), &f(&[2.0])]), f(&[1.5]));
        let nan: f32 = pod_read_unaligned(&of(DType::F32, ReduceOp::Max, &[&f(&[f32::NAN]), &f(&[2.0])]));
        assert!(nan.is_nan());
        // (1 + 2i)(3 + 4i)
        assert_eq!(of(DType::Complex64, ReduceOp::Product, &[&f(&[1.0, 2.0]), &f(&[3.0, 4.0])]), f(&[-5.0, 10.0]));
        // 2048 + 1 + 1 in f16 is 2050 if rounded once, and 2048 if rounded after each step.
        let h = |x: f32| f16::from_f32(x).to_le_bytes().to_vec();
        assert_eq!(of(DType::F16, ReduceOp::Sum, &[&h(2048.0), &h(1.0), &h(1.0)]), h(2050.0));
    }
}
