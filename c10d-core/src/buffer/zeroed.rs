//! Memory for results whose size an op determines.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed};

use crate::types::Element;

/// Bytes of a huge page.
const HUGE: usize = 2 << 20;

/// Allocates `count` zeros; `None` if there is not enough memory.
///
/// The system provides zeroed pages, so nothing is written here. For large allocations it is asked for huge pages,
/// since the first write to each page costs more than writing all of it.
pub fn zeroed<T: Element>(count: usize) -> Option<Vec<T>> {
    let layout = Layout::array::<T>(count).ok()?;
    if layout.size() == 0 {
        return Some(Vec::new());
    }
    // SAFETY: the layout has a size.
    let data = unsafe { alloc_zeroed(layout) };
    if data.is_null() {
        return None;
    }
    if layout.size() >= 2 * HUGE {
        ask_for_huge_pages(data, layout.size());
    }
    // SAFETY: allocated with the layout of so many elements, all of whose types have zero for a value.
    Some(unsafe { Vec::from_raw_parts(data.cast::<T>(), count, count) })
}

#[cfg(target_os = "linux")]
fn ask_for_huge_pages(data: *mut u8, len: usize) {
    use std::ffi::{c_int, c_void};

    // SAFETY: as the system's manual has it.
    unsafe extern "C" {
        fn madvise(address: *mut c_void, len: usize, advice: c_int) -> c_int;
    }
    const MADV_HUGEPAGE: c_int = 14;
    let skip = data.align_offset(HUGE).min(len);
    // SAFETY: whole pages inside of an allocation of ours; the advice changes no contents. It may be refused.
    unsafe { madvise(data.add(skip).cast(), (len - skip) / HUGE * HUGE, MADV_HUGEPAGE) };
}

#[cfg(not(target_os = "linux"))]
fn ask_for_huge_pages(_: *mut u8, _: usize) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_or_nothing() {
        for count in [0, 1, 1000, HUGE - 1, HUGE, 3 * HUGE + 5] {
            let mut zeros = zeroed::<u32>(count).unwrap();
            assert!(zeros.len() == count && zeros.iter().all(|zero| *zero == 0));
            zeros.push(1);
        }
        assert!(zeroed::<bool>(5).unwrap().iter().all(|b| !b));
        assert!(zeroed::<u64>(usize::MAX / 4).is_none() && zeroed::<u64>(1 << 58).is_none());
    }
}
