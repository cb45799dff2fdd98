//! `f16` on machines that convert many values at a time. The compiler does not use these instructions by itself.

use std::arch::x86_64::*;

use super::half;
use super::operation::Operation;

const BLOCK: usize = 512;

macro_rules! kernels {
    ($($name:ident $features:literal, $lanes:literal:
        $load:ident $widen:ident $store:ident, $load_wide:ident $narrow:ident $store_narrow:ident;)*) => {$(
        /// # Safety
        /// As for [`super::Kernel`], and the machine has the features.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn $name<O: Operation<f32>>(to: *mut u8, sources: &[*const u8], n: usize, scale: f64) {
            /// # Safety
            /// `from` is readable for as many elements.
            #[target_feature(enable = $features)]
            unsafe fn widen(from: *const u16, to: &mut [f32]) {
                let (whole, rest) = to.as_chunks_mut::<$lanes>();
                let begun = whole.len() * $lanes;
                // SAFETY: element `i` of `from` goes to element `i` of `to`.
                unsafe {
                    for (i, part) in whole.iter_mut().enumerate() {
                        $store(part.as_mut_ptr(), $widen($load(from.add(i * $lanes).cast())));
                    }
                    for (i, one) in rest.iter_mut().enumerate() {
                        *one = half::f16_to_f32(from.add(begun + i).read_unaligned());
                    }
                }
            }

            /// # Safety
            /// `to` is writable for as many elements.
            #[target_feature(enable = $features)]
            unsafe fn narrow(from: &[f32], to: *mut u16) {
                let (whole, rest) = from.as_chunks::<$lanes>();
                let begun = whole.len() * $lanes;
                // SAFETY: element `i` of `from` goes to element `i` of `to`.
                unsafe {
                    for (i, part) in whole.iter().enumerate() {
                        let part = $narrow::<_MM_FROUND_TO_NEAREST_INT>($load_wide(part.as_ptr()));
                        $store_narrow(to.add(i * $lanes).cast(), part);
                    }
                    for (i, one) in rest.iter().enumerate() {
                        to.add(begun + i).write_unaligned(half::f32_to_f16(*one));
                    }
                }
            }

            let Some((first, others)) = sources.split_first() else { return };
            let (mut sum, mut next) = ([0.0; BLOCK], [0.0; BLOCK]);
            for at in (0..n).step_by(BLOCK) {
                let m = BLOCK.min(n - at);
                let (sum, next) = (&mut sum[..m], &mut next[..m]);
                // SAFETY: `at + m <= n` elements are readable at each source and writable at the target, says the caller.
                unsafe {
                    widen(first.cast::<u16>().add(at), sum);
                    sum.iter_mut().for_each(|s| *s = O::enter(*s, scale));
                    for source in others {
                        widen(source.cast::<u16>().add(at), next);
                        sum.iter_mut().zip(&*next).for_each(|(s, v)| *s = O::combine(*s, O::enter(*v, scale)));
                    }
                    sum.iter_mut().for_each(|s| *s = O::leave(*s, scale));
                    narrow(sum, to.cast::<u16>().add(at));
                }
            }
        }
    )*};
}

kernels! {
    by_8 "avx2,f16c", 8:
        _mm_loadu_si128 _mm256_cvtph_ps _mm256_storeu_ps, _mm256_loadu_ps _mm256_cvtps_ph _mm_storeu_si128;
    by_16 "avx512f,avx512bw,avx512dq,avx512vl", 16:
        _mm256_loadu_si256 _mm512_cvtph_ps _mm512_storeu_ps, _mm512_loadu_ps _mm512_cvtps_ph _mm256_storeu_si256;
}
