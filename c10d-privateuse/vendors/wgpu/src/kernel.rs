//! The kernels (compute shaders) and their source text.

use c10d_core::{DType, DTypeSet, ReduceOp};

/// The operation of a kernel on each element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kernel {
    /// Copies a byte of the other operand.
    Copy,
    /// Reduces with the operation of this code, on elements of this type.
    Reduce(u8, DType),
}

const INTEGERS: DTypeSet = DTypeSet::of(&[DType::I8, DType::U8, DType::I32, DType::U32]);
const ALL: DTypeSet =
    DTypeSet::of(&[DType::I8, DType::U8, DType::I32, DType::U32, DType::F32, DType::F16, DType::BF16]);

pub(crate) fn reduces(op: ReduceOp) -> DTypeSet {
    match op {
        ReduceOp::Sum | ReduceOp::Min | ReduceOp::Max => ALL,
        ReduceOp::Product | ReduceOp::Band | ReduceOp::Bor | ReduceOp::Bxor => INTEGERS,
        _ => DTypeSet::NONE,
    }
}

impl Kernel {
    pub(crate) fn size(self) -> usize {
        match self {
            Kernel::Copy => 1,
            Kernel::Reduce(_, dtype) => dtype.size(),
        }
    }

    /// Returns the source text of the kernel in WGSL, or `None` if the device does not have this reduction.
    pub(crate) fn source(self) -> Option<String> {
        let combine = match self {
            Kernel::Copy => "b".to_owned(),
            Kernel::Reduce(code, dtype) => {
                let op = ReduceOp::from_code(code, 1.0).filter(|op| reduces(*op).contains(dtype))?;
                combine(op, dtype)
            }
        };
        let mask = if self.size() == 4 { u32::MAX } else { (1 << (8 * self.size())) - 1 };
        let text = include_str!("kernel.wgsl").replace("$SIZE", &self.size().to_string());
        Some(text.replace("$MASK", &mask.to_string()).replace("$COMBINE", &combine))
    }
}

fn combine(op: ReduceOp, dtype: DType) -> String {
    let float = |f: &str| match dtype {
        DType::F16 => format!("to_f16({f}(from_f16(a), from_f16(b)))"),
        DType::BF16 => format!("to_bf16({f}(from_bf16(a), from_bf16(b)))"),
        _ => format!("{f}(a, b)"),
    };
    let is_float = matches!(dtype, DType::F32 | DType::F16 | DType::BF16);
    let is_signed = matches!(dtype, DType::I8 | DType::I32);
    let extreme = |f: &str| match is_signed {
        true => format!("bitcast<u32>({f}(signed(a), signed(b)))"),
        false => format!("{f}(a, b)"),
    };
    match op {
        ReduceOp::Min if is_float => float("least"),
        ReduceOp::Max if is_float => float("most"),
        _ if is_float => float("add"),
        ReduceOp::Min => extreme("min"),
        ReduceOp::Max => extreme("max"),
        ReduceOp::Product => "a * b".to_owned(),
        ReduceOp::Band => "a & b".to_owned(),
        ReduceOp::Bor => "a | b".to_owned(),
        ReduceOp::Bxor => "a ^ b".to_owned(),
        _ => "a + b".to_owned(),
    }
}
