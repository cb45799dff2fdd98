//! What was given to the streams, and what ran when.

use parking_lot::Mutex;

/// What a stream was given.
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

/// A line of the log; the log is in the order in which things happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// The device.
    pub index: u16,
    /// The stream.
    pub stream: u64,
    /// What.
    pub what: What,
    /// Of how many bytes.
    pub bytes: usize,
    /// Which piece of work of the device it is, counted as they were given.
    pub number: u64,
    /// Whether it is over; else it was given to the stream.
    pub ran: bool,
}

/// The log, written only while somebody wants it.
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
