//! The environment of a library when it starts: the process's variables, and a fabric library if there is none.
#![allow(unsafe_code)]

use std::ffi::OsString;
use std::path::Path;

use c10d_core::library::words;
use libloading::os::unix::{Library as Handle, RTLD_LOCAL, RTLD_NOW};

use super::library::{Kind, Library};
use super::mapped::{is_fabric, mappings};

/// Runs a call with other values of some variables (`None` removes a variable), and restores them, since children of
/// this process must not inherit them. It is not safe while other threads read or write the environment in C; Rust's
/// own functions have a lock.
pub(crate) fn with_variables<T>(values: &[(&str, Option<String>)], call: impl FnOnce() -> T) -> T {
    let own: Vec<(&str, Option<OsString>)> = values.iter().map(|(name, _)| (*name, std::env::var_os(name))).collect();
    let set = |name: &str, value: Option<OsString>| match value {
        // SAFETY: as documented above. There is no other way to pass values to a library in the same process.
        Some(value) => unsafe { std::env::set_var(name, value) },
        // SAFETY: as above.
        None => unsafe { std::env::remove_var(name) },
    };
    values.iter().for_each(|(name, value)| set(name, value.clone().map(OsString::from)));
    let result = call();
    own.into_iter().for_each(|(name, value)| set(name, value));
    result
}

/// Registers a function that is called when the program ends, after `main`.
pub(crate) fn at_exit(call: extern "C" fn()) {
    // SAFETY: the function is there as long as the process, and does not unwind. Where there is no room for it, the launcher
    // is told nothing at the end.
    unsafe { libc::atexit(call) };
}

/// Loads the libfabric of a Python wheel, which the library beside it finds only through `LD_LIBRARY_PATH`. If the
/// process has one already, or the MPI library is not from a wheel, this does nothing.
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
    // SAFETY: running a library's constructors is what loading is; it lies beside the MPI library, which would load it.
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
