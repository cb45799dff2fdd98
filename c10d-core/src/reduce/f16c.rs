//! Reduction kernels for `f16` on machines with vector instructions that convert `f16` values. Compilers do not
//! generate these instructions.

use std::arch::x86_64::*;

use super::half;
use super::operation::Operation;

/// The number of vectors per iteration, all of which fit into the registers.
const VECTORS: usize = 4;

macro_rules! kernels {
    ($($name:ident $features:literal, $lanes:literal, $wide:ty:
        $load:ident $widen:ident, $narrow:ident $store:ident;)*) => {$(
        /// # Safety
        /// As for [`super::Kernel`], and the machine has the features.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn $name<O: Operation<f32>>(to: *mut u8, sources: &[*const u8], n: usize, scale: f64) {
            /// # Safety
            /// `from` is readable for `$lanes` elements.
            #[target_feature(enable = $features)]
            #[inline]
            unsafe fn widen<O: Operation<f32>>(from: *const u16, scale: f64) -> [f32; $lanes] {
                // SAFETY: the caller promises that the elements are readable; `$wide` and the array have the same size,
                // and every bit pattern is valid in both.
                let mut wide: [f32; $lanes] = unsafe { std::mem::transmute::<$wide, [f32; $lanes]>($widen($load(from.cast()))) };
                wide.iter_mut().for_each(|w| *w = O::enter(*w, scale));
                wide
            }

            let Some((first, others)) = sources.split_first() else { return };
            let (first, to) = (first.cast::<u16>(), to.cast::<u16>());
            const STEP: usize = $lanes * VECTORS;
            let whole = n - n % STEP;
            for at in (0..whole).step_by(STEP) {
                let mut sums = [[0.0; $lanes]; VECTORS];
                // SAFETY: `at + STEP <= n`, and the caller promises that `n` elements are readable at each source and
                // writable at the target. The target may be a source: all elements of this iteration are read before
                // any of them is written.
                unsafe {
                    for (v, sum) in sums.iter_mut().enumerate() {
                        *sum = widen::<O>(first.add(at + v * $lanes), scale);
                    }
                    for source in others {
                        for (v, sum) in sums.iter_mut().enumerate() {
                            let next = widen::<O>(source.cast::<u16>().add(at + v * $lanes), scale);
                            for i in 0..$lanes {
                                sum[i] = O::combine(sum[i], next[i]);
                            }
                        }
                    }
                    for (v, sum) in sums.iter_mut().enumerate() {
                        sum.iter_mut().for_each(|s| *s = O::leave(*s, scale));
                        let narrow = $narrow::<_MM_FROUND_TO_NEAREST_INT>(std::mem::transmute::<[f32; $lanes], $wide>(*sum));
                        $store(to.add(at + v * $lanes).cast(), narrow);
                    }
                }
            }
            for at in whole..n {
                // SAFETY: `at < n`, and the caller promises that `n` elements are readable and writable.
                unsafe {
                    let get = |s: *const u8| O::enter(half::f16_to_f32(s.cast::<u16>().add(at).read_unaligned()), scale);
                    let sum = others.iter().fold(get(first.cast()), |sum, s| O::combine(sum, get(*s)));
                    to.add(at).write_unaligned(half::f32_to_f16(O::leave(sum, scale)));
                }
            }
        }
    )*};
}

kernels! {
    by_8 "avx2,f16c", 8, __m256: _mm_loadu_si128 _mm256_cvtph_ps, _mm256_cvtps_ph _mm_storeu_si128;
    by_16 "avx512f,avx512bw,avx512dq,avx512vl", 16, __m512:
        _mm256_loadu_si256 _mm512_cvtph_ps, _mm512_cvtps_ph _mm256_storeu_si256;
}
