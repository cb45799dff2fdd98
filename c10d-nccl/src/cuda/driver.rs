//! CUDA through the driver API.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::{Arc, Once, OnceLock};

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

/// The CUDA devices of this process. Each is used through its primary context, which it shares with other libraries.
pub(crate) struct Driver {
    /// The contexts by device. Each is retained at its first use and never released.
    contexts: Vec<OnceLock<Context>>,
    ledger: Ledger,
    functions: Functions,
}

/// The handle `CU_STREAM_LEGACY` of the default stream.
const LEGACY: Stream = 1;
/// The handle `CU_STREAM_PER_THREAD`.
const PER_THREAD: Stream = 2;

struct Context(sys::CUcontext);

// SAFETY: a context may be made current on any thread.
unsafe impl Send for Context {}
// SAFETY: the same as for `Send`.
unsafe impl Sync for Context {}

impl Driver {
    /// Returns the driver of this process, which is the same at every call.
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
            let device = result::device::get(i32::from(index)).map_err(|e| failed("getting a device", e))?;
            // SAFETY: the driver has just returned this device.
            let context = unsafe { result::primary_ctx::retain(device) };
            let context = context.map_err(|e| failed("retaining a device's context", e))?;
            // If two threads have both retained the context, the second reference is never released. This is harmless,
            // since the context exists until the process ends.
            let _ = slot.set(Context(context));
        }
        slot.get().ok_or_else(|| Error::new(ErrorKind::Internal, "a context that was retained is missing"))
    }

    /// Prepares a call of the driver: makes device `index` the thread's current device, and protects graphs that other
    /// threads capture.
    fn call(&self, index: u16) -> Result<Relaxed> {
        self.enter(index)?;
        Relaxed::begin()
    }

    /// The same as `call`, for calls that belong to no device. This function selects a device that is in use already,
    /// since making the context of another device would need memory on that device.
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

// SAFETY: memory comes from the driver, and the ledger says when its owner has freed it and its last holder is gone;
// streams, events and copies are the driver's.
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
        // SAFETY: the contents are not initialized, which the trait allows.
        let base = unsafe { result::malloc_sync(bytes) }.map_err(|e| {
            let room = (e.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY).then(result::mem_get_info);
            let limit = room.and_then(std::result::Result::ok).map_or_else(String::new, |(free, total)| {
                format!(" on device {index} (limit: its memory, {total} bytes, of which {free} are free)")
            });
            failed(&format!("allocating {bytes} bytes{limit}"), e)
        })?;
        self.ledger.add(base, bytes);
        Ok(base as *mut ())
    }

    unsafe fn free(&self, index: u16, base: *mut ()) {
        if self.ledger.free(base as u64)
            && let Ok(_relaxed) = self.call(index)
        {
            // SAFETY: the memory comes from `allocate`, and nothing holds it any more.
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
            // SAFETY: the memory's owner has freed it, and nothing holds it any more.
            let _ = unsafe { result::free_sync(base) };
        }
    }

    fn allocate_host(&self, bytes: usize) -> Option<*mut u8> {
        let _relaxed = self.call_any().ok()?;
        // SAFETY: this allocates page-locked memory for all contexts; the contents are not initialized.
        let base = unsafe { result::malloc_host(bytes, sys::CU_MEMHOSTALLOC_PORTABLE) };
        // Without page-locked memory, copies use ordinary memory.
        base.inspect_err(|e| warn_once(bytes, *e)).ok().map(|p| p.cast())
    }

    unsafe fn free_host(&self, base: *mut u8, _: usize) {
        let freed = self.call_any().and_then(|_relaxed| {
            // SAFETY: the memory comes from `allocate_host`, and is freed once.
            let done = unsafe { result::free_host(base.cast::<c_void>()) };
            done.map_err(|e| failed("freeing page-locked memory", e))
        });
        if let Err(e) = freed {
            tracing::warn!(target: "c10d", "{e}");
        }
    }

    fn create_stream(&self, index: u16) -> Result<Stream> {
        let _relaxed = self.call(index)?;
        let (_, highest) =
            result::stream::get_priority_range().map_err(|e| failed("asking for stream priorities", e))?;
        // Communication has the highest priority, since peers wait for it.
        let made = result::stream::create_with_priority(result::stream::StreamKind::NonBlocking, highest);
        made.map(|s| s as Stream).map_err(|e| failed("making a stream", e))
    }

    unsafe fn destroy_stream(&self, index: u16, of: Stream) {
        if let Ok(_relaxed) = self.call(index) {
            // SAFETY: the stream comes from `create_stream` and is destroyed once.
            let _ = unsafe { result::stream::destroy(stream(of)) };
        }
    }

    fn create_event(&self, index: u16) -> Result<Event> {
        let _relaxed = self.call(index)?;
        let made = result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING);
        made.map(|e| e as Event).map_err(|e| failed("making an event", e))
    }

    unsafe fn destroy_event(&self, index: u16, of: Event) {
        if let Ok(_relaxed) = self.call(index) {
            // SAFETY: the event comes from `create_event` and is destroyed once.
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
        done.map_err(|e| failed("making a stream wait", e))
    }

    unsafe fn query(&self, index: u16, mark: Event) -> Result<bool> {
        let _relaxed = self.call(index)?;
        // SAFETY: the event belongs to this device.
        match unsafe { result::event::query(event(mark)) } {
            Ok(()) => Ok(true),
            Err(DriverError(sys::CUresult::CUDA_ERROR_NOT_READY)) => Ok(false),
            Err(e) => Err(failed("running the work before an event", e)),
        }
    }

    unsafe fn check_stream(&self, index: u16, on: Stream) -> Result {
        match on {
            // The default stream cannot capture a graph.
            0 | LEGACY => return Ok(()),
            PER_THREAD => {
                let what = "CU_STREAM_PER_THREAD is another stream on every thread, so the thread that calls NCCL cannot wait \
                            for it; use a stream that was created";
                return Err(Error::invalid(what));
            }
            _ => {}
        }
        let _relaxed = self.call(index)?;
        let mut context = std::ptr::null_mut();
        // SAFETY: it is the caller's stream, of any device; `context` is valid for writing.
        match unsafe { sys::cuStreamGetCtx(stream(on), &mut context).result() } {
            Ok(()) if context == self.context(index)?.0 => {}
            Ok(()) | Err(DriverError(sys::CUresult::CUDA_ERROR_INVALID_HANDLE)) => {
                let what = format!("the stream does not belong to cuda:{index}, or not to its primary context");
                return Err(Error::invalid(what));
            }
            Err(e) => return Err(failed("asking for a stream's context", e)),
        }
        // SAFETY: the check above ensures that the stream belongs to this device.
        let status = unsafe { result::stream::is_capturing(stream(on)) };
        match status.map_err(|e| failed("asking whether a stream is capturing a graph", e))? {
            sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE => Ok(()),
            _ => Err(Error::invalid("the stream is capturing a graph; a collective cannot be part of a graph")),
        }
    }

    unsafe fn copy_in(&self, index: u16, on: Stream, to: DevicePtr, from: *const u8, bytes: usize) -> Result {
        let _relaxed = self.call(index)?;
        // SAFETY: the caller guarantees both sides of the copy.
        let done = unsafe { sys::cuMemcpyHtoDAsync_v2(address(to), from.cast(), bytes, stream(on)).result() };
        done.map_err(|e| failed("copying to the device", e))
    }

    unsafe fn copy_out(&self, index: u16, on: Stream, to: *mut u8, from: DevicePtr, bytes: usize) -> Result {
        let _relaxed = self.call(index)?;
        // SAFETY: the caller guarantees both sides of the copy.
        let done = unsafe { sys::cuMemcpyDtoHAsync_v2(to.cast(), address(from), bytes, stream(on)).result() };
        done.map_err(|e| failed("copying from the device", e))
    }

    unsafe fn copy(&self, index: u16, on: Stream, to: DevicePtr, from: DevicePtr, bytes: usize) -> Result {
        let _relaxed = self.call(index)?;
        // SAFETY: the caller guarantees both sides of the copy.
        let done = unsafe { sys::cuMemcpyDtoDAsync_v2(address(to), address(from), bytes, stream(on)).result() };
        done.map_err(|e| failed("copying inside the device", e))
    }

    fn reduction(&self) -> Option<&dyn DeviceReduce> {
        self.has_kernels().is_ok().then_some(self)
    }
}

