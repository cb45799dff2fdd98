//! How an op reduces.

use c10d_core::reduce::{self, Kernel};
use c10d_core::{DType, ReduceOp};

/// The kernels of one op.
#[derive(Clone, Copy)]
pub(crate) struct Reduction {
    /// The kernel if more values are added later.
    pub(super) partial: Kernel,
    /// The kernel if no more values are added.
    pub(super) last: Kernel,
    /// The factor of a premultiplied sum, the divisor of an average.
    pub(super) scale: f64,
    /// Bytes of an element.
    pub(super) elem: usize,
}

impl Reduction {
    /// The reduction by `op` of one value per rank; `None` if the operation is not defined on the type.
    pub(crate) fn new(op: ReduceOp, dtype: DType, world: u32) -> Option<Reduction> {
        let scale = if let ReduceOp::PreMulSum(factor) = op { factor } else { f64::from(world) };
        let last = reduce::kernel(op, dtype, true)?;
        // Only an average has another kernel at its end.
        let partial = if op == ReduceOp::Avg { reduce::kernel(op, dtype, false)? } else { last };
        Some(Reduction { partial, last, scale, elem: dtype.size() })
    }
}
