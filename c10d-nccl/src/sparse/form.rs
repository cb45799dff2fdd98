//! How CUDA kernels and NCCL treat element types and operations.

use c10d_core::{DType, Error, ReduceOp, Result};
use half::{bf16, f16};

use crate::types::CAPABILITIES;

/// How rows of an element type are combined.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Form {
    /// The type as which a CUDA kernel treats the elements.
    pub(super) part: DType,
    /// The number of values of type `part` in one element.
    pub(super) parts: usize,
    pub(super) op: ReduceOp,
    /// The bits of the neutral value, with which the operation leaves every other value unchanged.
    pub(super) neutral: u64,
}

impl Form {
    /// # Errors
    /// `Unsupported` if NCCL has no such reduction.
    pub(super) fn of(dtype: DType, reduce: ReduceOp) -> Result<Form> {
        let offered = CAPABILITIES.reduces.get(usize::from(reduce.code())).is_some_and(|set| set.contains(dtype));
        if !offered {
            return Err(Error::unsupported(format!("backend nccl does not offer {reduce} of {dtype}")));
        }
        let (part, parts) = match dtype {
            DType::Bool => (DType::U8, 1),
            DType::Complex64 => (DType::F32, 2),
            DType::Complex128 => (DType::F64, 2),
            other => (other, 1),
        };
        // A bool is 0 or 1, so the sum is "or", which is the maximum, and the product is "and", which is the minimum.
        let op = match reduce {
            ReduceOp::Sum if dtype == DType::Bool => ReduceOp::Max,
            ReduceOp::Product if dtype == DType::Bool => ReduceOp::Min,
            other => other,
        };
        let neutral = if dtype == DType::Bool { u64::from(op == ReduceOp::Min) } else { neutral(part, op) };
        Ok(Form { part, parts, op, neutral })
    }
}

fn neutral(dtype: DType, op: ReduceOp) -> u64 {
    use DType::*;
    // The neutral value of a sum is -0.0, since 0.0 would change -0.0 to 0.0.
    let float = match op {
        ReduceOp::Sum => -0.0,
        ReduceOp::Product => 1.0,
        ReduceOp::Min => f64::INFINITY,
        _ => f64::NEG_INFINITY,
    };
    let (least, most): (u64, u64) = match dtype {
        I8 => (i8::MIN as u64, i8::MAX as u64),
        I32 => (i32::MIN as u64, i32::MAX as u64),
        I64 => (i64::MIN as u64, i64::MAX as u64),
        _ => (0, u64::MAX),
    };
    match (dtype, op) {
        (F16, _) => f16::from_f64(float).to_bits().into(),
        (BF16, _) => bf16::from_f64(float).to_bits().into(),
        (F32, _) => (float as f32).to_bits().into(),
        (F64, _) => float.to_bits(),
        (_, ReduceOp::Sum) => 0,
        (_, ReduceOp::Product) => 1,
        (_, ReduceOp::Min) => most,
        _ => least,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::sparse::merger;

    #[test]
    fn every_type_that_nccl_reduces_has_a_kernel() {
        for reduce in [ReduceOp::Sum, ReduceOp::Product, ReduceOp::Min, ReduceOp::Max] {
            for dtype in DType::ALL.iter().copied() {
                match Form::of(dtype, reduce) {
                    Ok(form) => {
                        assert_eq!(form.part.size() * form.parts, dtype.size());
                        assert!(merger(form.part).is_some(), "{dtype}");
                    }
                    Err(e) => assert!(e.to_string().contains(dtype.name()), "{e}"),
                }
            }
        }
        assert_eq!(Form::of(DType::I8, ReduceOp::Min).unwrap().neutral as u8, 0x7f);
        assert_eq!(Form::of(DType::F16, ReduceOp::Product).unwrap().neutral, 0x3c00);
        assert_eq!(Form::of(DType::Bool, ReduceOp::Product).unwrap().neutral, 1);
        assert!(Form::of(DType::U16, ReduceOp::Sum).is_err());
    }
}
