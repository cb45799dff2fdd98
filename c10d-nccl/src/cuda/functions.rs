//! The CUDA kernels that were loaded. Each is loaded once per device, at its first use or before, and never unloaded.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::{CString, c_void};
use std::sync::OnceLock;

use c10d_core::device::Stream;
use c10d_core::sync::Mutex;
use c10d_core::{Error, ErrorKind, Result};
use cudarc::driver::{result, sys};

use super::failure::failed;
use crate::kernels::{Kernel, Module};

/// The oldest driver that accepts the PTX, as a number of `cuDriverGetVersion`.
const OLDEST_DRIVER: i32 = 12_000;
/// The lowest compute capability for which the PTX was made (its major number).
const OLDEST_DEVICE: i32 = 7;
/// If this variable is `off`, no CUDA kernel of this crate is used. It must be the same on all ranks.
const SWITCH: &str = "C10D_CUDA_KERNELS";

const BLOCK: u32 = 256;
/// The maximum number of blocks of a launch. If there are more elements than threads, each thread processes several
/// elements.
const MOST_BLOCKS: usize = 4096;

#[derive(Default)]
pub(super) struct Functions(Mutex<Loaded>);

#[derive(Default)]
struct Loaded {
    modules: BTreeMap<(u16, Module), Handle>,
    functions: BTreeMap<(u16, &'static str), Handle>,
}

/// A `CUmodule` or `CUfunction`.
#[derive(Clone, Copy)]
struct Handle(*mut c_void);

// SAFETY: the handles of a device's context may be used on any thread.
unsafe impl Send for Handle {}

impl Functions {
    /// # Safety
    /// The device is the thread's current device. The requirements of
    /// [`CudaApi::launch`](super::CudaApi::launch) apply.
    pub(super) unsafe fn launch(
        &self,
        index: u16,
        on: Stream,
        kernel: &Kernel,
        threads: usize,
        arguments: &[u64],
    ) -> Result {
        if arguments.len() != kernel.parameters {
            let what =
                format!("{} was given {} arguments, but takes {}", kernel.name, arguments.len(), kernel.parameters);
            return Err(Error::new(ErrorKind::Internal, what));
        }
        if threads == 0 {
            return Ok(());
        }
        let function = self.function(index, kernel)?;
        let blocks = threads.div_ceil(BLOCK as usize).min(MOST_BLOCKS) as u32;
        let mut places: Vec<*mut c_void> = arguments.iter().map(|a| (&raw const *a).cast_mut().cast()).collect();
        // SAFETY: the function belongs to this device's context, and has this number of parameters. The driver reads
        // the arguments before the call returns.
        let done = unsafe {
            result::launch_kernel(function.0.cast(), (blocks, 1, 1), (BLOCK, 1, 1), 0, on as sys::CUstream, &mut places)
        };
        done.map_err(|e| failed(&format!("launching {}", kernel.name), e))
    }

    /// Loads a kernel. The device must be the thread's current one.
    pub(super) fn load(&self, index: u16, kernel: &Kernel) -> Result {
        self.function(index, kernel).map(drop)
    }

    fn function(&self, index: u16, kernel: &Kernel) -> Result<Handle> {
        let mut loaded = self.0.lock();
        if let Some(function) = loaded.functions.get(&(index, kernel.name)) {
            return Ok(*function);
        }
        let module = match loaded.modules.get(&(index, kernel.module)) {
            Some(module) => *module,
            None => {
                // SAFETY: the PTX ends with a zero byte.
                let module = unsafe { result::module::load_data(kernel.module.ptx().as_ptr().cast()) };
                let module = Handle(module.map_err(|e| failed("loading a module of kernels", e))?.cast());
                loaded.modules.insert((index, kernel.module), module);
                module
            }
        };
        let name = CString::new(kernel.name)
            .map_err(|_| Error::new(ErrorKind::Internal, "a kernel's name has a zero byte"))?;
        // SAFETY: the module was loaded above, and is never unloaded.
        let function = unsafe { result::module::get_function(module.0.cast(), name) };
        let function = function.map_err(|e| failed(&format!("looking up {}", kernel.name), e))?;
        loaded.functions.insert((index, kernel.name), Handle(function.cast()));
        Ok(Handle(function.cast()))
    }
}

/// Checks whether this crate's CUDA kernels can run on the first `devices` devices. Later calls return the result of
/// the first call.
pub(super) fn can_run(devices: usize) -> Result {
    static ANSWER: OnceLock<Result> = OnceLock::new();
    ANSWER.get_or_init(|| look(devices)).clone()
}

fn look(devices: usize) -> Result {
    if std::env::var(SWITCH).is_ok_and(|value| value.trim() == "off") {
        return Err(Error::unsupported(format!("kernels are disabled by {SWITCH}")));
    }
    let mut version = 0;
    // SAFETY: `version` is valid for writing.
    unsafe { sys::cuDriverGetVersion(&mut version).result() }
        .map_err(|e| failed("asking for the driver's version", e))?;
    if version < OLDEST_DRIVER {
        let what = format!("the CUDA driver has version {version}; kernels need {OLDEST_DRIVER}, which is CUDA 12.0");
        return Err(Error::unsupported(what));
    }
    for index in 0..devices as i32 {
        let attribute = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR;
        let device = result::device::get(index).map_err(|e| failed("getting a device", e))?;
        // SAFETY: the driver has just returned this device.
        let major = unsafe { result::device::get_attribute(device, attribute) };
        let major = major.map_err(|e| failed("asking for a device's compute capability", e))?;
        if major < OLDEST_DEVICE {
            let what = format!("cuda:{index} has compute capability {major}; kernels need {OLDEST_DEVICE}.0 or later");
            return Err(Error::unsupported(what));
        }
    }
    Ok(())
}
