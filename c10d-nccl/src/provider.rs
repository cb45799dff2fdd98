//! The registration of this crate.

use std::path::PathBuf;
use std::sync::Arc;

use c10d_core::backend::{Backend, DeviceRegistration, GroupInit, KernelRow, Provider, Registration};
use c10d_core::device::DeviceRuntime;
use c10d_core::{DispatchKey, Error, OpKind, Result};

use crate::backend::Nccl;
use crate::cuda::Driver;
use crate::nccl::Library;
use crate::sparse;
use crate::start::StartOptions;

/// CUDA devices under the name `cuda`, the backend `nccl`, and its kernel for `all_reduce` with the dispatch key
/// SparseCUDA.
///
/// The backend reads these hints: `nccl.lib` (the file of the library), `nccl.device` (the number of this rank's GPU,
/// if the group's builder has no device), `nccl.check` (`off`: the ranks' calls are not compared), and `nccl.compat`
/// (the group also has ranks of PyTorch) with `nccl.compat.group` and `nccl.compat.prefix`.
pub static PROVIDER: Provider = Provider {
    source: env!("CARGO_PKG_NAME"),
    backends: &[Registration {
        name: crate::NAME,
        keys: &[DispatchKey::Cuda],
        priority: 100,
        probe: &probe,
        create: &create,
    }],
    devices: &[DeviceRegistration { name: "cuda", key: DispatchKey::Cuda, open: &open }],
    kernels: &[KernelRow {
        op: OpKind::AllReduce,
        key: DispatchKey::SparseCuda,
        backend: Some(crate::NAME),
        kernel: sparse::all_reduce,
    }],
    hints: &["nccl.lib", "nccl.device", "nccl.check", "nccl.compat", "nccl.compat.group", "nccl.compat.prefix"],
    variables: &["C10D_NCCL_LIB", "C10D_CUDA_KERNELS"],
    ..Provider::EMPTY
};

c10d_core::submit!(PROVIDER);

fn open() -> Result<Arc<dyn DeviceRuntime>> {
    Ok(Driver::get()?)
}

fn probe() -> Result {
    let missing = [crate::available().err(), Library::get(None).err()].into_iter().flatten();
    let missing: Vec<String> = missing.map(|e| e.report().what.clone()).collect();
    if missing.is_empty() { Ok(()) } else { Err(Error::unsupported(missing.join("; "))) }
}

fn create(init: &GroupInit) -> Result<Arc<dyn Backend>> {
    let cuda = Driver::get()?;
    let nccl = Library::get(init.hint("nccl.lib"))?;
    let device = init.device_index(&*cuda)?.unwrap_or_default();
    Ok(Arc::new(Nccl::connect(nccl, cuda, StartOptions::of(init, device)?)?))
}

/// Returns the path and the version of this process's libnccl. The library is loaded if it is not loaded yet.
///
/// # Errors
/// `Unsupported`, with everything that was tried, if there is no usable library.
pub fn library() -> Result<(PathBuf, String)> {
    let library = Library::get(None)?;
    Ok((library.path.clone(), library.version.to_string()))
}
