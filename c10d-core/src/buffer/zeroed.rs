//! Memory for results whose size is not known before the op.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed};

use crate::types::Element;

/// The size of a huge page in bytes.
const HUGE: usize = 2 << 20;

/// Allocates `count` zeros; `None` if there is not enough memory.
///
/// For a large allocation, the system provides zeroed pages, so this function writes nothing. The function then asks
/// for huge pages, which make the first writes to the memory cheaper.
pub fn zeroed<T: Element>(count: usize) -> Option<Vec<T>> {
    let layout = Layout::array::<T>(count).ok()?;
    if layout.size() == 0 {
        return Some(Vec::new());
    }
    // SAFETY: the layout's size is not 0.
    let data = unsafe { alloc_zeroed(layout) };
    if data.is_null() {
        return None;
    }
    if layout.size() >= 2 * HUGE {
        ask_for_huge_pages(data, layout.size());
    }
    // SAFETY: the memory was allocated with the layout of `count` elements. Zero bytes are a valid value of every
    // element type.
    Some(unsafe { Vec::from_raw_parts(data.cast::<T>(), count, count) })
}

#[cfg(target_os = "linux")]
fn ask_for_huge_pages(data: *mut u8, len: usize) {
    use std::ffi::{c_int, c_void};

    // SAFETY: this is the signature in madvise(2).
    unsafe extern "C" {
        fn madvise(address: *mut c_void, len: usize, advice: c_int) -> c_int;
    }
    const MADV_HUGEPAGE: c_int = 14;
    let skip = data.align_offset(HUGE).min(len);
    // SAFETY: the range consists of whole pages inside an allocation of this function's caller, and the advice does not
    // change their contents.
    unsafe { madvise(data.add(skip).cast(), (len - skip) / HUGE * HUGE, MADV_HUGEPAGE) };
}

#[cfg(not(target_os = "linux"))]
fn ask_for_huge_pages(_: *mut u8, _: usize) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeroed_returns_zeros_or_none() {
        for count in [0, 1, 1000, HUGE - 1, HUGE, 3 * HUGE + 5] {
            let mut zeros = zeroed::<u32>(count).unwrap();
            assert!(zeros.len() == count && zeros.iter().all(|zero| *zero == 0));
            zeros.push(1);
        }
        assert!(zeroed::<bool>(5).unwrap().iter().all(|b| !b));
        assert!(zeroed::<u64>(usize::MAX / 4).is_none() && zeroed::<u64>(1 << 58).is_none());
    }
}
