//! The provider that this crate registers.

use std::path::PathBuf;
use std::sync::Arc;

use c10d_core::backend::{Backend, GroupInit, Provider, Registration};
use c10d_core::{DispatchKey, Result};

use crate::backend::{MpiBackend, SIDE, THREAD};
use crate::mpi::{Library, VARIABLE};
use crate::world::{BOOTSTRAP, LIBRARY};

/// The CPU backend over MPI, under the name `mpi`.
///
/// Hints: `mpi.lib` (the file of the library), `mpi.bootstrap` (`store`: processes exchange addresses through the
/// group's store; `env`: through their launcher), `mpi.side` (`gloo-like` or `store`: what the side channel uses),
/// `mpi.thread` (`caller` or `own`: the threads that call MPI; the default is `caller` if all ranks share memory, else
/// `own`). Environment variable: `C10D_MPI_LIB` (the file of the library, an absolute path).
pub static PROVIDER: Provider = Provider {
    source: env!("CARGO_PKG_NAME"),
    backends: &[Registration {
        name: crate::NAME,
        keys: &[DispatchKey::Cpu],
        // This priority is lower than gloo-like's. So `mpi` is not chosen if gloo-like is linked and the group's
        // backend map names no backend for the CPU.
        priority: 50,
        // The probe does not load the library, since loading would install signal handlers even in programs that do not
        // use MPI.
        probe: &Library::probe,
        create: &create,
    }],
    hints: &[LIBRARY, BOOTSTRAP, SIDE, THREAD],
    variables: &[VARIABLE],
    ..Provider::EMPTY
};

c10d_core::submit!(PROVIDER);

fn create(init: &GroupInit) -> Result<Arc<dyn Backend>> {
    Ok(Arc::new(MpiBackend::connect(init)?))
}

/// Returns the path and the version text of this process's MPI library. Loads the library if it is not loaded yet.
///
/// # Errors
/// `Unsupported` if no usable library was found. The error lists all files that were tried.
pub fn library() -> Result<(PathBuf, String)> {
    let library = Library::get(None)?;
    Ok((library.path.clone(), library.version.clone()))
}
