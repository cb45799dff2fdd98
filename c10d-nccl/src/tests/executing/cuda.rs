//! The fake driver as `CudaApi`.
#![allow(unsafe_code)]

use std::ffi::{CString, c_int};

use c10d_core::device::{DevicePtr, DeviceRuntime, Event, Stream};
use c10d_core::{Device, Error, ErrorKind, Result};
use c10d_fake_nccl::{cuda as driver, kernels};

use crate::cuda::CudaApi;
use crate::kernels::Kernel;

pub(super) struct FakeCuda;

/// How many devices there are.
pub(super) fn count() -> Result<u16> {
    // SAFETY: writes its answer, here and in all calls that answer.
    let count = answer("cuDeviceGetCount", |count: &mut c_int| unsafe { driver::cuDeviceGetCount(count) })?;
    Ok(count as u16)
}

fn done(call: &str, code: c_int) -> Result {
    if code == driver::SUCCESS {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Device, format!("the fake driver: {call} gave {code}")))
}

/// What a call writes.
fn answer<T: Default>(call: &str, ask: impl FnOnce(&mut T) -> c_int) -> Result<T> {
    let mut answer = T::default();
    done(call, ask(&mut answer))?;
    Ok(answer)
}

fn address(place: DevicePtr) -> u64 {
    place.base as u64 + place.offset
}

// SAFETY: memory, streams, events and copies are the fake driver's, which keeps to what the trait says.
unsafe impl DeviceRuntime for FakeCuda {
    fn name(&self) -> &'static str {
        "cuda"
    }
    fn device(&self, index: u16) -> Device {
        Device::cuda(index)
    }
    fn count(&self) -> Result<u16> {
        count()
    }
    fn allocate(&self, index: u16, bytes: usize) -> Result<*mut ()> {
        self.enter(index)?;
        // SAFETY: as above.
        let at: u64 = answer("cuMemAlloc", |at| unsafe { driver::cuMemAlloc_v2(at, bytes) })?;
        Ok(at as *mut ())
    }
    unsafe fn free(&self, _: u16, base: *mut ()) {
        driver::cuMemFree_v2(base as u64);
    }
    fn create_stream(&self, index: u16) -> Result<Stream> {
        self.enter(index)?;
        // SAFETY: as above.
        answer("cuStreamCreate", |stream| unsafe { driver::cuStreamCreate(stream, 0) })
    }
    unsafe fn destroy_stream(&self, _: u16, stream: Stream) {
        driver::cuStreamDestroy_v2(stream);
    }
    fn create_event(&self, index: u16) -> Result<Event> {
        self.enter(index)?;
        // SAFETY: as above.
        answer("cuEventCreate", |event| unsafe { driver::cuEventCreate(event, 0) })
    }
    unsafe fn destroy_event(&self, _: u16, event: Event) {
        driver::cuEventDestroy_v2(event);
    }
    unsafe fn record(&self, index: u16, event: Event, stream: Stream) -> Result {
        self.enter(index)?;
        done("cuEventRecord", driver::cuEventRecord(event, stream))
    }
    unsafe fn wait(&self, index: u16, stream: Stream, event: Event) -> Result {
        self.enter(index)?;
        done("cuStreamWaitEvent", driver::cuStreamWaitEvent(stream, event, 0))
    }
    unsafe fn query(&self, index: u16, event: Event) -> Result<bool> {
        self.enter(index)?;
        match driver::cuEventQuery(event) {
            driver::NOT_READY => Ok(false),
            code => done("cuEventQuery", code).map(|()| true),
        }
    }
    unsafe fn copy_in(&self, index: u16, stream: Stream, to: DevicePtr, from: *const u8, bytes: usize) -> Result {
        self.enter(index)?;
        done("cuMemcpyHtoDAsync", driver::cuMemcpyHtoDAsync_v2(address(to), from as u64, bytes, stream))
    }
    unsafe fn copy_out(&self, index: u16, stream: Stream, to: *mut u8, from: DevicePtr, bytes: usize) -> Result {
        self.enter(index)?;
        done("cuMemcpyDtoHAsync", driver::cuMemcpyDtoHAsync_v2(to as u64, address(from), bytes, stream))
    }
    unsafe fn copy(&self, index: u16, stream: Stream, to: DevicePtr, from: DevicePtr, bytes: usize) -> Result {
        self.enter(index)?;
        done("cuMemcpyDtoDAsync", driver::cuMemcpyDtoDAsync_v2(address(to), address(from), bytes, stream))
    }
}

// SAFETY: as above.
unsafe impl CudaApi for FakeCuda {
    fn enter(&self, index: u16) -> Result {
        let device = c_int::from(index as i16);
        // SAFETY: as above.
        let retain = |context: &mut u64| unsafe { driver::cuDevicePrimaryCtxRetain(context, device) };
        done("cuCtxSetCurrent", driver::cuCtxSetCurrent(answer("cuDevicePrimaryCtxRetain", retain)?))
    }
    fn device_of(&self, address: u64) -> Result<Option<u16>> {
        const ORDINAL: c_int = 9;
        let mut ordinal: c_int = -1;
        // SAFETY: as above.
        match unsafe { driver::cuPointerGetAttribute((&raw mut ordinal).cast(), ORDINAL, address) } {
            driver::INVALID_VALUE => Ok(None),
            code => done("cuPointerGetAttribute", code).map(|()| u16::try_from(ordinal).ok()),
        }
    }
    fn has_kernels(&self) -> Result {
        Ok(())
    }
    unsafe fn launch(&self, index: u16, stream: Stream, kernel: &Kernel, threads: usize, arguments: &[u64]) -> Result {
        assert_eq!(arguments.len(), kernel.parameters, "{}", kernel.name);
        self.enter(index)?;
        let (ptx, name) = (kernel.module.ptx(), CString::new(kernel.name).unwrap());
        // SAFETY: text that ends with a zero; the answers as above.
        let module = answer("cuModuleLoadData", |m| unsafe { kernels::cuModuleLoadData(m, ptx.as_ptr()) })?;
        // SAFETY: as above.
        let find = |f: &mut u64| unsafe { kernels::cuModuleGetFunction(f, module, name.as_ptr()) };
        let function = answer("cuModuleGetFunction", find)?;
        let places: Vec<*const u64> = arguments.iter().map(|a| &raw const *a).collect();
        let threads = threads.clamp(1, 256) as u32;
        // SAFETY: as many arguments as the kernel takes, which the caller answers for.
        let code = unsafe {
            let (places, none) = (places.as_ptr(), std::ptr::null());
            kernels::cuLaunchKernel(function, 1, 1, 1, threads, 1, 1, 0, stream, places, none)
        };
        done("cuLaunchKernel", code)
    }
}
