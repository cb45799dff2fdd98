//! CUDA through the driver API.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::{Arc, OnceLock};

use c10d_core::device::{DevicePtr, DeviceReduce, DeviceRuntime, Event, Stream};
use c10d_core::process::PerProcess;
use c10d_core::sync::Mutex;
use c10d_core::{Device, Error, ErrorKind, Result};
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;

use super::api::CudaApi;
use super::available::available;
use super::default_index::default_index;
use super::failure::failed;
use super::functions::{self, Functions};
use super::ledger::Ledger;
use super::relaxed::Relaxed;
use crate::kernels::{Kernel, sparse};

/// The CUDA devices of this process. Each is used through its primary context, which other libraries share.
pub(crate) struct Driver {
    /// Contexts by device. They are retained at the first use and never released.
    contexts: Vec<OnceLock<Context>>,
    ledger: Ledger,
    functions: Functions,
}

/// The handle `CU_STREAM_LEGACY` of the default stream.
const LEGACY: Stream = 1;
/// The handle `CU_STREAM_PER_THREAD`.
const PER_THREAD: Stream = 2;

/// A primary context.
struct Context(sys::CUcontext);

// SAFETY: contexts may be made current on any thread.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Driver {
    /// The CUDA of this process, if any. It is the same at every call.
    pub(crate) fn get() -> Result<Arc<Driver>> {
        static DRIVER: PerProcess<Mutex<Option<Arc<Driver>>>> = PerProcess::new();
        let mut driver = DRIVER.get().lock();
        if let Some(driver) = &*driver {
            return Ok(driver.clone());
        }
        let count = available()?;
        let contexts = (0..count).map(|_| OnceLock::new()).collect();
        let made = Arc::new(Driver { contexts, ledger: Ledger::default(), functions: Functions::default() });
        *driver = Some(made.clone());
        Ok(made)
    }

    fn context(&self, index: u16) -> Result<&Context> {
        let slot = self.contexts.get(usize::from(index)).ok_or_else(|| {
            Error::invalid(format!("there is no cuda:{index}; this process sees {} devices", self.contexts.len()))
        })?;
        if slot.get().is_none() {
            let device = result::device::get(i32::from(index)).map_err(|e| failed("looking at a device", e))?;
            // SAFETY: the device was just given to us.
            let context = unsafe { result::primary_ctx::retain(device) };
            let context = context.map_err(|e| failed("taking a device's context", e))?;
            // Two threads may both have retained it. The second reference is never released. That is harmless, since
            // the context lives until the process ends.
            let _ = slot.set(Context(context));
        }
        slot.get().ok_or_else(|| Error::new(ErrorKind::Internal, "a context that was taken is gone"))
    }

    /// To be used before a call: makes this the thread's current device, and protects graphs that other threads record.
    fn call(&self, index: u16) -> Result<Relaxed> {
        self.enter(index)?;
        Relaxed::begin()
    }

    /// The same for calls that belong to no device. It selects a device that is in use, since a context needs memory on
    /// its device.
    fn call_any(&self) -> Result<Relaxed> {
        let used = self.contexts.iter().position(|context| context.get().is_some());
        self.call(used.ok_or_else(|| Error::invalid("no CUDA device is in use yet"))? as u16)
    }
}

pub(super) fn address(place: DevicePtr) -> sys::CUdeviceptr {
    (place.base as u64).wrapping_add(place.offset)
}

fn stream(stream: Stream) -> sys::CUstream {
    stream as *mut _
}

fn event(event: Event) -> sys::CUevent {
    event as *mut _
}

