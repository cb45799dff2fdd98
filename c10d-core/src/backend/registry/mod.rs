//! The registry of backends and kernels. Crates submit them at link time, programs list them in the builder, and
//! plugins add them at run time.

mod backend_map;
mod collect;
mod init_method;
mod offers;
mod open;
mod plugins;
mod provider;
mod settings;

pub use backend_map::BackendMap;
use backend_map::Named;
pub use collect::{Registry, TableRow};
pub use init_method::{InitMethod, Joined};
pub(crate) use offers::{Choice, Offer, key_and_slot, offers};
pub use plugins::{PluginLoader, PluginSearch};
pub use provider::{DeviceRegistration, Kernel, KernelRow, Provider, Registration, Submitted};
pub(crate) use settings::check as check_settings;

use super::{Job, KernelContext};
use crate::catalog::{OpKind, declared};
use crate::types::{DispatchKey, KeySet};
use crate::waiting;

/// The kernel of every row with a dense dispatch key. It passes the job to the backend that serves the key.
pub(crate) fn forward(ctx: KernelContext<'_>, job: Job) {
    ctx.backend().submit(job);
}

/// Returns whether a kernel is [`forward`].
pub(crate) fn forwards(kernel: Kernel) -> bool {
    std::ptr::fn_addr_eq(kernel, forward as Kernel)
}

const DENSE: usize = declared(KeySet::DENSE);

const fn dense_rows() -> [KernelRow; DENSE] {
    let mut rows = [KernelRow { op: OpKind::Send, key: DispatchKey::Cpu, backend: None, kernel: forward }; DENSE];
    let (mut n, mut op) = (0, 0);
    while op < OpKind::ALL.len() {
        let mut k = 0;
        while k < DispatchKey::ALL.len() {
            let key = DispatchKey::ALL[k];
            if KeySet::DENSE.contains(key) && OpKind::ALL[op].row().keys.contains(key) {
                rows[n] = KernelRow { op: OpKind::ALL[op], key, backend: None, kernel: forward };
                n += 1;
            }
            k += 1;
        }
        op += 1;
    }
    rows
}

/// Core's own provider. It has the kernels of the dense rows, and no backend.
pub(crate) static CORE: Provider = Provider {
    source: env!("CARGO_PKG_NAME"),
    kernels: {
        const ROWS: [KernelRow; DENSE] = dense_rows();
        &ROWS
    },
    hints: &["staged.chunk", waiting::HINT],
    variables: &[waiting::VARIABLE],
    ..Provider::EMPTY
};
