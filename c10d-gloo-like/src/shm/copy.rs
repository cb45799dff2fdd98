//! Copies with ordinary or with non-temporal stores, into shared memory and out of it.
//!
//! Ordinary stores leave the bytes in the writer's cache. Non-temporal stores go to memory. If the writer's and the
//! reader's core share a cache, ordinary stores are two to three times faster. If not, ordinary stores are several
//! times slower. The operating system may move a rank to another core, so the writer decides by the measured cost of
//! its own stores.
#![allow(unsafe_code)]

use std::ptr;

/// Copies of fewer bytes always use ordinary stores: the measured time of short non-temporal stores does not include
/// their completion.
const LARGE: usize = 16 << 10;
/// Of this many copies of at least `LARGE` bytes, one tries the other kind of stores.
const TRY_EVERY: u32 = 256;

/// The kind of stores that the writer of a ring uses, and the measured costs.
pub(super) struct Stores {
    /// The recent cost of ordinary and of non-temporal stores, in ticks per [`UNIT`]; 0 if unknown.
    cost: [u64; 2],
    /// Whether copies of at least `LARGE` bytes use non-temporal stores. (A try uses the other kind.)
    streaming: bool,
    /// The number of copies of at least `LARGE` bytes up to the next try, including that try.
    next_try: u32,
}

/// The number of bytes to which a cost refers.
const UNIT: u64 = 64 << 10;

impl Stores {
    pub(super) fn new() -> Stores {
        Stores { cost: [0; 2], streaming: false, next_try: 8 }
    }

    /// Copies `n` bytes.
    ///
    /// # Safety
    /// `from` is readable and `to` writable for `n` bytes, and they do not overlap.
    #[inline]
    pub(super) unsafe fn copy(&mut self, from: *const u8, to: *mut u8, n: usize) {
        if n < LARGE || cfg!(not(target_arch = "x86_64")) {
            // SAFETY: the caller guarantees that the ranges are valid and do not overlap.
            return unsafe { ptr::copy_nonoverlapping(from, to, n) };
        }
        self.next_try -= 1;
        let trying = self.next_try == 0;
        if trying {
            self.next_try = TRY_EVERY;
        }
        let streaming = self.streaming != trying;
        let start = ticks();
        // SAFETY: the caller guarantees that the ranges are valid and do not overlap.
        unsafe {
            if streaming {
                stream(from, to, n);
            } else {
                ptr::copy_nonoverlapping(from, to, n);
            }
        }
        self.learn(streaming, trying, ticks().wrapping_sub(start) * UNIT / n as u64);
    }

    fn learn(&mut self, streaming: bool, trying: bool, cost: u64) {
        let known = &mut self.cost[usize::from(streaming)];
        *known = match *known {
            0 => cost.max(1),
            // An outlier (the system's scheduler interrupted the copy) must have little weight.
            k if trying => (k + cost.min(4 * k)) / 2,
            k => (7 * k + cost.min(2 * k)) / 8,
        };
        let [ordinary, non_temporal] = self.cost;
        // After non-temporal stores, the reader must read from memory. So non-temporal stores must be clearly cheaper.
        self.streaming = non_temporal != 0 && non_temporal < ordinary / 4 * 3;
    }
}

/// A rank's copies to the output bypass the cache under three conditions:
/// - The tensors of all ranks of the collective together have at least this many bytes.
/// - The rank shares memory with all other ranks of the collective.
/// - The rank's plan never reads the bytes that it has received or copied (see `Plan::only_stores_received`).
///
/// The number is twice the size of the last-level cache of the machine on which this was measured.
pub(crate) const PAST_CACHE: usize = 64 << 20;

/// Copies `n` bytes. With `past_cache`, the stores are non-temporal, and displace no other bytes in the cache.
///
/// # Safety
/// `from` is readable and `to` writable for `n` bytes, and they do not overlap.
#[inline]
pub(crate) unsafe fn copy(from: *const u8, to: *mut u8, n: usize, past_cache: bool) {
    // SAFETY: the caller guarantees that the ranges are valid and do not overlap.
    unsafe {
        if past_cache {
            stream(from, to, n);
        } else {
            ptr::copy_nonoverlapping(from, to, n);
        }
    }
}

/// Reads the processor's clock, which takes less time than a copy. Returns 0 on processors other than x86-64.
#[inline]
fn ticks() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 processor has this instruction.
    unsafe {
        std::arch::x86_64::_rdtsc()
    }
    #[cfg(not(target_arch = "x86_64"))]
    0
}

/// Copies with non-temporal stores if the machine has them. At the end, a fence makes these stores visible in order.
///
/// # Safety
/// `from` is readable and `to` writable for `n` bytes, and they do not overlap.
unsafe fn stream(from: *const u8, to: *mut u8, n: usize) {
    let edge = (to.align_offset(64)).min(n);
    let lines = (n - edge) / 64;
    // SAFETY: the three parts are [0, edge), [edge, edge + 64 * lines), [edge + 64 * lines, n) of both ranges. The
    // middle part begins at a multiple of 64 in `to`. Each function is called only if the processor has its feature.
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
            /// The processor has the feature, `b` is 64-byte aligned, and both ranges are valid for `lines` times 64
            /// bytes.
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
    fn the_cheaper_kind_of_stores_is_used() {
        let mut stores = Stores::new();
        let copy = |stores: &mut Stores, costs: [u64; 2], n: usize| {
            for _ in 0..n {
                let trying = stores.cost[1] == 0;
                let streaming = stores.streaming != trying;
                stores.learn(streaming, trying, costs[usize::from(streaming)]);
            }
            stores.streaming
        };
        assert!(!copy(&mut stores, [1000, 3000], 10));
        // The system's scheduler interrupts one copy.
        stores.learn(false, false, 1_000_000);
        assert!(!stores.streaming);
        // The cores of the two ranks stop sharing a cache, and then share one again.
        assert!(copy(&mut stores, [20_000, 3000], 100));
        for _ in 0..4 {
            stores.learn(false, true, 1000);
        }
        assert!(!stores.streaming);
    }

    #[test]
    fn stream_writes_exactly_the_range() {
        check(stream);
        // SAFETY: `check` passes valid ranges that do not overlap.
        check(|from, to, n| unsafe { copy(from, to, n, true) });
        // SAFETY: `check` passes valid ranges that do not overlap.
        check(|from, to, n| unsafe { copy(from, to, n, false) });
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn stores_of_every_width_copy_all_bytes() {
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
                // SAFETY: the processor has the feature. `from` has 1 + 640 bytes, and the aligned `to` has 640.
                unsafe { f(from.as_ptr().add(1), to.0.as_mut_ptr(), 10) };
                assert_eq!(to.0[..], from[1..]);
            }
        }
    }
}
