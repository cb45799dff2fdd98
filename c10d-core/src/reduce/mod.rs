//! The arithmetic of reductions in host memory, for backends. It combines the values of several ranks in the given
//! order, for every operation and type. In this module, a kernel is a function that reduces (see [`Kernel`]).
#![allow(unsafe_code)]

mod bf16;
#[cfg(target_arch = "x86_64")]
mod bf16c;
mod element;
#[cfg(target_arch = "x86_64")]
mod f16c;
mod half;
mod operation;
mod run;

use crate::types::{DType, ReduceOp};

use element::{BFloat, Boolean, Complex, Half, Pair};
use operation::{And, Average, Max, Min, Or, PreMultiplied, Product, Sum, Xor};
pub use run::Kernel;
use run::{Kernels, Machine};

/// Returns the fastest kernel of an operation on a type for this machine, or `None` if the operation is not defined on
/// the type.
///
/// `last` says whether the kernel makes the last reduction of the values. For an average, only the last reduction
/// divides; earlier ones are plain sums. For a premultiplied sum, the sources must not be partial sums, since each
/// source is multiplied by the factor.
pub fn kernel(op: ReduceOp, dtype: DType, last: bool) -> Option<Kernel> {
    kernel_on(Machine::best(), op, dtype, last)
}

/// Combines `acc` and `x` element by element into `acc`. Returns `false` and does nothing if their lengths differ, if
/// the operation is not defined on the type, or if it does not combine two values (`Avg`, `PreMulSum`).
pub fn combine<T: crate::types::Element>(op: ReduceOp, acc: &mut [T], x: &[T]) -> bool {
    if acc.len() != x.len() || matches!(op, ReduceOp::Avg | ReduceOp::PreMulSum(_)) {
        return false;
    }
    let Some(kernel) = kernel(op, T::DTYPE, true) else { return false };
    let to = acc.as_mut_ptr().cast::<u8>();
    // SAFETY: both slices are readable for their common length. The target is the first source. `acc` is an exclusive
    // reference, so `x` does not overlap it.
    unsafe { kernel(to, &[to.cast_const(), x.as_ptr().cast()], acc.len(), 0.0) };
    true
}

fn kernel_on(machine: Machine, op: ReduceOp, dtype: DType, last: bool) -> Option<Kernel> {
    use DType::*;
    macro_rules! by_type {
        ($op:ty: $($dtype:pat => $element:ty,)*) => {
            match dtype {
                $($dtype => Some(<$element>::kernel::<$op>(machine)),)*
                _ => None,
            }
        };
    }
    macro_rules! by_parts {
        ($op:ty) => {
            by_type!($op: F16 => Half, BF16 => BFloat, F32 => f32, F64 => f64,
                Complex64 => Complex<f32>, Complex128 => Complex<f64>,)
        };
    }
    // Wrapping sums and products and bitwise operations are the same for signed and unsigned types.
    macro_rules! by_bits {
        ($op:ty) => {
            by_type!($op: U8 | I8 => u8, U16 | I16 => u16, U32 | I32 => u32, U64 | I64 => u64, Bool => Boolean,)
        };
    }
    macro_rules! by_order {
        ($op:ty) => {
            by_type!($op: U8 => u8, I8 => i8, U16 => u16, I16 => i16, U32 => u32, I32 => i32, U64 => u64, I64 => i64,
                F16 => Half, BF16 => BFloat, F32 => f32, F64 => f64,)
        };
    }
    match (op, dtype) {
        (ReduceOp::Sum | ReduceOp::Max, Bool) => by_bits!(Or),
        (ReduceOp::Product | ReduceOp::Min, Bool) => by_bits!(And),
        (ReduceOp::Avg, _) if last => by_parts!(Average),
        (ReduceOp::Avg, _) => by_parts!(Sum),
        (ReduceOp::PreMulSum(_), _) => by_parts!(PreMultiplied),
        (ReduceOp::Sum, F16 | BF16 | F32 | F64 | Complex64 | Complex128) => by_parts!(Sum),
        (ReduceOp::Sum, _) => by_type!(Sum: U8 | I8 => u8, U16 | I16 => u16, U32 | I32 => u32, U64 | I64 => u64,),
        (ReduceOp::Product, _) => by_type!(Product: U8 | I8 => u8, U16 | I16 => u16, U32 | I32 => u32,
            U64 | I64 => u64, F16 => Half, BF16 => BFloat, F32 => f32, F64 => f64,
            Complex64 => Pair<f32>, Complex128 => Pair<f64>,),
        (ReduceOp::Min, _) => by_order!(Min),
        (ReduceOp::Max, _) => by_order!(Max),
        (ReduceOp::Band, _) => by_bits!(And),
        (ReduceOp::Bor, _) => by_bits!(Or),
        (ReduceOp::Bxor, _) => by_bits!(Xor),
    }
}

#[cfg(test)]
mod tests;
