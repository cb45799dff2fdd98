//! A communicator that NCCL derives from another communicator in the background.

use std::ffi::c_void;
use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, Ordering};

use crate::nccl::Comm;

/// The memory to which a thread of NCCL writes the new communicator, before the old communicator is ready again. If the
/// old communicator never becomes ready, NCCL may still write, so the memory is leaked.
#[derive(Default)]
pub(crate) struct Child(ManuallyDrop<Arc<AtomicPtr<c_void>>>);

impl Child {
    pub(super) fn place(&self) -> *mut Comm {
        self.0.as_ptr().cast()
    }

    /// Returns the new communicator. The old communicator must be ready again.
    pub(crate) fn take(self) -> Comm {
        Comm(ManuallyDrop::into_inner(self.0).load(Ordering::Acquire))
    }
}
