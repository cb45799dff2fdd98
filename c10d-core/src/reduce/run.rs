//! The loop of most kernels, compiled separately for each instruction set. `bf16` kernels, and `f16` kernels that use
//! conversion instructions, have their own loops.

use std::mem::MaybeUninit;

use super::bf16;
#[cfg(target_arch = "x86_64")]
use super::bf16c;
use super::element::{BFloat, Boolean, Complex, Element, Half, Pair};
#[cfg(target_arch = "x86_64")]
use super::f16c;
use super::operation::Operation;

/// A function that reduces `n` elements of each source, in the order of the sources, into the target.
///
/// The arguments are the target, the sources, `n`, and a number. The number is the factor of a premultiplied sum or the
/// divisor (the world size) of an average; other operations ignore it. The addresses need not be aligned.
///
/// # Safety
/// There is at least one source. Each source is readable, and the target writable, for `n` elements. The target is
/// equal to one of the sources, or does not overlap any of them.
pub type Kernel = unsafe fn(*mut u8, &[*const u8], usize, f64);

/// The largest number of elements in a block. The sums of a block, at most `BLOCK_BYTES` bytes, stay in the first-level
/// cache.
const BLOCK: usize = 1024;
const BLOCK_BYTES: usize = 2048;

/// Combines one or two sources directly into the target, and more sources block by block in a local array. The compiler
/// makes vector code only because each case in which the target is equal to a source has its own loop.
///
/// # Safety
/// The same as for [`Kernel`].
#[inline(always)]
unsafe fn run<E: Element, O: Operation<E::Wide>>(to: *mut u8, sources: &[*const u8], n: usize, scale: f64) {
    let n = n * E::PARTS;
    let to = to.cast::<E::Raw>();
    // SAFETY, for all unsafe blocks below: `i < n`, and the caller promises that `n` elements are readable at each
    // source and writable at the target. Each element of the local array is written before it is read.
    let get = |source: *const u8, i: usize| {
        // SAFETY: as above.
        O::enter(E::widen(unsafe { source.cast::<E::Raw>().add(i).read_unaligned() }), scale)
    };
    // SAFETY: as above.
    let put = |i: usize, value: E::Wide| unsafe { to.add(i).write_unaligned(E::narrow(O::leave(value, scale))) };
    let onto = to.cast_const().cast::<u8>();
    match *sources {
        [] => {}
        [a] if a == onto => (0..n).for_each(|i| put(i, get(onto, i))),
        [a] => (0..n).for_each(|i| put(i, get(a, i))),
        [a, b] if a == onto => (0..n).for_each(|i| put(i, O::combine(get(onto, i), get(b, i)))),
        [a, b] if b == onto => (0..n).for_each(|i| put(i, O::combine(get(a, i), get(onto, i)))),
        [a, b] => (0..n).for_each(|i| put(i, O::combine(get(a, i), get(b, i)))),
        [a, b, ref between @ .., z] => {
            let mut sum = [MaybeUninit::<E::Wide>::uninit(); BLOCK];
            let sum = sum.as_mut_ptr().cast::<E::Wide>();
            let block = (BLOCK_BYTES / size_of::<E::Wide>()).min(BLOCK);
            for at in (0..n).step_by(block) {
                let m = block.min(n - at);
                // SAFETY: as above, and `i < m <= BLOCK`.
                unsafe {
                    (0..m).for_each(|i| *sum.add(i) = O::combine(get(a, at + i), get(b, at + i)));
                    for &c in between {
                        (0..m).for_each(|i| *sum.add(i) = O::combine(*sum.add(i), get(c, at + i)));
                    }
                    if z == onto {
                        (0..m).for_each(|i| put(at + i, O::combine(*sum.add(i), get(onto, at + i))));
                    } else {
                        (0..m).for_each(|i| put(at + i, O::combine(*sum.add(i), get(z, at + i))));
                    }
                }
            }
        }
    }
}

