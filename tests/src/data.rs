//! The inputs, which contain special values.

use c10d_core::{DType, ReduceOp};
use half::{bf16, f16};

use crate::case::Case;
use crate::tensor::Tensor;

/// Returns the input of a rank in a case, for its tensor number `slot`.
pub(crate) fn input(case: &Case, rank: u32, slot: usize, count: usize) -> Tensor {
    let mut tensor = Tensor::zeros(case.dtype, count);
    let style = match (case.op.reduces(), case.reduce) {
        (true, ReduceOp::Product) => Style::Factors,
        (true, ReduceOp::Sum | ReduceOp::Avg | ReduceOp::PreMulSum(_)) => Style::Summands,
        _ => Style::Any,
    };
    let size = case.dtype.size();
    let seed = mix(u64::from(rank) << 32 | slot as u64) ^ mix((case.op as u64) << 8 | case.dtype as u64);
    let tile = count.min(PERIOD) * size;
    for (i, bytes) in tensor.bytes_mut()[..tile].chunks_exact_mut(size).enumerate() {
        let r = mix(seed ^ i as u64);
        // In sums and products, at each position at most one rank has a value such as NaN or infinity. So the order of
        // the reduction does not matter.
        let special = style == Style::Any || i as u64 % u64::from(case.world) == u64::from(rank);
        element(case.dtype, r, style, special, bytes);
    }
    let mut done = tile;
    while done < count * size {
        let more = done.min(count * size - done);
        tensor.bytes_mut().copy_within(..more, done);
        done += more;
    }
    tensor
}

/// The number of elements after which the values repeat: a prime, so that misplaced chunks are detected.
const PERIOD: usize = 1021;

#[derive(Clone, Copy, PartialEq)]
enum Style {
    /// Values that are not added or multiplied. Special values may be at every position.
    Any,
    /// Values whose partial sums are finite in any order, except for the special values.
    Summands,
    /// Values whose partial products are finite in any order, except for the special values.
    Factors,
}

fn mix(x: u64) -> u64 {
    let mut z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn element(dtype: DType, r: u64, style: Style, special: bool, out: &mut [u8]) {
    use DType::*;
    match dtype {
        Bool => out[0] = (r & 1) as u8,
        U8 | I8 | U16 | I16 | U32 | I32 | U64 | I64 => integer(dtype, r, out),
        F8E4M3 | F8E5M2 => out[0] = r as u8,
        F16 => out.copy_from_slice(
            &f16::from_f32(real(r, style, special, 6e4, f16::MIN_POSITIVE.to_f64()) as f32).to_le_bytes(),
        ),
        BF16 => out.copy_from_slice(&bf16::from_f32(real(r, style, special, 3e38, 1e-38) as f32).to_le_bytes()),
        F32 => out.copy_from_slice(&(real(r, style, special, 3e38, 1e-38) as f32).to_le_bytes()),
        F64 => out.copy_from_slice(&real(r, style, special, 1e308, 2.3e-308).to_le_bytes()),
        Complex64 => {
            let (re, im) = complex(r, style, special);
            out[..4].copy_from_slice(&(re as f32).to_le_bytes());
            out[4..].copy_from_slice(&(im as f32).to_le_bytes());
        }
        Complex128 => {
            let (re, im) = complex(r, style, special);
            out[..8].copy_from_slice(&re.to_le_bytes());
            out[8..].copy_from_slice(&im.to_le_bytes());
        }
    }
}

fn integer(dtype: DType, r: u64, out: &mut [u8]) {
    let signed = matches!(dtype, DType::I8 | DType::I16 | DType::I32 | DType::I64);
    let value = match r % 16 {
        0 => [0xff; 8],
        1 => [0; 8],
        _ => (r >> 4).to_le_bytes(),
    };
    out.copy_from_slice(&value[..out.len()]);
    if r % 16 < 2 && signed {
        // The largest and the smallest value.
        let last = out.len() - 1;
        out[last] ^= 0x80;
    }
}

fn real(r: u64, style: Style, special: bool, largest: f64, smallest: f64) -> f64 {
    let unit = (r >> 11) as f64 / (1u64 << 53) as f64;
    let sign = if r & 1 == 0 { 1.0 } else { -1.0 };
    let ordinary = match style {
        Style::Any | Style::Summands => sign * unit * 8.0,
        Style::Factors => sign * (0.75 + unit / 2.0),
    };
    match (r >> 1) % 64 {
        0 if special => f64::NAN,
        1 if special => f64::INFINITY,
        2 if special => f64::NEG_INFINITY,
        3 if special && style != Style::Factors => sign * largest,
        4 if special && style != Style::Factors => sign * smallest,
        5 if special && style != Style::Factors => sign * smallest / 4.0,
        6 => sign * 0.0,
        _ => ordinary,
    }
}

fn complex(r: u64, style: Style, special: bool) -> (f64, f64) {
    if special && (r >> 1).is_multiple_of(64) {
        return (f64::NAN, f64::NAN);
    }
    // If a factor is infinite, the result of a complex product depends on the order, so complex numbers are finite or
    // NaN.
    let plain = if style == Style::Any { Style::Summands } else { style };
    (real(r, plain, false, 0.0, 0.0), real(mix(r), plain, false, 0.0, 0.0))
}
