//! Whether this thread is running the code that reports the end of an operation.

use std::cell::Cell;

thread_local! {
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// While a value of this type exists, this thread is ending an operation. To do so, it may run foreign code (wakers,
/// drops of buffers).
pub(super) struct Reporting(());

impl Reporting {
    pub(super) fn begin() -> Reporting {
        DEPTH.set(DEPTH.get() + 1);
        Reporting(())
    }
}

impl Drop for Reporting {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
    }
}

/// Returns whether this thread is ending an operation. Such a thread must not wait for operations: it could be the
/// thread that has to end them.
pub(crate) fn is_reporting() -> bool {
    DEPTH.get() > 0
}
