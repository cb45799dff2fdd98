//! All-reduce of sparse tensors.

use std::ffi::c_void;
use std::time::Duration;

use c10d::options::{Absent, AllReduceOptions};
use c10d::{Coo, DType, Element, Error, ProcessGroup, ReduceOp, Result, op};

use crate::memory::copied;

/// A sparse tensor in the caller's memory. `values` must point to `count` elements of `dtype` while this value is used.
pub(crate) struct Entries<'a> {
    pub(crate) shape: &'a [u64],
    pub(crate) sparse_dim: usize,
    pub(crate) coalesced: bool,
    pub(crate) indices: &'a [i64],
    pub(crate) values: *const c_void,
    pub(crate) count: usize,
    pub(crate) dtype: DType,
}

/// Receives the result: coordinates, values, and the number of values.
pub(crate) type Give<'a> = &'a mut dyn FnMut(&[i64], *const c_void, usize);

/// Reduces the tensor and passes the result to `give`.
pub(crate) fn all_reduce(
    group: &ProcessGroup,
    entries: &Entries<'_>,
    reduce: ReduceOp,
    timeout: Option<Duration>,
    give: Give<'_>,
) -> Result {
    macro_rules! by_type {
        ($($variant:ident $type:ty,)*) => {
            match entries.dtype {
                $(DType::$variant => run::<$type>(group, entries, reduce, timeout, give),)*
                other => Err(Error::unsupported(format!("sparse tensors of {other} cannot be reduced"))),
            }
        };
    }
    by_type! {
        U8 u8, I8 i8, U16 u16, I16 i16, U32 u32, I32 i32, U64 u64, I64 i64, F16 half::f16, BF16 half::bf16, F32 f32,
        F64 f64, Complex64 num_complex::Complex32, Complex128 num_complex::Complex64,
    }
}

fn run<T: Element>(
    group: &ProcessGroup,
    entries: &Entries<'_>,
    reduce: ReduceOp,
    timeout: Option<Duration>,
    give: Give<'_>,
) -> Result {
    let shape: Vec<usize> = entries.shape.iter().map(|size| *size as usize).collect();
    let values = copied::<T>(entries.values, entries.count);
    let mut tensor = Coo::new(shape, entries.sparse_dim, entries.indices.to_vec(), values)?;
    if entries.coalesced {
        tensor = tensor.assume_coalesced();
    }
    // Entries that a rank does not have count as 0 in a sum. Any other operation, such as a minimum, ignores them.
    let absent = if reduce == ReduceOp::Sum { Absent::Zero } else { Absent::Ignored };
    let mut call = op::all_reduce(tensor, AllReduceOptions::new(reduce).with_absent(absent));
    if let Some(timeout) = timeout {
        call = call.timeout(timeout);
    }
    let result = group.run(call)?;
    give(result.indices(), result.values().as_ptr().cast(), result.values().len());
    Ok(())
}
