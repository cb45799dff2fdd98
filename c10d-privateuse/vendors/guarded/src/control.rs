//! Functions for tests: they cause faults, and return the log.

use crate::log::{Entry, What};
use crate::runtime::Guarded;

impl Guarded {
    /// Makes this call on this device not return until [`recover`](Guarded::recover). `call` is the name of a method of
    /// [`DeviceRuntime`](c10d_core::device::DeviceRuntime).
    pub fn hang(&self, index: u16, call: &str) {
        self.faults.hang(index, call);
    }

    /// Stops all work on the streams of this device until [`recover`](Guarded::recover).
    pub fn stall(&self, index: u16) {
        self.faults.stall(index);
    }

    /// Stops work of this kind on this device until [`recover`](Guarded::recover). Later work on the same stream waits
    /// for the stopped work.
    pub fn hold(&self, index: u16, what: What) {
        self.faults.hold(index, what);
    }

    /// Makes this call on this device fail with this text.
    pub fn fail(&self, index: u16, call: &str, text: &str) {
        self.faults.error(index, call, text);
    }

    /// Makes this call on this device panic.
    pub fn panic(&self, index: u16, call: &str) {
        self.faults.panic(index, call);
    }

    /// Lets the next `nth` copies on this device succeed, and makes the copy after them fail with this text when it
    /// runs. Reductions count as copies.
    pub fn fail_copy(&self, index: u16, nth: u64, text: &str) {
        self.faults.fail_copy(index, nth, text);
    }

    /// Makes `retain` fail for all memory.
    pub fn forget(&self) {
        self.faults.forget();
    }

    /// Ends all faults. Calls that hang continue.
    pub fn recover(&self) {
        self.faults.recover();
    }

    /// Returns how many calls hang now.
    pub fn hanging(&self) -> usize {
        self.faults.hanging()
    }

    /// Starts a new, empty log.
    pub fn start_log(&self) {
        self.log.start();
    }

    /// Returns the log since `start_log`.
    pub fn log(&self) -> Vec<Entry> {
        self.log.so_far()
    }

    /// Returns the number of allocations, including freed allocations that are still retained.
    pub fn allocations(&self) -> usize {
        self.memory.count()
    }
}
