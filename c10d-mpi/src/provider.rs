//! What this crate registers.

use std::path::PathBuf;
use std::sync::Arc;

use c10d_core::backend::{Backend, GroupInit, Provider, Registration};
use c10d_core::{DispatchKey, Result};

use crate::backend::{MpiBackend, SIDE, THREAD};
use crate::mpi::{Library, VARIABLE};
use crate::world::{BOOTSTRAP, LIBRARY};

/// The CPU backend over MPI, under the name `mpi`.
///
/// Settings: hints `mpi.lib` (the library's file), `mpi.bootstrap` (`store`: the group's store tells the processes of each
/// other; `env`: their launcher does), `mpi.side` (`gloo-like` or `store`: how the ranks watch each other), `mpi.thread`
/// (`caller` or `own`: which threads call MPI; by default the backend's own unless all ranks share memory); the variable
/// `C10D_MPI_LIB` (the library's file, an absolute path).
pub static PROVIDER: Provider = Provider {
    source: env!("CARGO_PKG_NAME"),
    backends: &[Registration {
        name: crate::NAME,
        keys: &[DispatchKey::Cpu],
        // Taken where it is asked for.
        priority: 50,
        // Does not load the library, which leaves signal handlers in programs that do not use it.
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

/// Where this process's MPI library lies, and what it says of itself; loads it if that was not done yet.
///
/// # Errors
/// `Unsupported`, with all that was tried, where there is none that can be used.
pub fn library() -> Result<(PathBuf, String)> {
    let library = Library::get(None)?;
    Ok((library.path.clone(), library.version.clone()))
}
