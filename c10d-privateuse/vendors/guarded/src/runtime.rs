//! The device runtime.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc, dealloc};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use c10d_core::device::{self, DevicePtr, DeviceReduce, DeviceRuntime};
use c10d_core::{Device, Error, ErrorKind, Result};
use parking_lot::Mutex;

use crate::event::Event;
use crate::faults::Faults;
use crate::log::{Entry, Log, What};
use crate::memory::Memory;
use crate::stream::{Env, Host, Stream, Task};

/// The number of devices of a runtime.
const DEVICES: u16 = 8;
const PINNED: usize = 4096;

/// A runtime with 8 devices.
pub struct Guarded {
    pub(crate) name: &'static str,
    cuda: bool,
    reduces: bool,
    pub(crate) memory: Memory,
    streams: Mutex<BTreeMap<(u16, u64), Arc<Stream>>>,
    events: Mutex<BTreeMap<(u16, u64), Arc<Event>>>,
    pub(crate) faults: Arc<Faults>,
    pub(crate) log: Arc<Log>,
    /// The number of the next stream, event or piece of work.
    next: AtomicU64,
}

impl Guarded {
    /// Makes a separate runtime, whose devices are named `name`.
    pub fn new(name: &'static str) -> Guarded {
        Guarded {
            name,
            cuda: false,
            reduces: false,
            memory: Memory::default(),
            streams: Mutex::default(),
            events: Mutex::default(),
            faults: Arc::default(),
            log: Arc::default(),
            next: AtomicU64::new(1),
        }
    }

    /// Makes a runtime whose devices behave like CUDA devices: their buffers have `Device::cuda`, and real addresses.
    pub fn cuda() -> Guarded {
        let mut runtime = Guarded::new("cuda");
        runtime.cuda = true;
        runtime
    }

