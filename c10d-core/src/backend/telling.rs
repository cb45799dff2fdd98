//! Whether this thread is telling somebody that an operation is over.

use std::cell::Cell;

thread_local! {
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// Foreign code may run on this thread, on behalf of whoever ends an operation: wakers, drops of buffers. As long as this
/// lives.
pub(super) struct Telling(());

impl Telling {
    pub(super) fn begin() -> Telling {
        DEPTH.set(DEPTH.get() + 1);
        Telling(())
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
    }
}

/// Whether this thread is inside of the end of an operation: waiting for the operations that it ends would never end.
pub(crate) fn is_telling() -> bool {
    DEPTH.get() > 0
}
