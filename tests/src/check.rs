//! Compares the output of a rank with the expected output.

use c10d_core::{DType, ReduceOp};
use half::{bf16, f16};

use crate::case::Case;
use crate::reference::Want;
use crate::tensor::Tensor;

/// Compares one output. With `in_rank_order` the bits must equal those of the reference (except for the bits of NaN,
/// and the sign of a minimum or maximum that is zero).
pub(crate) fn output(case: &Case, got: &Tensor, want: &Want, in_rank_order: bool) -> Result<(), String> {
    if !got.is_guarded() {
        return Err("memory beside the output was written".into());
    }
    if got.bytes() == want.bytes {
        return Ok(());
    }
    let size = case.dtype.size();
    let parts = if matches!(case.dtype, DType::Complex64 | DType::Complex128) { 2 } else { 1 };
    let pairs = got.bytes().chunks_exact(size / parts).zip(want.bytes.chunks_exact(size / parts));
    for (i, (g, w)) in pairs.enumerate() {
        let bound = want.bounds.get(i).copied().filter(|_| !in_rank_order);
        if g != w && !(case.op.reduces() && same(case, g, w, bound)) {
            let (g, w) = (shown(case.dtype, g), shown(case.dtype, w));
            return Err(format!("element {} of {} is {g}, but must be {w}", i / parts, got.count()));
        }
    }
    Ok(())
}

/// Returns whether two different bit patterns count as the same result.
fn same(case: &Case, got: &[u8], want: &[u8], bound: Option<f64>) -> bool {
    let (Some(got), Some(want)) = (number(case.dtype, got), number(case.dtype, want)) else { return false };
    if got.is_nan() || want.is_nan() {
        return got.is_nan() && want.is_nan();
    }
    // The minimum or maximum of 0.0 and -0.0 may be either of them.
    let zeros = matches!(case.reduce, ReduceOp::Min | ReduceOp::Max) && got == 0.0 && want == 0.0;
    zeros || bound.is_some_and(|bound| (got - want).abs() <= bound)
}

/// Returns the value of a float, or of one part of a complex number.
fn number(dtype: DType, bytes: &[u8]) -> Option<f64> {
    use bytemuck::pod_read_unaligned as read;
    Some(match dtype {
        DType::F16 => read::<f16>(bytes).to_f64(),
        DType::BF16 => read::<bf16>(bytes).to_f64(),
        DType::F32 | DType::Complex64 => f64::from(read::<f32>(bytes)),
        DType::F64 | DType::Complex128 => read::<f64>(bytes),
        _ => return None,
    })
}

fn shown(dtype: DType, bytes: &[u8]) -> String {
    let hex: String = bytes.iter().rev().map(|b| format!("{b:02x}")).collect();
    number(dtype, bytes).map_or(format!("0x{hex}"), |x| format!("{x:e} (0x{hex})"))
}

/// Returns a hash of the outputs, by which ranks and runs are compared.
pub(crate) fn digest(outputs: &[Tensor]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for word in outputs.iter().flat_map(|tensor| tensor.bytes().chunks(8)) {
        let mut bytes = [0; 8];
        bytes[..word.len()].copy_from_slice(word);
        hash = (hash ^ u64::from_le_bytes(bytes)).wrapping_mul(0x100_0000_01b3).rotate_left(23);
    }
    hash
}
