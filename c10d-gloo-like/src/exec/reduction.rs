//! The reduction of an op.

use c10d_core::reduce::{self, Kernel};
use c10d_core::{DType, ReduceOp};

/// The functions that reduce the values of one op.
#[derive(Clone, Copy)]
pub(crate) struct Reduction {
    /// The function for all values but the last.
    pub(super) partial: Kernel,
    /// The function for the last values.
    pub(super) last: Kernel,
    /// The factor of a pre-multiplied sum, or the divisor of an average.
    pub(super) scale: f64,
    /// The number of bytes of an element.
    pub(super) elem: usize,
}

impl Reduction {
    /// Makes the reduction by `op` of one value per rank. `None` if the operation is not defined on the type.
    pub(crate) fn new(op: ReduceOp, dtype: DType, world: u32) -> Option<Reduction> {
        let scale = if let ReduceOp::PreMulSum(factor) = op { factor } else { f64::from(world) };
        let last = reduce::kernel(op, dtype, true)?;
        // Only an average has two functions: only its last one divides.
        let partial = if op == ReduceOp::Avg { reduce::kernel(op, dtype, false)? } else { last };
        Some(Reduction { partial, last, scale, elem: dtype.size() })
    }
}
