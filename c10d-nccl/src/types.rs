//! How element types and reductions are mapped to NCCL's, and which ops, types and reductions the backend offers.

use c10d_core::backend::{Capabilities, OpSet};
use c10d_core::{DType, DTypeSet, OpKind, ReduceOp};
use half::{bf16, f16};

use crate::nccl::{DataType, RedOp};

/// All ops except `recv_any_source`, for which NCCL has no call, and `monitored_barrier`, which uses the CPU backend.
pub(crate) const CAPABILITIES: Capabilities = Capabilities {
    ops: OpSet::ALL.without(&[OpKind::RecvAnySource, OpKind::MonitoredBarrier]),
    moves: DTypeSet::ALL,
    reduces: {
        let mut all = [DTypeSet::NONE; ReduceOp::COUNT];
        let mut code = 0;
        while code < all.len() {
            all[code] = reduced_by(code as u8);
            code += 1;
        }
        all
    },
    ..Capabilities::ALL
};

/// The capabilities without the ops that PyTorch's first engine lacks.
pub(crate) const LEGACY_CAPABILITIES: Capabilities = Capabilities {
    ops: OpSet::ALL.without(&[OpKind::RecvAnySource, OpKind::MonitoredBarrier, OpKind::AllGatherCoalesced]),
    ..CAPABILITIES
};

const fn reduced_by(code: u8) -> DTypeSet {
    use DType::*;
    match code {
        0 => DTypeSet::of(&[U8, I8, U32, I32, U64, I64, F16, BF16, F32, F64, Bool, Complex64, Complex128]),
        1 | 8 => DTypeSet::of(&[F16, BF16, F32, F64, Complex64, Complex128]),
        2..=4 => DTypeSet::of(&[U8, I8, U32, I32, U64, I64, F16, BF16, F32, F64, Bool]),
        5 | 6 => DTypeSet::of(&[Bool]),
        _ => DTypeSet::NONE,
    }
}

/// Returns the NCCL type as which elements are moved, and the number of values of this type in one element.
pub(crate) fn moved(dtype: DType) -> (DataType, usize) {
    match dtype {
        DType::I8 => (DataType::I8, 1),
        DType::I32 => (DataType::I32, 1),
        DType::U32 => (DataType::U32, 1),
        DType::I64 => (DataType::I64, 1),
        DType::U64 => (DataType::U64, 1),
        DType::F16 => (DataType::F16, 1),
        DType::F32 => (DataType::F32, 1),
        DType::F64 => (DataType::F64, 1),
        DType::BF16 => (DataType::BF16, 1),
        DType::Complex64 => (DataType::F32, 2),
        DType::Complex128 => (DataType::F64, 2),
        // Types that NCCL does not have are moved as bytes.
        other => (DataType::U8, other.size()),
    }
}

/// How NCCL computes a reduction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Reduction {
    /// By a built-in operation.
    Is(RedOp),
    /// By an operation that is made for the call: each value is multiplied by this factor, then summed.
    Scaled(f64),
}

/// Returns how NCCL computes a reduction. The type must be within the capabilities.
pub(crate) fn reduction(op: ReduceOp, dtype: DType) -> Reduction {
    // A bool is 0 or 1, so the sum is "or", which is the maximum, and the product is "and", which is the minimum.
    let bool = dtype == DType::Bool;
    Reduction::Is(match op {
        ReduceOp::Sum | ReduceOp::Bor if bool => RedOp::MAX,
        ReduceOp::Product | ReduceOp::Band if bool => RedOp::MIN,
        ReduceOp::Avg => RedOp::AVG,
        ReduceOp::Product => RedOp::PROD,
        ReduceOp::Min => RedOp::MIN,
        ReduceOp::Max => RedOp::MAX,
        ReduceOp::PreMulSum(factor) => return Reduction::Scaled(factor),
        _ => RedOp::SUM,
    })
}

/// Returns the factor as one element of NCCL's type, in bytes.
pub(crate) fn scalar(factor: f64, dtype: DataType) -> Vec<u8> {
    match dtype {
        DataType::F16 => f16::from_f64(factor).to_ne_bytes().to_vec(),
        DataType::BF16 => bf16::from_f64(factor).to_ne_bytes().to_vec(),
        DataType::F32 => (factor as f32).to_ne_bytes().to_vec(),
        _ => factor.to_ne_bytes().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_ops_but_two_are_offered() {
        let offered = OpKind::ALL.iter().filter(|op| CAPABILITIES.ops.contains(**op)).count();
        assert_eq!(offered, 18);
        assert!(!CAPABILITIES.ops.contains(OpKind::RecvAnySource));
    }

    #[test]
    fn every_offered_reduction_is_defined() {
        for code in 0..ReduceOp::COUNT as u8 {
            let op = ReduceOp::from_code(code, 0.5).unwrap();
            for dtype in CAPABILITIES.reduces[code as usize].iter() {
                assert!(op.is_defined_on(dtype), "{op} on {dtype}");
                let (kind, times) = moved(dtype);
                assert!(times == 1 || kind != DataType::U8, "{dtype} must not be reduced as several bytes");
            }
        }
        assert_eq!(reduction(ReduceOp::Sum, DType::Bool), Reduction::Is(RedOp::MAX));
        assert_eq!(reduction(ReduceOp::Sum, DType::F32), Reduction::Is(RedOp::SUM));
    }

    #[test]
    fn moved_types_have_the_size_of_the_element() {
        for dtype in DType::ALL {
            let (kind, times) = moved(*dtype);
            let size = match kind.0 {
                0 | 1 => 1,
                6 | 9 => 2,
                2 | 3 | 7 => 4,
                _ => 8,
            };
            assert_eq!(size * times, dtype.size(), "{dtype}");
        }
    }
}
