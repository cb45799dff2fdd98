//! What tests ask of a runtime: faults, and its log.

use crate::log::{Entry, What};
use crate::runtime::Guarded;

impl Guarded {
    /// From now on this call on this device does not return, until [`recover`](Guarded::recover). `call` is the name of
    /// a method of [`DeviceRuntime`](c10d_core::device::DeviceRuntime).
    pub fn hang(&self, index: u16, call: &str) {
        self.faults.hang(index, call);
    }

    /// From now on nothing that was given to streams of this device runs, until [`recover`](Guarded::recover).
    pub fn stall(&self, index: u16) {
        self.faults.stall(index);
    }

    /// From now on work of this kind does not run on this device, nor what is behind it on its stream, until
    /// [`recover`](Guarded::recover).
    pub fn hold(&self, index: u16, what: What) {
        self.faults.hold(index, what);
    }

    /// From now on this call on this device fails with this text.
    pub fn fail(&self, index: u16, call: &str, text: &str) {
        self.faults.error(index, call, text);
    }

    /// From now on this call on this device panics.
    pub fn panic(&self, index: u16, call: &str) {
        self.faults.panic(index, call);
    }

    /// After `nth` more copies on this device, one fails with this text when it runs.
    pub fn fail_copy(&self, index: u16, nth: u64, text: &str) {
        self.faults.fail_copy(index, nth, text);
    }

    /// From now on memory cannot be retained.
    pub fn forget(&self) {
        self.faults.forget();
    }

    /// Ends all faults that were asked for; what hung goes on.
    pub fn recover(&self) {
        self.faults.recover();
    }

    /// Begins a new log.
    pub fn start_log(&self) {
        self.log.start();
    }

    /// What was logged since `start_log`.
    pub fn log(&self) -> Vec<Entry> {
        self.log.so_far()
    }

    /// How many allocations are there, those that were freed but are retained among them.
    pub fn allocations(&self) -> usize {
        self.memory.count()
    }
}
