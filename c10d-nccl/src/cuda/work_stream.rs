//! A stream of our own, and the marks that order it with others.
#![allow(unsafe_code)]

use std::sync::Arc;

use c10d_core::Result;
use c10d_core::device::{Event, Stream};

use super::CudaApi;

/// A stream and the events that were made for it. Events are kept and used again: destroying one may wait for the device.
pub(crate) struct WorkStream {
    cuda: Arc<dyn CudaApi>,
    device: u16,
    stream: Stream,
    free: Vec<Event>,
}

/// A place in the line that the device passes.
pub(crate) struct Mark(Event);

impl WorkStream {
    pub(crate) fn new(cuda: Arc<dyn CudaApi>, device: u16) -> Result<WorkStream> {
        let stream = cuda.create_stream(device)?;
        Ok(WorkStream { cuda, device, stream, free: Vec::new() })
    }

    pub(crate) fn stream(&self) -> Stream {
        self.stream
    }

    /// Marks what the caller's stream was given so far.
    pub(crate) fn before(&mut self, caller: Stream) -> Result<Mark> {
        let event = self.event()?;
        // SAFETY: the event is ours, the caller's stream is of this device by its word.
        unsafe { self.cuda.record(self.device, event, caller) }?;
        Ok(Mark(event))
    }

    /// What comes on the line runs after the mark.
    pub(crate) fn follow(&mut self, before: Mark) -> Result {
        // SAFETY: both are ours.
        let done = unsafe { self.cuda.wait(self.device, self.stream, before.0) };
        // The wait is for what was recorded, so the event may be used again.
        self.free.push(before.0);
        done
    }

    /// Refuses a stream of the caller's behind which nothing can run.
    pub(crate) fn check(&self, caller: Stream) -> Result {
        // SAFETY: as above.
        unsafe { self.cuda.check_stream(self.device, caller) }
    }

    /// Marks the end of what the line was given so far.
    pub(crate) fn mark(&mut self) -> Result<Mark> {
        let event = self.event()?;
        // SAFETY: both are ours.
        unsafe { self.cuda.record(self.device, event, self.stream) }?;
        Ok(Mark(event))
    }

    /// Whether the device has passed the mark.
    pub(crate) fn passed(&self, mark: &Mark) -> Result<bool> {
        // SAFETY: ours.
        unsafe { self.cuda.query(self.device, mark.0) }
    }

    /// Gives a mark back that was passed.
    pub(crate) fn forget(&mut self, mark: Mark) {
        self.free.push(mark.0);
    }

    /// Gives everything back; the device is through with it.
    pub(crate) fn close(self) {
        // SAFETY: all are ours, once; no mark is out any more.
        unsafe {
            self.free.into_iter().for_each(|event| self.cuda.destroy_event(self.device, event));
            self.cuda.destroy_stream(self.device, self.stream);
        }
    }

    fn event(&mut self) -> Result<Event> {
        self.free.pop().map_or_else(|| self.cuda.create_event(self.device), Ok)
    }
}
