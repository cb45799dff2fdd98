//! The one loop that all kernels are, and its copies for what the machine can do.

use std::mem::MaybeUninit;

use super::Kernel;
use super::element::Element;
use super::operation::Operation;

/// The most elements at a time; less for large ones. What is accumulated stays in the first-level cache.
const BLOCK: usize = 1024;
const BLOCK_BYTES: usize = 2048;

/// Block by block: accumulate the sources, two at a time, in memory that nothing else can point to (so the compiler needs
/// no overlap checks and uses vectors), then write the target.
///
/// # Safety
/// As for [`Kernel`].
#[inline(always)]
unsafe fn run<E: Element, O: Operation<E::Wide>>(to: *mut u8, sources: &[*const u8], n: usize, scale: f64) {
    let mut sum = [MaybeUninit::<E::Wide>::uninit(); BLOCK];
    let sum = sum.as_mut_ptr().cast::<E::Wide>();
    let block = (BLOCK_BYTES / size_of::<E::Wide>()).min(BLOCK);
    let Some((first, others)) = sources.split_first() else { return };
    let n = n * E::PARTS;
    let mut at = 0;
    while at < n {
        let m = block.min(n - at);
        // SAFETY: `at + i < n` elements are readable at each source and writable at the target, says the caller;
        // `i < m <= BLOCK`; each place of the block is written before it is read.
        unsafe {
            let get = |source: *const u8, i: usize| {
                let raw = source.cast::<E::Raw>().add(at + i).read_unaligned();
                O::enter(E::widen(raw), scale)
            };
            let rest = if let Some((second, rest)) = others.split_first() {
                for i in 0..m {
                    *sum.add(i) = O::combine(get(*first, i), get(*second, i));
                }
                rest
            } else {
                for i in 0..m {
                    *sum.add(i) = get(*first, i);
                }
                others
            };
            let mut twos = rest.chunks_exact(2);
            for two in &mut twos {
                let (a, b) = (two[0], two[1]);
                for i in 0..m {
                    *sum.add(i) = O::combine(O::combine(*sum.add(i), get(a, i)), get(b, i));
                }
            }
            for &source in twos.remainder() {
                for i in 0..m {
                    *sum.add(i) = O::combine(*sum.add(i), get(source, i));
                }
            }
            for i in 0..m {
                to.cast::<E::Raw>().add(at + i).write_unaligned(E::narrow(O::leave(*sum.add(i), scale)));
            }
        }
        at += m;
    }
}

macro_rules! with_features {
    ($($name:ident $features:literal)*) => {$(
        /// # Safety
        /// As for [`Kernel`], and the machine has the features.
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = $features)]
        unsafe fn $name<E: Element, O: Operation<E::Wide>>(to: *mut u8, sources: &[*const u8], n: usize, scale: f64) {
            // SAFETY: as promised by the caller.
            unsafe { run::<E, O>(to, sources, n, scale) }
        }
    )*};
}
with_features! {
    avx2 "avx2"
    avx512 "avx512f,avx512bw,avx512dq,avx512vl"
}

/// # Safety
/// As for [`Kernel`].
unsafe fn portable<E: Element, O: Operation<E::Wide>>(to: *mut u8, sources: &[*const u8], n: usize, scale: f64) {
    // SAFETY: as promised by the caller.
    unsafe { run::<E, O>(to, sources, n, scale) }
}

/// What the machine can do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Machine {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Machine {
    /// Everything that this machine can do, the best last.
    pub(super) fn all() -> impl Iterator<Item = Machine> {
        let all = [
            (true, Machine::Portable),
            #[cfg(target_arch = "x86_64")]
            (is_x86_feature_detected!("avx2"), Machine::Avx2),
            #[cfg(target_arch = "x86_64")]
            (
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl"),
                Machine::Avx512,
            ),
        ];
        all.into_iter().filter(|(there, _)| *there).map(|(_, machine)| machine)
    }

    /// The kernel; only for a machine of [`Machine::all`].
    pub(super) fn kernel<E: Element, O: Operation<E::Wide>>(self) -> Kernel {
        match self {
            Machine::Portable => portable::<E, O>,
            #[cfg(target_arch = "x86_64")]
            Machine::Avx2 => avx2::<E, O>,
            #[cfg(target_arch = "x86_64")]
            Machine::Avx512 => avx512::<E, O>,
        }
    }
}
