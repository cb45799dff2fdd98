//! A stream of this crate, and events by which it is ordered relative to other streams.
#![allow(unsafe_code)]

use std::sync::Arc;

use c10d_core::Result;
use c10d_core::device::{Event, Stream};

use super::CudaApi;

/// A stream and its events. Events are reused, since destroying one may wait for the device.
pub(crate) struct WorkStream {
    cuda: Arc<dyn CudaApi>,
    device: u16,
    stream: Stream,
    free: Vec<Event>,
}

/// A position in a stream that an event has recorded.
pub(crate) struct Mark(Event);

impl WorkStream {
    pub(crate) fn new(cuda: Arc<dyn CudaApi>, device: u16) -> Result<WorkStream> {
        let stream = cuda.create_stream(device)?;
        Ok(WorkStream { cuda, device, stream, free: Vec::new() })
    }

    pub(crate) fn stream(&self) -> Stream {
        self.stream
    }

    /// Records the current end of the caller's stream.
    pub(crate) fn before(&mut self, caller: Stream) -> Result<Mark> {
        let event = self.event()?;
        // SAFETY: this value owns the event, and the caller guarantees that the stream belongs to this device.
        unsafe { self.cuda.record(self.device, event, caller) }?;
        Ok(Mark(event))
    }

    /// Makes later work on this stream run after a mark of another stream.
    pub(crate) fn follow(&mut self, before: Mark) -> Result {
        // SAFETY: this value owns the stream and the event.
        let done = unsafe { self.cuda.wait(self.device, self.stream, before.0) };
        // The stream waits for the record that exists now, so the event may be reused.
        self.free.push(before.0);
        done
    }

    /// Returns an error if this stream cannot wait for the caller's stream.
    pub(crate) fn check(&self, caller: Stream) -> Result {
        // SAFETY: the caller guarantees that it is a stream.
        unsafe { self.cuda.check_stream(self.device, caller) }
    }

    /// Records the current end of this stream.
    pub(crate) fn mark(&mut self) -> Result<Mark> {
        let event = self.event()?;
        // SAFETY: this value owns the stream and the event.
        unsafe { self.cuda.record(self.device, event, self.stream) }?;
        Ok(Mark(event))
    }

    /// Whether the device has reached the mark.
    pub(crate) fn passed(&self, mark: &Mark) -> Result<bool> {
        // SAFETY: this value owns the event.
        unsafe { self.cuda.query(self.device, mark.0) }
    }

    /// Ends the use of a mark that the device has reached. The event of the mark is reused.
    pub(crate) fn forget(&mut self, mark: Mark) {
        self.free.push(mark.0);
    }

    /// Destroys the stream and the events. The device must have finished all work on the stream.
    pub(crate) fn close(self) {
        // SAFETY: this value owns the stream and the events, and no mark is used any more.
        unsafe {
            self.free.into_iter().for_each(|event| self.cuda.destroy_event(self.device, event));
            self.cuda.destroy_stream(self.device, self.stream);
        }
    }

    fn event(&mut self) -> Result<Event> {
        self.free.pop().map_or_else(|| self.cuda.create_event(self.device), Ok)
    }
}
