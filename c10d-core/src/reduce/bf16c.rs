//! Reduction kernels for `bf16` on machines with an instruction that converts `f32` to `bf16`. Compilers do not
//! generate this instruction.

use std::arch::x86_64::*;

use super::half;
use super::operation::Operation;

/// The number of elements of a vector of `f32`.
const LANES: usize = 16;
/// The number of vectors per iteration, all of which fit into the registers.
const VECTORS: usize = 4;
const STEP: usize = LANES * VECTORS;

/// The class of subnormal numbers, for `_mm512_fpclass_ps_mask`.
const SUBNORMAL: i32 = 0x20;

/// # Safety
/// As for [`super::Kernel`], and the machine has the features.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(super) unsafe fn run<O: Operation<f32>>(to: *mut u8, sources: &[*const u8], n: usize, scale: f64) {
    let Some((first, others)) = sources.split_first() else { return };
    let (first, to) = (first.cast::<u16>(), to.cast::<u16>());
    let whole = n - n % STEP;
    for at in (0..whole).step_by(STEP) {
        let mut sums = [[0.0; LANES]; VECTORS];
        // SAFETY: `at + STEP <= n`, and the caller promises that `n` elements are readable at each source and writable
        // at the target. The target may be a source: all elements of this iteration are read before any of them is
        // written.
        unsafe {
            for (v, sum) in sums.iter_mut().enumerate() {
                *sum = widen::<O>(first.add(at + v * LANES), scale);
            }
            for source in others {
                for (v, sum) in sums.iter_mut().enumerate() {
                    let next = widen::<O>(source.cast::<u16>().add(at + v * LANES), scale);
                    for i in 0..LANES {
                        sum[i] = O::combine(sum[i], next[i]);
                    }
                }
            }
            for (pair, sums) in sums.chunks_exact_mut(2).enumerate() {
                sums.iter_mut().flatten().for_each(|sum| *sum = O::leave(*sum, scale));
                narrow([sums[0], sums[1]], to.add(at + pair * 2 * LANES));
            }
        }
    }
    for at in whole..n {
        // SAFETY: `at < n`, and the caller promises that `n` elements are readable and writable.
        unsafe {
            let get = |s: *const u8| O::enter(half::bf16_to_f32(s.cast::<u16>().add(at).read_unaligned()), scale);
            let sum = others.iter().fold(get(first.cast()), |sum, s| O::combine(sum, get(*s)));
            to.add(at).write_unaligned(half::f32_to_bf16(O::leave(sum, scale)));
        }
    }
}

/// # Safety
/// `from` is readable for [`LANES`] elements.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
#[inline]
unsafe fn widen<O: Operation<f32>>(from: *const u16, scale: f64) -> [f32; LANES] {
    // SAFETY: the caller promises that the elements are readable; the vector and the array have the same size, and
    // every bit pattern is valid in both.
    let mut wide: [f32; LANES] = unsafe {
        let words = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast())));
        std::mem::transmute::<__m512i, [f32; LANES]>(words)
    };
    wide.iter_mut().for_each(|w| *w = O::enter(*w, scale));
    wide
}

/// Rounds two vectors to `bf16`, ties to even, and writes them.
///
/// # Safety
/// `to` is writable for 2 * [`LANES`] elements.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
#[inline]
unsafe fn narrow(values: [[f32; LANES]; 2], to: *mut u16) {
    // SAFETY: vectors and arrays have the same size, and every bit pattern is valid in both. The caller promises that
    // the elements are writable.
    unsafe {
        let [low, high] = std::mem::transmute::<[[f32; LANES]; 2], [__m512; 2]>(values);
        let subnormal = _mm512_fpclass_ps_mask::<SUBNORMAL>(low) | _mm512_fpclass_ps_mask::<SUBNORMAL>(high);
        if subnormal == 0 {
            let narrow = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
            _mm512_storeu_si512(to.cast(), narrow);
        } else {
            narrow_one_by_one([low, high], to);
        }
    }
}

/// The same as [`narrow`], without the conversion instruction, which would replace subnormal numbers by zero. On all
/// machines, results must be equal.
///
/// # Safety
/// As for [`narrow`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
#[cold]
#[inline(never)]
unsafe fn narrow_one_by_one(values: [__m512; 2], to: *mut u16) {
    // SAFETY: vectors and arrays have the same size, and every bit pattern is valid in both.
    let values = unsafe { std::mem::transmute::<[__m512; 2], [f32; 2 * LANES]>(values) };
    for (i, value) in values.iter().enumerate() {
        // SAFETY: the caller promises that the elements are writable.
        unsafe { to.add(i).write_unaligned(half::f32_to_bf16(*value)) };
    }
}