// SAFETY: memory comes from the driver, and the ledger frees it after its last holder; streams, events and copies are
// the driver's.
unsafe impl DeviceRuntime for Driver {
    fn name(&self) -> &'static str {
        "cuda"
    }

    fn device(&self, index: u16) -> Device {
        Device::cuda(index)
    }

    fn count(&self) -> Result<u16> {
        Ok(self.contexts.len() as u16)
    }

    fn identity(&self, index: u16) -> Option<String> {
        let device = result::device::get(i32::from(index)).ok()?;
        let uuid = result::device::get_uuid(device).ok()?;
        Some(uuid.bytes.iter().map(|byte| format!("{:02x}", *byte as u8)).collect())
    }

    fn default_index(&self, hints: &BTreeMap<String, String>, rank: u32) -> Result<Option<u16>> {
        default_index(hints, rank, self.count()?).map(Some)
    }

    fn allocate(&self, index: u16, bytes: usize) -> Result<*mut ()> {
        let _relaxed = self.call(index)?;
        // SAFETY: the contents are unspecified, as the trait allows.
        let base =
            unsafe { result::malloc_sync(bytes) }.map_err(|e| failed(&format!("allocating {bytes} bytes"), e))?;
        self.ledger.add(base, bytes);
        Ok(base as *mut ())
    }

    unsafe fn free(&self, index: u16, base: *mut ()) {
        if self.ledger.free(base as u64)
            && let Ok(_relaxed) = self.call(index)
        {
            // SAFETY: it comes from `allocate`, and has no holder any more.
            let _ = unsafe { result::free_sync(base as u64) };
        }
    }

    unsafe fn retain(&self, _: u16, base: *mut ()) -> bool {
        self.ledger.retain(base as u64)
    }

    unsafe fn release(&self, index: u16, base: *mut ()) {
        if let Some(base) = self.ledger.release(base as u64)
            && let Ok(_relaxed) = self.call(index)
        {
            // SAFETY: its owner has freed it, and it has no holder any more.
            let _ = unsafe { result::free_sync(base) };
        }
    }

    fn allocate_host(&self, bytes: usize) -> Option<*mut u8> {
        let _relaxed = self.call_any().ok()?;
        // SAFETY: page-locked memory for all contexts; the contents are unspecified.
        let base = unsafe { result::malloc_host(bytes, sys::CU_MEMHOSTALLOC_PORTABLE) };
        base.ok().map(|p| p.cast())
    }

    unsafe fn free_host(&self, base: *mut u8, _: usize) {
        let freed = self.call_any().and_then(|_relaxed| {
            // SAFETY: it comes from `allocate_host`.
            let done = unsafe { result::free_host(base.cast::<c_void>()) };
            done.map_err(|e| failed("freeing page-locked memory", e))
        });
        if let Err(e) = freed {
            tracing::warn!(target: "c10d", "{e}");
        }
    }

    fn create_stream(&self, index: u16) -> Result<Stream> {
        let _relaxed = self.call(index)?;
        let (_, highest) = result::stream::get_priority_range().map_err(|e| failed("asking for priorities", e))?;
        // Communication has the highest priority: peers wait for it.
        let made = result::stream::create_with_priority(result::stream::StreamKind::NonBlocking, highest);
        made.map(|s| s as Stream).map_err(|e| failed("making a stream", e))
    }

    unsafe fn destroy_stream(&self, index: u16, of: Stream) {
        if let Ok(_relaxed) = self.call(index) {
            // SAFETY: it comes from `create_stream` and is destroyed once.
            let _ = unsafe { result::stream::destroy(stream(of)) };
        }
    }

    fn create_event(&self, index: u16) -> Result<Event> {
        let _relaxed = self.call(index)?;
        // An event without timing is cheap.
        let made = result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING);
        made.map(|e| e as Event).map_err(|e| failed("making an event", e))
    }

    unsafe fn destroy_event(&self, index: u16, of: Event) {
        if let Ok(_relaxed) = self.call(index) {
            // SAFETY: it comes from `create_event` and is destroyed once.
            let _ = unsafe { result::event::destroy(event(of)) };
        }
    }

    unsafe fn record(&self, index: u16, mark: Event, on: Stream) -> Result {
        let _relaxed = self.call(index)?;
        // SAFETY: both belong to this device.
        unsafe { result::event::record(event(mark), stream(on)) }.map_err(|e| failed("recording an event", e))
    }

    unsafe fn wait(&self, index: u16, on: Stream, mark: Event) -> Result {
        let _relaxed = self.call(index)?;
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: both belong to this device.
        let done = unsafe { result::stream::wait_event(stream(on), event(mark), flags) };
        done.map_err(|e| failed("having a stream wait", e))
    }

    unsafe fn query(&self, index: u16, mark: Event) -> Result<bool> {
        let _relaxed = self.call(index)?;
        // SAFETY: it belongs to this device.
        match unsafe { result::event::query(event(mark)) } {
            Ok(()) => Ok(true),
            Err(DriverError(sys::CUresult::CUDA_ERROR_NOT_READY)) => Ok(false),
            Err(e) => Err(failed("the work before an event", e)),
        }
    }

    unsafe fn check_stream(&self, index: u16, on: Stream) -> Result {
        match on {
            // The default stream cannot record a graph.
            0 | LEGACY => return Ok(()),
            PER_THREAD => {
                let what = "CU_STREAM_PER_THREAD is a stream of the calling thread's, which no other can wait for; give \
                            the op a stream that was created";
                return Err(Error::invalid(what));
            }
            _ => {}
        }
        let _relaxed = self.call(index)?;
        let mut context = std::ptr::null_mut();
        // SAFETY: this is the caller's stream, of any device; the result is one handle.
        match unsafe { sys::cuStreamGetCtx(stream(on), &mut context).result() } {
            Ok(()) if context == self.context(index)?.0 => {}
            Ok(()) | Err(DriverError(sys::CUresult::CUDA_ERROR_INVALID_HANDLE)) => {
                let what = format!("the stream is not of cuda:{index}, or not of its primary context");
                return Err(Error::invalid(what));
            }
            Err(e) => return Err(failed("asking whose a stream is", e)),
        }
        // SAFETY: it belongs to this device.
        let status = unsafe { result::stream::is_capturing(stream(on)) };
        match status.map_err(|e| failed("asking whether a stream records a graph", e))? {
            sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE => Ok(()),
            _ => Err(Error::invalid("the stream records a graph; collectives in graphs are not offered")),
        }
    }

    unsafe fn copy_in(&self, index: u16, on: Stream, to: DevicePtr, from: *const u8, bytes: usize) -> Result {
        let _relaxed = self.call(index)?;
        // SAFETY: the caller guarantees both places.
        let done = unsafe { sys::cuMemcpyHtoDAsync_v2(address(to), from.cast(), bytes, stream(on)).result() };
        done.map_err(|e| failed("copying to the device", e))
    }

    unsafe fn copy_out(&self, index: u16, on: Stream, to: *mut u8, from: DevicePtr, bytes: usize) -> Result {
        let _relaxed = self.call(index)?;
        // SAFETY: as above.
        let done = unsafe { sys::cuMemcpyDtoHAsync_v2(to.cast(), address(from), bytes, stream(on)).result() };
        done.map_err(|e| failed("copying from the device", e))
    }

    unsafe fn copy(&self, index: u16, on: Stream, to: DevicePtr, from: DevicePtr, bytes: usize) -> Result {
        let _relaxed = self.call(index)?;
        // SAFETY: as above.
        let done = unsafe { sys::cuMemcpyDtoDAsync_v2(address(to), address(from), bytes, stream(on)).result() };
        done.map_err(|e| failed("copying inside the device", e))
    }

    fn reduction(&self) -> Option<&dyn DeviceReduce> {
        self.has_kernels().is_ok().then_some(self)
    }
}

