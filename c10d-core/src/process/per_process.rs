//! A `static` that has its own value in each process, also after a fork.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicPtr, Ordering};

use super::Process;

/// A value that each process makes once, at the first use. A forked child makes a new value: the locks of the parent's
/// value may be held forever in the child, and the threads that use it do not exist there.
///
/// ```
/// use c10d_core::process::PerProcess;
/// use std::sync::Mutex;
///
/// static NAMES: PerProcess<Mutex<Vec<String>>> = PerProcess::new();
/// NAMES.get().lock().unwrap().push("of this process".into());
/// ```
pub struct PerProcess<T: 'static>(AtomicPtr<Owned<T>>);

struct Owned<T> {
    owner: Process,
    value: T,
}

impl<T: Default + Send + Sync> PerProcess<T> {
    /// Makes a cell whose value is made at the first use.
    pub const fn new() -> PerProcess<T> {
        PerProcess(AtomicPtr::new(std::ptr::null_mut()))
    }

    /// Returns the value of this process. The first call makes the value.
    pub fn get(&self) -> &'static T {
        let mut there = self.0.load(Ordering::Acquire);
        // SAFETY: the pointer is null or a leaked box (below), of this process or of an ancestor.
        while unsafe { there.as_ref() }.is_none_or(|t| !t.owner.is_current()) {
            let fresh = Box::into_raw(Box::new(Owned { owner: Process::current(), value: T::default() }));
            match self.0.compare_exchange(there, fresh, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => there = fresh,
                Err(theirs) => {
                    // SAFETY: made above, and no other thread has the pointer.
                    drop(unsafe { Box::from_raw(fresh) });
                    there = theirs;
                }
            }
        }
        // SAFETY: the pointer is not null, and the box is never freed.
        unsafe { &(*there).value }
    }
}

impl<T: Default + Send + Sync> Default for PerProcess<T> {
    fn default() -> Self {
        PerProcess::new()
    }
}
