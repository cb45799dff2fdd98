//! The CUDA kernels of reductions, by element type.

use c10d_core::{DType, DTypeSet, ReduceOp};

use super::{Kernel, Module};

type Table<const N: usize> = [(DType, Kernel); N];

macro_rules! table {
    ($name:ident, $module:ident, $prefix:literal, $($dtype:ident $suffix:literal),*) => {
        static $name: Table<{ [$($suffix),*].len() }> = [$((
            DType::$dtype,
            Kernel { module: Module::$module, name: concat!($prefix, $suffix), parameters: 4 },
        )),*];
    };
}

table!(
    REDUCERS, Reduce, "c10d_reduce_",
    U8 "u8", I8 "i8", U16 "u16", I16 "i16", U32 "u32", I32 "i32", U64 "u64", I64 "i64",
    F16 "f16", BF16 "bf16", F32 "f32", F64 "f64"
);
table!(SCALERS, Scale, "c10d_scale_", F16 "f16", BF16 "bf16", F32 "f32", F64 "f64");

#[cfg(test)]
pub(super) fn all() -> impl Iterator<Item = &'static Kernel> {
    REDUCERS.iter().chain(&SCALERS).map(|(_, kernel)| kernel)
}

fn of(table: &'static [(DType, Kernel)], dtype: DType) -> Option<&'static Kernel> {
    table.iter().find(|(d, _)| *d == dtype).map(|(_, kernel)| kernel)
}

/// Returns the kernel that reduces elements of this type, or `None` if there is none. Its parameters are: the code of
/// the operation, the address of the accumulator, the address of the other operand, the number of elements.
pub(crate) fn reducer(dtype: DType) -> Option<&'static Kernel> {
    of(&REDUCERS, dtype)
}

/// Returns the kernel that scales elements of this type, or `None` if there is none. Its parameters are: 1 to divide or
/// 0 to multiply, the bits of the factor as an `f64`, the address of the elements, the number of elements.
pub(crate) fn scaler(dtype: DType) -> Option<&'static Kernel> {
    of(&SCALERS, dtype)
}

/// Returns the element types for which this operation has a kernel.
pub(crate) fn reduces(op: ReduceOp) -> DTypeSet {
    use DType::*;
    match op {
        ReduceOp::Sum | ReduceOp::Product | ReduceOp::Min | ReduceOp::Max => {
            DTypeSet::of(&[U8, I8, U16, I16, U32, I32, U64, I64, F16, BF16, F32, F64])
        }
        ReduceOp::Band | ReduceOp::Bor | ReduceOp::Bxor => DTypeSet::of(&[U8, I8, U16, I16, U32, I32, U64, I64]),
        _ => DTypeSet::NONE,
    }
}

/// The element types that have a kernel for scaling.
pub(crate) const SCALED: DTypeSet = DTypeSet::of(&[DType::F16, DType::BF16, DType::F32, DType::F64]);
