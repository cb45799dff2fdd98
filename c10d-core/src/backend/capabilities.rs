//! The ops, element types and reduce operations that a backend offers.

use crate::catalog::{OpKind, OpSet};
use crate::types::{DType, DTypeSet, ReduceOp};

/// The ops, element types and reduce operations that a backend offers. A call that needs something else is rejected
/// with `Unsupported`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The ops that the backend offers.
    pub ops: OpSet,
    /// The element types that the backend can transfer in ops that do not reduce.
    pub moves: DTypeSet,
    /// The element types that the backend can reduce, indexed by the code of the reduce operation.
    pub reduces: [DTypeSet; ReduceOp::COUNT],
    /// A further limit, indexed by the op's code: the element types that the op accepts. A type must also be in
    /// `reduces` if the op reduces, else in `moves`.
    pub by_op: [DTypeSet; OpKind::ALL.len()],
}

impl Capabilities {
    /// Every op, on every element type for which the op is defined.
    pub const ALL: Capabilities = Capabilities {
        ops: OpSet::ALL,
        moves: DTypeSet::ALL,
        reduces: {
            let mut all = [DTypeSet::NONE; ReduceOp::COUNT];
            let mut code = 0;
            while code < all.len() {
                all[code] = ReduceOp::defined(code as u8);
                code += 1;
            }
            all
        },
        by_op: [DTypeSet::ALL; OpKind::ALL.len()],
    };

    /// Returns whether the op is offered on this element type (with this reduce operation, if the op reduces).
    #[inline]
    pub fn offers(&self, op: OpKind, dtype: DType, reduce: ReduceOp) -> bool {
        let types = if op.reduces() { self.reduces[reduce.code() as usize] } else { self.moves };
        self.ops.contains(op) && types.contains(dtype) && self.by_op[op as usize].contains(dtype)
    }
}
