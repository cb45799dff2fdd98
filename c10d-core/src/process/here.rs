//! The word in memory that holds the token of the running process, and how it changes at a fork.
//!
//! The word is in a page that Linux fills with zeros in every forked child. On a kernel without such pages, a fork
//! handler of the C library sets the word to zero. On such a kernel, c10d does not notice a child that was forked
//! without the C library.
#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::Once;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use super::private;

/// The address of the word, or null before the first use.
static WORD: AtomicPtr<AtomicU64> = AtomicPtr::new(std::ptr::null_mut());
/// The word on kernels that cannot fill a page with zeros in a child.
static PLAIN: AtomicU64 = AtomicU64::new(0);
/// The last token that this process or one of its ancestors used.
static LAST: AtomicU64 = AtomicU64::new(0);

/// Returns the word and the token of this process, which is never 0. If the word is 0, a new token is stored in it.
pub(super) fn token() -> (&'static AtomicU64, u64) {
    let word = word();
    match word.load(Ordering::Acquire) {
        0 => {
            let fresh = LAST.fetch_add(1, Ordering::Relaxed) + 1;
            match word.compare_exchange(0, fresh, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => (word, fresh),
                // Another thread has stored its token first.
                Err(token) => (word, token),
            }
        }
        token => (word, token),
    }
}

fn word() -> &'static AtomicU64 {
    // SAFETY: `WORD` is null or was set once, below, to memory that is never freed.
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

/// Maps a page of zeros that the kernel fills with zeros again in a forked child. `None` if the kernel cannot make such
/// a page.
fn wiped_page() -> Option<NonNull<libc::c_void>> {
    const LEN: usize = 4096;
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: the kernel chooses the address, so no existing mapping is changed.
    let page = unsafe { libc::mmap(std::ptr::null_mut(), LEN, protection, flags, -1, 0) };
    if page == libc::MAP_FAILED {
        return None;
    }
    // SAFETY: the mapping was just made and no other code uses it. Kernels before 4.14 return an error.
    if unsafe { libc::madvise(page, LEN, libc::MADV_WIPEONFORK) } != 0 {
        // SAFETY: as above; no other code has the address.
        unsafe { libc::munmap(page, LEN) };
        return None;
    }
    NonNull::new(page)
}

/// Registers [`in_child`] to run first in every child that the C library forks. If there is no memory for the
/// registration, only the kernel's zeroing of the page shows a fork.
fn at_fork() {
    // SAFETY: the handler only uses atomics and system calls, which are allowed in a child of a process with several
    // threads.
    unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
}

/// Runs in a forked child before other code of the child. Takes no locks and allocates nothing.
extern "C" fn in_child() {
    // SAFETY: as in `word`.
    if let Some(word) = unsafe { WORD.load(Ordering::Relaxed).as_ref() } {
        word.store(0, Ordering::Relaxed);
    }
    private::in_child();
}