// SAFETY: as above.
unsafe impl CudaApi for Driver {
    fn enter(&self, index: u16) -> Result {
        let context = self.context(index)?;
        // SAFETY: this is a primary context, which is never released. Other libraries change the thread's context, so
        // it is set each time.
        unsafe { result::ctx::set_current(context.0) }.map_err(|e| failed("taking a device", e))
    }

    fn enter_own(&self, index: u16) -> Result {
        self.enter(index)?;
        let mut mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: this exchanges one integer with the thread's.
        let done = unsafe { sys::cuThreadExchangeStreamCaptureMode(&mut mode).result() };
        done.map_err(|e| failed("leaving other threads' graphs alone", e))
    }

    fn device_of(&self, address: u64) -> Result<Option<u16>> {
        let mut ordinal = -1i32;
        let attribute = sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL;
        // SAFETY: any address is allowed; the result is one integer.
        let found = unsafe { sys::cuPointerGetAttribute((&raw mut ordinal).cast(), attribute, address).result() };
        match found {
            Ok(()) => Ok(u16::try_from(ordinal).ok()),
            Err(DriverError(sys::CUresult::CUDA_ERROR_INVALID_VALUE)) => Ok(None),
            Err(e) => Err(failed("asking whose memory an address is", e)),
        }
    }

    fn has_kernels(&self) -> Result {
        functions::can_run(self.contexts.len())
    }

    fn load(&self, index: u16) -> Result {
        let _relaxed = self.call(index)?;
        sparse::all().try_for_each(|kernel| self.functions.load(index, kernel))
    }

    unsafe fn launch(&self, index: u16, on: Stream, kernel: &Kernel, threads: usize, arguments: &[u64]) -> Result {
        let _relaxed = self.call(index)?;
        // SAFETY: the device is current; the caller guarantees the arguments.
        unsafe { self.functions.launch(index, on, kernel, threads, arguments) }
    }
}
