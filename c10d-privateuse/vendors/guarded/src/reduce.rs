//! The reductions that streams run in device memory.
#![allow(unsafe_code)]

use c10d_core::{DType, DTypeSet, Element, ReduceOp};

/// Combines the elements at the second address into those at the first. The last argument is the number of bytes.
///
/// # Safety
/// There is this number of bytes at both addresses, and nothing else uses the bytes during the call.
pub(crate) type Reducer = unsafe fn(*mut u8, *const u8, usize);

/// Returns the types that the device reduces with `op`. The host reduces all other types.
pub(crate) fn types(op: ReduceOp) -> DTypeSet {
    let of: Vec<DType> = DType::ALL.iter().copied().filter(|dtype| reducer(op, *dtype).is_some()).collect();
    DTypeSet::of(&of)
}

unsafe fn each<T: Element + Combine, const OP: u8>(acc: *mut u8, with: *const u8, bytes: usize) {
    for i in 0..bytes / size_of::<T>() {
        // SAFETY: the index is within the bytes, and unaligned access is allowed.
        unsafe {
            let (acc, with) = (acc.cast::<T>().add(i), with.cast::<T>().add(i));
            acc.write_unaligned(T::combine::<OP>(acc.read_unaligned(), with.read_unaligned()));
        }
    }
}

const SUM: u8 = ReduceOp::Sum.code();
const PRODUCT: u8 = ReduceOp::Product.code();
const MIN: u8 = ReduceOp::Min.code();
const MAX: u8 = ReduceOp::Max.code();
const BAND: u8 = ReduceOp::Band.code();
const BOR: u8 = ReduceOp::Bor.code();
const BXOR: u8 = ReduceOp::Bxor.code();

trait Combine: Copy {
    fn combine<const OP: u8>(a: Self, b: Self) -> Self;
}

macro_rules! integers {
    ($($t:ty)*) => {$(impl Combine for $t {
        fn combine<const OP: u8>(a: $t, b: $t) -> $t {
            match OP {
                SUM => a.wrapping_add(b),
                PRODUCT => a.wrapping_mul(b),
                MIN => a.min(b),
                MAX => a.max(b),
                BAND => a & b,
                BOR => a | b,
                _ => a ^ b,
            }
        }
    })*};
}

macro_rules! floats {
    ($($t:ty)*) => {$(impl Combine for $t {
        fn combine<const OP: u8>(a: $t, b: $t) -> $t {
            match OP {
                SUM => a + b,
                PRODUCT => a * b,
                _ if a.is_nan() || b.is_nan() => <$t>::NAN,
                MIN => a.min(b),
                _ => a.max(b),
            }
        }
    })*};
}

integers! { u8 i8 u16 i16 u32 i32 u64 i64 }
floats! { f32 f64 }

fn integer<T: Element + Combine>(op: ReduceOp) -> Option<Reducer> {
    Some(match op.code() {
        SUM => each::<T, SUM>,
        PRODUCT => each::<T, PRODUCT>,
        MIN => each::<T, MIN>,
        MAX => each::<T, MAX>,
        BAND => each::<T, BAND>,
        BOR => each::<T, BOR>,
        BXOR => each::<T, BXOR>,
        _ => return None,
    })
}

fn float<T: Element + Combine>(op: ReduceOp) -> Option<Reducer> {
    if matches!(op, ReduceOp::Band | ReduceOp::Bor | ReduceOp::Bxor) { None } else { integer::<T>(op) }
}

/// Returns the function for an operation on a type, or `None` if the device does not offer this operation on this type.
pub(crate) fn reducer(op: ReduceOp, dtype: DType) -> Option<Reducer> {
    match dtype {
        DType::U8 => integer::<u8>(op),
        DType::I8 => integer::<i8>(op),
        DType::U16 => integer::<u16>(op),
        DType::I16 => integer::<i16>(op),
        DType::U32 => integer::<u32>(op),
        DType::I32 => integer::<i32>(op),
        DType::U64 => integer::<u64>(op),
        DType::I64 => integer::<i64>(op),
        DType::F32 => float::<f32>(op),
        DType::F64 => float::<f64>(op),
        _ => None,
    }
}
