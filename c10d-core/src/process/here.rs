//! The word that holds the token of the running process, and its change at a fork.
//!
//! The word lies in a page that the kernel fills with zeros in a forked child, however it is forked. On kernels without
//! such pages, a fork handler of the C library writes the zero.
#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::Once;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use super::private;

/// The word, once there is one.
static WORD: AtomicPtr<AtomicU64> = AtomicPtr::new(std::ptr::null_mut());
/// The word, if the kernel has no such pages.
static PLAIN: AtomicU64 = AtomicU64::new(0);
/// The last token that was used by this process or one of its ancestors. An inherited token is never used again.
static LAST: AtomicU64 = AtomicU64::new(0);

/// The word and what it holds for this process, which is never 0.
pub(super) fn token() -> (&'static AtomicU64, u64) {
    let word = word();
    match word.load(Ordering::Acquire) {
        0 => {
            let fresh = LAST.fetch_add(1, Ordering::Relaxed) + 1;
            match word.compare_exchange(0, fresh, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => (word, fresh),
                // Another thread was first.
                Err(token) => (word, token),
            }
        }
        token => (word, token),
    }
}

fn word() -> &'static AtomicU64 {
    // SAFETY: it is set once, below, to memory that lives as long as the process and its children.
    if let Some(word) = unsafe { WORD.load(Ordering::Acquire).as_ref() } {
        return word;
    }
    static START: Once = Once::new();
    START.call_once(|| {
        let word = wiped_page().map_or(&raw const PLAIN as *mut AtomicU64, |page| page.as_ptr().cast());
        WORD.store(word, Ordering::Release);
        at_fork();
    });
    // SAFETY: as above.
    unsafe { WORD.load(Ordering::Acquire).as_ref() }.unwrap_or(&PLAIN)
}

/// A page of zeroes that is zeroes again in a forked child.
fn wiped_page() -> Option<NonNull<libc::c_void>> {
    const LEN: usize = 4096;
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping, where the kernel wants it.
    let page = unsafe { libc::mmap(std::ptr::null_mut(), LEN, protection, flags, -1, 0) };
    if page == libc::MAP_FAILED {
        return None;
    }
    // SAFETY: the mapping is this function's own. Kernels before 4.14 refuse.
    if unsafe { libc::madvise(page, LEN, libc::MADV_WIPEONFORK) } != 0 {
        // SAFETY: as above; nobody has the address.
        unsafe { libc::munmap(page, LEN) };
        return None;
    }
    NonNull::new(page)
}

/// Makes every child begin with [`in_child`]. If there is no memory for that, a child is recognised by its page only.
fn at_fork() {
    // SAFETY: the handler does only what is allowed in a child of a process with several threads.
    unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
}

/// Runs in a forked child before everything else. It uses only atomic stores and system calls, no locks and no
/// allocation.
extern "C" fn in_child() {
    // SAFETY: as in `word`.
    if let Some(word) = unsafe { WORD.load(Ordering::Relaxed).as_ref() } {
        word.store(0, Ordering::Relaxed);
    }
    private::in_child();
}
