//! The environment in which the library starts: the process's variables, and a libfabric if the library cannot find
//! one.
#![allow(unsafe_code)]

use std::ffi::OsString;
use std::path::Path;

use c10d_core::library::words;
use libloading::os::unix::{Library as Handle, RTLD_LOCAL, RTLD_NOW};

use super::library::{Kind, Library};
use super::mapped::{is_fabric, mappings};

/// Runs `call` with other values of some environment variables (`None` removes a variable). Restores them afterwards,
/// since children of this process must not inherit them. This is not safe while other threads read or write the
/// environment in C; the functions of Rust have a lock.
pub(crate) fn with_variables<T>(values: &[(&str, Option<String>)], call: impl FnOnce() -> T) -> T {
    let own: Vec<(&str, Option<OsString>)> = values.iter().map(|(name, _)| (*name, std::env::var_os(name))).collect();
    let set = |name: &str, value: Option<OsString>| match value {
        // SAFETY: the caller accepts the risk in the function's doc. A library in the same process gets values in no
        // other way.
        Some(value) => unsafe { std::env::set_var(name, value) },
        // SAFETY: the caller accepts the risk in the function's doc.
        None => unsafe { std::env::remove_var(name) },
    };
    values.iter().for_each(|(name, value)| set(name, value.clone().map(OsString::from)));
    let result = call();
    own.into_iter().for_each(|(name, value)| set(name, value));
    result
}

/// Registers a function that is called when the program ends, after `main`.
pub(crate) fn at_exit(call: extern "C" fn()) {
    // SAFETY: the function exists as long as the process, and does not unwind. If it cannot be registered, MPI is not
    // finalized.
    unsafe { libc::atexit(call) };
}

/// Loads the libfabric of a Python wheel, since the MPI library next to it finds it only through `LD_LIBRARY_PATH`.
/// Returns the variable that MPI needs for this libfabric. Returns `None` if the MPI library is not from a wheel, the
/// process already has a libfabric, or it cannot be loaded.
pub(crate) fn preload_fabric(library: &Library) -> Option<(&'static str, String)> {
    let folder = library.path.parent()?;
    let fabric = folder.join("libfabric.so.1");
    let is_wheel = library.kind == Kind::Intel && folder.join("libmpi_shm_heap_proxy.so").exists() && fabric.exists();
    if !is_wheel || mappings().iter().any(is_fabric) {
        return None;
    }
    load(&fabric)?;
    Some(("FI_PROVIDER_PATH", folder.to_str()?.to_owned()))
}

fn load(path: &Path) -> Option<()> {
    // SAFETY: loading runs the constructors of the library. It is in the MPI library's own folder, and belongs to it.
    match unsafe { Handle::open(Some(path), RTLD_NOW | RTLD_LOCAL) } {
        Ok(handle) => {
            std::mem::forget(handle);
            Some(())
        }
        Err(e) => {
            tracing::debug!(target: "c10d", "{} is not loaded: {}", path.display(), words(&e));
            None
        }
    }
}
