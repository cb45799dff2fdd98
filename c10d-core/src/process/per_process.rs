//! A `static` that a forked child begins anew.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicPtr, Ordering};

use super::Process;

/// A value that each process has once, made at the first use. A forked child gets its own instead of the parent's,
/// whose locks may be held forever and whose threads do not exist. It is for `static`s: the value is never freed.
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
    /// An empty one.
    pub const fn new() -> PerProcess<T> {
        PerProcess(AtomicPtr::new(std::ptr::null_mut()))
    }

    /// The value of this process.
    pub fn get(&self) -> &'static T {
        let mut there = self.0.load(Ordering::Acquire);
        // SAFETY: leaked below, in this process or in one that it was forked from.
        while unsafe { there.as_ref() }.is_none_or(|t| !t.owner.is_current()) {
            let fresh = Box::into_raw(Box::new(Owned { owner: Process::current(), value: T::default() }));
            match self.0.compare_exchange(there, fresh, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => there = fresh,
                Err(theirs) => {
                    // SAFETY: made above, and nobody else saw it.
                    drop(unsafe { Box::from_raw(fresh) });
                    there = theirs;
                }
            }
        }
        // SAFETY: not null, and leaked.
        unsafe { &(*there).value }
    }
}

impl<T: Default + Send + Sync> Default for PerProcess<T> {
    fn default() -> Self {
        PerProcess::new()
    }
}
