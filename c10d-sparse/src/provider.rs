//! The registration of this crate's kernels.

use c10d_core::backend::{KernelRow, Provider};
use c10d_core::{DispatchKey, OpKind};

use crate::kernel;

/// The kernels of `all_reduce` on SparseCPU and SparseCUDA. They are used unless the device's backend has its own
/// sparse kernel. Their steps run on the CPU backend.
pub static PROVIDER: Provider = Provider {
    source: env!("CARGO_PKG_NAME"),
    kernels: &[
        KernelRow { op: OpKind::AllReduce, key: DispatchKey::SparseCpu, backend: None, kernel: kernel::host },
        KernelRow { op: OpKind::AllReduce, key: DispatchKey::SparseCuda, backend: None, kernel: kernel::device },
    ],
    ..Provider::EMPTY
};

c10d_core::submit!(PROVIDER);
