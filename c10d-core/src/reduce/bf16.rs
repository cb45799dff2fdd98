//! Reduction kernels for `bf16`. A 32-bit word holds two `bf16` values. As an `f32`, the upper value is the word with
//! its lower half cleared, and the lower value is the word shifted left by 16. So plain loops over words need no
//! shuffle instructions.

use super::half;
use super::operation::Operation;

/// The number of words per iteration. Their sums fit into the vector registers.
const WORDS: usize = 32;

/// Rounds to the nearest `bf16`, ties to even. The result is in the upper half of the returned bits.
#[inline(always)]
fn round(x: f32) -> u32 {
    let bits = x.to_bits();
    // Rounding could turn a NaN into another value, so a NaN is made quiet instead.
    if x.is_nan() { bits | 0x40_0000 } else { bits.wrapping_add(0x7FFF + (bits >> 16 & 1)) }
}

/// # Safety
/// As for [`super::Kernel`].
#[inline(always)]
unsafe fn run<O: Operation<f32>>(to: *mut u8, sources: &[*const u8], n: usize, scale: f64) {
    let Some((first, others)) = sources.split_first() else { return };
    let whole = n - n % (2 * WORDS);
    for at in (0..whole).step_by(2 * WORDS) {
        let (mut low, mut high) = ([0.0; WORDS], [0.0; WORDS]);
        let word = |source: *const u8, i: usize| {
            // SAFETY: `i < WORDS` and `at + 2 * WORDS <= n`, and the caller promises that `n` elements are readable.
            unsafe { source.add(2 * at).cast::<u32>().add(i).read_unaligned() }
        };
        let widen = |word: u32| [word << 16, word & 0xFFFF_0000].map(|bits| O::enter(f32::from_bits(bits), scale));
        for i in 0..WORDS {
            [low[i], high[i]] = widen(word(*first, i));
        }
        for source in others {
            for i in 0..WORDS {
                let [l, h] = widen(word(*source, i));
                (low[i], high[i]) = (O::combine(low[i], l), O::combine(high[i], h));
            }
        }
        for i in 0..WORDS {
            let [l, h] = [low[i], high[i]].map(|sum| round(O::leave(sum, scale)));
            // SAFETY: as for `word`; the caller promises that `n` elements are writable at the target. The target may
            // be a source: all words of this iteration have been read.
            unsafe { to.add(2 * at).cast::<u32>().add(i).write_unaligned(l >> 16 | h & 0xFFFF_0000) };
        }
    }
    for at in whole..n {
        // SAFETY: `at < n`, and the caller promises that `n` elements are readable.
        let get =
            |s: *const u8| O::enter(half::bf16_to_f32(unsafe { s.cast::<u16>().add(at).read_unaligned() }), scale);
        let sum = others.iter().fold(get(*first), |sum, s| O::combine(sum, get(*s)));
        // SAFETY: `at < n`, and the caller promises that `n` elements are writable.
        unsafe { to.cast::<u16>().add(at).write_unaligned(half::f32_to_bf16(O::leave(sum, scale))) };
    }
}

macro_rules! with_features {
    ($($name:ident $features:literal)*) => {$(
        /// # Safety
        /// As for [`super::Kernel`], and the machine has the features.
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = $features)]
        pub(super) unsafe fn $name<O: Operation<f32>>(to: *mut u8, sources: &[*const u8], n: usize, scale: f64) {
            // SAFETY: as promised by the caller.
            unsafe { run::<O>(to, sources, n, scale) }
        }
    )*};
}
with_features! {
    avx2 "avx2"
    avx512 "avx512f,avx512bw,avx512dq,avx512vl"
}

/// # Safety
/// As for [`super::Kernel`].
pub(super) unsafe fn portable<O: Operation<f32>>(to: *mut u8, sources: &[*const u8], n: usize, scale: f64) {
    // SAFETY: as promised by the caller.
    unsafe { run::<O>(to, sources, n, scale) }
}