macro_rules! with_features {
    ($($name:ident $features:literal)*) => {$(
        /// # Safety
        /// As for [`Kernel`], and the machine has the features.
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = $features)]
        unsafe fn $name<E: Element, O: Operation<E::Wide>>(to: *mut u8, sources: &[*const u8], n: usize, scale: f64) {
            // SAFETY: the caller guarantees it.
            unsafe { run::<E, O>(to, sources, n, scale) }
        }
    )*};
}
with_features! {
    avx2 "avx2"
    avx512 "avx512f,avx512bw,avx512dq,avx512vl"
}

/// # Safety
/// The same as for [`Kernel`].
unsafe fn portable<E: Element, O: Operation<E::Wide>>(to: *mut u8, sources: &[*const u8], n: usize, scale: f64) {
    // SAFETY: the caller guarantees it.
    unsafe { run::<E, O>(to, sources, n, scale) }
}

pub(super) trait Kernels: Element {
    fn kernel<O: Operation<Self::Wide>>(machine: Machine) -> Kernel
    where
        Self: Sized,
    {
        machine.kernel::<Self, O>()
    }
}

macro_rules! kernels {
    ($($t:ty,)*) => {$(impl Kernels for $t {})*};
}
kernels!(u8, i8, u16, i16, u32, i32, u64, i64, f32, f64, Boolean, Complex<f32>, Complex<f64>,);

impl<T: Copy + 'static> Kernels for Pair<T> where Pair<T>: Element {}

impl Kernels for Half {
    fn kernel<O: Operation<f32>>(machine: Machine) -> Kernel {
        machine.half_kernel::<O>()
    }
}

impl Kernels for BFloat {
    fn kernel<O: Operation<f32>>(machine: Machine) -> Kernel {
        machine.bfloat_kernel::<O>()
    }
}

/// An instruction set of the machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Machine {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Machine {
    /// Returns all instruction sets that this machine has, the best last.
    #[cfg(test)]
    pub(super) fn all() -> impl Iterator<Item = Machine> {
        let all = [
            Machine::Portable,
            #[cfg(target_arch = "x86_64")]
            Machine::Avx2,
            #[cfg(target_arch = "x86_64")]
            Machine::Avx512,
        ];
        let best = all.into_iter().position(|machine| machine == Machine::best());
        all.into_iter().take(best.map_or(1, |best| best + 1))
    }

    #[inline]
    pub(super) fn best() -> Machine {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
            {
                return Machine::Avx512;
            }
            if is_x86_feature_detected!("avx2") {
                return Machine::Avx2;
            }
        }
        Machine::Portable
    }

    /// Returns the kernel for this instruction set, which the machine must have.
    pub(super) fn kernel<E: Element, O: Operation<E::Wide>>(self) -> Kernel {
        match self {
            Machine::Portable => portable::<E, O>,
            #[cfg(target_arch = "x86_64")]
            Machine::Avx2 => avx2::<E, O>,
            #[cfg(target_arch = "x86_64")]
            Machine::Avx512 => avx512::<E, O>,
        }
    }

    pub(super) fn bfloat_kernel<O: Operation<f32>>(self) -> Kernel {
        match self {
            Machine::Portable => bf16::portable::<O>,
            #[cfg(target_arch = "x86_64")]
            Machine::Avx2 => bf16::avx2::<O>,
            #[cfg(target_arch = "x86_64")]
            Machine::Avx512 if is_x86_feature_detected!("avx512bf16") => bf16c::run::<O>,
            #[cfg(target_arch = "x86_64")]
            Machine::Avx512 => bf16::avx512::<O>,
        }
    }

    pub(super) fn half_kernel<O: Operation<f32>>(self) -> Kernel {
        match self {
            #[cfg(target_arch = "x86_64")]
            Machine::Avx512 => f16c::by_16::<O>,
            #[cfg(target_arch = "x86_64")]
            Machine::Avx2 if is_x86_feature_detected!("f16c") => f16c::by_8::<O>,
            _ => self.kernel::<Half, O>(),
        }
    }
}
