//! A log of the work on streams: in which order it was enqueued, and in which order it ended.

use parking_lot::Mutex;

/// The kind of a piece of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum What {
    /// A copy from host to device.
    CopyIn,
    /// A copy from device to host.
    CopyOut,
    /// A copy inside the device.
    Copy,
    /// A reduction.
    Reduce,
}

/// An entry of the log. The entries are in the order of time. A piece of work has one entry when it is enqueued, and a
/// second one with the same `number` when it has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// The device.
    pub index: u16,
    /// The stream.
    pub stream: u64,
    /// The kind of work.
    pub what: What,
    /// The number of bytes.
    pub bytes: usize,
    /// The number of the piece of work, in the order in which work was enqueued.
    pub number: u64,
    /// `false` in the entry that is made when the work is enqueued, `true` in the entry that is made when it has ended.
    pub ran: bool,
}

/// The log. Nothing is logged before `start`.
#[derive(Default)]
pub(crate) struct Log(Mutex<Option<Vec<Entry>>>);

impl Log {
    pub(crate) fn start(&self) {
        *self.0.lock() = Some(Vec::new());
    }

    pub(crate) fn so_far(&self) -> Vec<Entry> {
        self.0.lock().clone().unwrap_or_default()
    }

    pub(crate) fn add(&self, entry: Entry) {
        if let Some(entries) = &mut *self.0.lock() {
            entries.push(entry);
        }
    }
}
