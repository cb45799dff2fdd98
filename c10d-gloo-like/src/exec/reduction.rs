//! How an op reduces.

use c10d_core::reduce::{self, Kernel};
use c10d_core::{DType, ReduceOp};

/// The kernels of one op.
#[derive(Clone, Copy)]
pub(crate) struct Reduction {
    /// Where more is added later.
    pub(super) partial: Kernel,
    /// Where nothing is.
    pub(super) last: Kernel,
    /// The factor of a premultiplied sum, the divisor of an average.
    pub(super) scale: f64,
    /// Bytes of an element.
    pub(super) elem: usize,
}

impl Reduction {
    /// The reduction by `op` of as many values as the world has ranks; none where the operation has no meaning.
    pub(crate) fn new(op: ReduceOp, dtype: DType, world: u32) -> Option<Reduction> {
        let scale = if let ReduceOp::PreMulSum(factor) = op { factor } else { f64::from(world) };
        let last = reduce::kernel(op, dtype, true)?;
        // Only averages end otherwise than they begin.
        let partial = if op == ReduceOp::Avg { reduce::kernel(op, dtype, false)? } else { last };
        Some(Reduction { partial, last, scale, elem: dtype.size() })
    }
}
