//! Copies into shared memory. Above a few KiB the stores are non-temporal: the lines go to memory instead of staying
//! dirty in the writer's cache, from where a reader on a far core would have to pull them one by one.
#![allow(unsafe_code)]

use std::ptr;

/// Copies with non-temporal stores where the machine has them. Ends with the fence that makes them visible in order.
///
/// # Safety
/// `from` is readable and `to` writable for `n` bytes, and they do not overlap.
pub(super) unsafe fn stream(from: *const u8, to: *mut u8, n: usize) {
    let edge = (to.align_offset(64)).min(n);
    let lines = (n - edge) / 64;
    // SAFETY: the three parts are [0, edge), [edge, edge + 64 * lines), [edge + 64 * lines, n) of both ranges; the middle
    // one begins at a multiple of 64 in `to`; the features were looked for.
    unsafe {
        ptr::copy_nonoverlapping(from, to, edge);
        let (a, b) = (from.add(edge), to.add(edge));
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                x86::avx512(a, b, lines);
            } else if is_x86_feature_detected!("avx") {
                x86::avx(a, b, lines);
            } else {
                x86::sse2(a, b, lines);
            }
            std::arch::x86_64::_mm_sfence();
        }
        #[cfg(not(target_arch = "x86_64"))]
        ptr::copy_nonoverlapping(a, b, 64 * lines);
        ptr::copy_nonoverlapping(a.add(64 * lines), b.add(64 * lines), n - edge - 64 * lines);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    macro_rules! streaming {
        ($name:ident, $feature:literal, $load:ident, $store:ident, $vector:ty) => {
            /// # Safety
            /// The feature is there, `b` is 64-byte aligned, both ranges are valid for `lines` times 64 bytes.
            #[target_feature(enable = $feature)]
            pub(super) unsafe fn $name(a: *const u8, b: *mut u8, lines: usize) {
                const PARTS: usize = 64 / size_of::<$vector>();
                for i in 0..lines * PARTS {
                    let at = i * size_of::<$vector>();
                    // SAFETY: `at` is inside both ranges; `b + at` is aligned for the vector.
                    unsafe { $store(b.add(at).cast(), $load(a.add(at).cast())) };
                }
            }
        };
    }
    streaming!(avx512, "avx512f", _mm512_loadu_si512, _mm512_stream_si512, __m512i);
    streaming!(avx, "avx", _mm256_loadu_si256, _mm256_stream_si256, __m256i);
    streaming!(sse2, "sse2", _mm_loadu_si128, _mm_stream_si128, __m128i);
}

#[cfg(test)]
mod tests {
    use super::*;

    type Copy = unsafe fn(*const u8, *mut u8, usize);

    fn check(copy: Copy) {
        let from: Vec<u8> = (0..1000u32).map(|i| (i * 7) as u8).collect();
        for n in (0..200).chain([512, 700]) {
            for (i, j) in [(0, 0), (1, 0), (0, 1), (32, 32), (7, 61)] {
                let mut to = vec![0xEEu8; 1000];
                // SAFETY: 61 + 700 < 1000.
                unsafe { copy(from.as_ptr().add(i), to.as_mut_ptr().add(j), n) };
                assert_eq!(to[j..j + n], from[i..i + n]);
                assert!(to[..j].iter().chain(&to[j + n..]).all(|b| *b == 0xEE));
            }
        }
    }

    #[test]
    fn streams_exactly_the_range() {
        check(stream);
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn every_width_copies() {
        #[repr(align(64))]
        struct Lines([u8; 640]);
        let from: Vec<u8> = (0..641u32).map(|i| i as u8).collect();
        for (there, f) in [
            (is_x86_feature_detected!("avx512f"), x86::avx512 as Copy),
            (is_x86_feature_detected!("avx"), x86::avx),
            (true, x86::sse2),
        ] {
            let mut to = Lines([0; 640]);
            if there {
                // SAFETY: the feature is there; 1 + 640 bytes of `from`, 640 of the aligned `to`.
                unsafe { f(from.as_ptr().add(1), to.0.as_mut_ptr(), 10) };
                assert_eq!(to.0[..], from[1..]);
            }
        }
    }
}