    /// Adds reductions on the device, for integers, f32 and f64. The host reduces other types.
    pub fn with_reduction(mut self) -> Guarded {
        self.reduces = true;
        self
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn enter(&self, index: u16, call: &str) -> Result {
        self.faults.enter(index, call)?;
        if index >= DEVICES {
            return Err(Error::new(ErrorKind::Device, format!("{} has no device {index}", self.name)));
        }
        Ok(())
    }

    fn start_stream(&self, index: u16, number: u64) -> Result<Arc<Stream>> {
        let (faults, log) = (self.faults.clone(), self.log.clone());
        let seed = (u64::from(index) << 32 | number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Stream::start(Env { faults, log, index, seed }).map_err(|e| Error::no_thread("cannot start a stream", e))
    }

    pub(crate) fn stream(&self, index: u16, number: u64) -> Result<Arc<Stream>> {
        let mut streams = self.streams.lock();
        if let Some(stream) = streams.get(&(index, number)) {
            return Ok(stream.clone());
        }
        if number != 0 {
            return Err(Error::new(ErrorKind::Device, format!("{} has no stream {number}", self.device(index))));
        }
        let stream = self.start_stream(index, 0)?;
        streams.insert((index, 0), stream.clone());
        Ok(stream)
    }

    fn event(&self, index: u16, number: u64) -> Result<Arc<Event>> {
        let event = self.events.lock().get(&(index, number)).cloned();
        event.ok_or_else(|| Error::new(ErrorKind::Device, format!("{} has no event {number}", self.device(index))))
    }

    pub(crate) fn given(&self, index: u16, stream: u64, what: What, bytes: usize) -> Entry {
        let entry = Entry { index, stream, what, bytes, number: self.number(), ran: false };
        self.log.add(entry);
        entry
    }
}

fn said(result: Result) {
    if let Err(e) = result {
        // `free` and `release` cannot return an error.
        eprintln!("guarded: {e}");
        debug_assert!(false, "guarded: {e}");
    }
}

// SAFETY: addresses are never reused. Memory exists until it is freed and no longer retained. Only copies use host
// memory, and a stream continues only after its copy has ended. A stream reaches an event after all earlier work.
unsafe impl DeviceRuntime for Guarded {
    fn name(&self) -> &'static str {
        self.name
    }

    fn device(&self, index: u16) -> Device {
        if self.cuda { Device::cuda(index) } else { Device::private(device::vendor(self.name), index) }
    }

    fn count(&self) -> Result<u16> {
        Ok(DEVICES)
    }

    fn allocate(&self, index: u16, bytes: usize) -> Result<*mut ()> {
        self.enter(index, "allocate")?;
        self.memory.allocate(bytes)
    }

    unsafe fn free(&self, index: u16, base: *mut ()) {
        said(self.enter(index, "free").and_then(|()| self.memory.free(base)));
    }

    unsafe fn retain(&self, index: u16, base: *mut ()) -> bool {
        !self.faults.forgetful() && self.enter(index, "retain").is_ok() && self.memory.retain(base).is_ok()
    }

    unsafe fn release(&self, index: u16, base: *mut ()) {
        said(self.enter(index, "release").and_then(|()| self.memory.release(base)));
    }

    fn allocate_host(&self, bytes: usize) -> Option<*mut u8> {
        self.enter(0, "allocate_host").ok()?;
        let layout = Layout::from_size_align(bytes, PINNED).ok().filter(|layout| layout.size() > 0)?;
        // SAFETY: the size is not 0.
        let base = unsafe { alloc(layout) };
        (!base.is_null()).then_some(base)
    }

    unsafe fn free_host(&self, base: *mut u8, bytes: usize) {
        if let Ok(layout) = Layout::from_size_align(bytes, PINNED) {
            // SAFETY: `base` comes from `allocate_host` with this size, and is freed once.
            unsafe { dealloc(base, layout) };
        }
    }

    fn create_stream(&self, index: u16) -> Result<u64> {
        self.enter(index, "create_stream")?;
        let number = self.number();
        let stream = self.start_stream(index, number)?;
        self.streams.lock().insert((index, number), stream);
        Ok(number)
    }

    unsafe fn destroy_stream(&self, index: u16, stream: u64) {
        if let Some(stream) = self.streams.lock().remove(&(index, stream)) {
            stream.close();
        }
    }

    fn create_event(&self, index: u16) -> Result<u64> {
        self.enter(index, "create_event")?;
        let number = self.number();
        self.events.lock().insert((index, number), Arc::default());
        Ok(number)
    }

    unsafe fn destroy_event(&self, index: u16, event: u64) {
        self.events.lock().remove(&(index, event));
    }

    unsafe fn record(&self, index: u16, event: u64, stream: u64) -> Result {
        self.enter(index, "record")?;
        let (event, stream) = (self.event(index, event)?, self.stream(index, stream)?);
        let record = event.record();
        stream.push(Task::Record { event, record });
        Ok(())
    }

    unsafe fn wait(&self, index: u16, stream: u64, event: u64) -> Result {
        self.enter(index, "wait")?;
        let (event, stream) = (self.event(index, event)?, self.stream(index, stream)?);
        let record = event.last();
        stream.push(Task::Wait { event, record });
        Ok(())
    }

    unsafe fn query(&self, index: u16, event: u64) -> Result<bool> {
        self.enter(index, "query")?;
        self.event(index, event)?.query().map_err(|text| Error::new(ErrorKind::Device, text))
    }

    unsafe fn copy_in(&self, index: u16, stream: u64, to: DevicePtr, from: *const u8, bytes: usize) -> Result {
        self.enter(index, "copy_in")?;
        let (line, to) = (self.stream(index, stream)?, self.memory.part(to, bytes)?);
        let entry = self.given(index, stream, What::CopyIn, bytes);
        line.push(Task::CopyIn { to, from: Host(from.cast_mut()), entry });
        Ok(())
    }

    unsafe fn copy_out(&self, index: u16, stream: u64, to: *mut u8, from: DevicePtr, bytes: usize) -> Result {
        self.enter(index, "copy_out")?;
        let (line, from) = (self.stream(index, stream)?, self.memory.part(from, bytes)?);
        let entry = self.given(index, stream, What::CopyOut, bytes);
        line.push(Task::CopyOut { to: Host(to), from, entry });
        Ok(())
    }

    unsafe fn copy(&self, index: u16, stream: u64, to: DevicePtr, from: DevicePtr, bytes: usize) -> Result {
        self.enter(index, "copy")?;
        let line = self.stream(index, stream)?;
        let (to, from) = (self.memory.part(to, bytes)?, self.memory.part(from, bytes)?);
        let entry = self.given(index, stream, What::Copy, bytes);
        line.push(Task::Copy { to, from, entry });
        Ok(())
    }

    fn reduction(&self) -> Option<&dyn DeviceReduce> {
        self.reduces.then_some(self)
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.streams.get_mut().values().for_each(|stream| stream.close());
    }
}
