//! Detects CUDA without calls that would panic if CUDA is missing.
#![allow(unsafe_code)]

use c10d_core::library::words;
use c10d_core::process::PerProcess;
use c10d_core::sync::Mutex;
use c10d_core::{Error, Result};
use cudarc::driver::result::{self, DriverError};
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

use super::failure::describe;

/// The names of the driver's library.
const NAMES: [&str; 2] = ["libcuda.so.1", "libcuda.so"];

/// The functions of the driver that this crate calls. An older driver that lacks one is rejected here, since cudarc
/// panics at the call of a missing function.
const SYMBOLS: [&str; 33] = [
    "cuCtxGetStreamPriorityRange",
    "cuCtxSetCurrent",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceGetCount",
    "cuDeviceGetUuid_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDriverGetVersion",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventQuery",
    "cuEventRecord",
    "cuGetErrorName",
    "cuGetErrorString",
    "cuInit",
    "cuLaunchKernel",
    "cuMemAlloc_v2",
    "cuMemFreeHost",
    "cuMemFree_v2",
    "cuMemGetInfo_v2",
    "cuMemHostAlloc",
    "cuMemcpyDtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuModuleGetFunction",
    "cuModuleLoadData",
    "cuPointerGetAttribute",
    "cuStreamCreateWithPriority",
    "cuStreamDestroy_v2",
    "cuStreamGetCtx",
    "cuStreamIsCapturing",
    "cuStreamWaitEvent",
    "cuThreadExchangeStreamCaptureMode",
];

/// Returns the number of CUDA devices, which is at least one.
///
/// # Errors
/// `Unsupported`, with everything that was tried, if there is no driver, if it is too old, or if there is no device.
pub fn available() -> Result<u16> {
    // A success is cached. After a failure, the next call tries again.
    static FOUND: PerProcess<Mutex<Option<u16>>> = PerProcess::new();
    let mut found = FOUND.get().lock();
    if let Some(count) = *found {
        return Ok(count);
    }
    let count = look()?;
    *found = Some(count);
    Ok(count)
}

fn look() -> Result<u16> {
    let mut tried = Vec::new();
    let open = |name: &&str| {
        // SAFETY: this is the driver's library. Loading it runs its constructors, as in every CUDA program.
        unsafe { Library::open(Some(*name), RTLD_NOW | RTLD_LOCAL) }
            .map_err(|e| tried.push(format!("{name}: {}", words(&e))))
            .ok()
    };
    let Some(library) = NAMES.iter().find_map(open) else {
        return Err(Error::unsupported(format!("no CUDA driver; tried {}", tried.join("; "))));
    };
    // SAFETY: the functions are only looked up, not called.
    let lacks =
        |symbol: &&&str| unsafe { library.get::<unsafe extern "C" fn()>(format!("{symbol}\0").as_bytes()) }.is_err();
    let missing: Vec<&str> = SYMBOLS.iter().filter(lacks).copied().collect();
    if !missing.is_empty() {
        return Err(Error::unsupported(format!("the CUDA driver is too old: it lacks {}", missing.join(", "))));
    }
    result::init().map_err(|e| refused("cannot be initialized", e))?;
    let count = result::device::get_count().map_err(|e| refused("cannot count its devices", e))?;
    match u16::try_from(count) {
        Ok(count) if count > 0 => Ok(count),
        _ => Err(Error::unsupported("the CUDA driver has no device; check CUDA_VISIBLE_DEVICES and nvidia-smi")),
    }
}

fn refused(what: &str, e: DriverError) -> Error {
    Error::unsupported(format!("the CUDA driver {what}: {}", describe(e)))
}