// SAFETY: the guarantees are those of the runtime.
unsafe impl CudaApi for Driver {
    fn enter(&self, index: u16) -> Result {
        let context = self.context(index)?;
        // SAFETY: it is a primary context, which is never released. It is set at each call, since other libraries may
        // change the thread's context.
        unsafe { result::ctx::set_current(context.0) }.map_err(|e| failed("making a device current", e))
    }

    fn enter_own(&self, index: u16) -> Result {
        self.enter(index)?;
        let mut mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: this exchanges `mode` with the thread's mode.
        let done = unsafe { sys::cuThreadExchangeStreamCaptureMode(&mut mode).result() };
        done.map_err(|e| failed("setting the thread's capture mode", e))
    }

    fn device_of(&self, address: u64) -> Result<Option<u16>> {
        let mut ordinal = -1i32;
        let attribute = sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL;
        // SAFETY: any address is allowed; the result is one integer, and `ordinal` is valid for writing.
        let found = unsafe { sys::cuPointerGetAttribute((&raw mut ordinal).cast(), attribute, address).result() };
        match found {
            Ok(()) => Ok(u16::try_from(ordinal).ok()),
            Err(DriverError(sys::CUresult::CUDA_ERROR_INVALID_VALUE)) => Ok(None),
            Err(e) => Err(failed("asking for the device of an address", e)),
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
        // SAFETY: `call` has made the device current, and the caller guarantees the arguments.
        unsafe { self.functions.launch(index, on, kernel, threads, arguments) }
    }
}

/// Reports, once per process, that CUDA gave no page-locked memory.
fn warn_once(bytes: usize, refused: DriverError) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let what = format!("CUDA refused {bytes} bytes of page-locked host memory ({})", super::failure::describe(refused));
        let error = Error::no_locked_memory(what);
        tracing::warn!(target: "c10d", "{error}; copies between host and device go through ordinary memory, which is slower");
    });
}
