//! A communicator that the library makes of another, in its own time.

use std::ffi::c_void;
use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, Ordering};

use crate::nccl::Comm;

/// Where the library writes the new communicator, on a thread of its own, before the old one is ready again. Where the old
/// one never is, the library may write at any time: the place is left behind.
#[derive(Default)]
pub(crate) struct Child(ManuallyDrop<Arc<AtomicPtr<c_void>>>);

impl Child {
    pub(super) fn place(&self) -> *mut Comm {
        self.0.as_ptr().cast()
    }

    /// What was made. The old communicator is ready again.
    pub(crate) fn take(self) -> Comm {
        Comm(ManuallyDrop::into_inner(self.0).load(Ordering::Acquire))
    }
}
